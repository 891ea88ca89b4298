"""Routing by meaning through the real Envoy, seen from the client's side and from the model's side."""

from __future__ import annotations

import json
import subprocess
import time
from itertools import pairwise

import httpx2 as httpx
import openai
import pytest

from tests.e2e.stack import Stack

PROOF = "Prove that the square root of two is irrational."
CODE = "Write a Python function that merges two sorted lists."
CHAT = "hi there, how was your weekend?"
DECISION_HEADERS = ["category", "confidence", "decision", "model", "reasoning"]


def ask(client: openai.OpenAI, text: str, model: str = "auto", **fields: object) -> tuple[httpx.Headers, str]:
    """Ask one question; return the response headers and the answer."""
    raw = client.chat.completions.with_raw_response.create(model=model, messages=[{"role": "user", "content": text}], **fields)
    return raw.headers, raw.parse().choices[0].message.content or ""


@pytest.mark.parametrize(
    ("text", "model", "category"),
    [(CHAT, "small", "other"), (PROOF, "large", "math"), (CODE, "coder", "computer science")],
)
def test_a_question_goes_to_the_model_that_fits_it(client: openai.OpenAI, text: str, model: str, category: str) -> None:
    """Small talk goes to the small model, a proof to the large one, code to the coder. Each answer says what was chosen."""
    headers, answer = ask(client, text)
    assert headers["x-vsr-selected-model"] == model
    assert headers["x-vsr-selected-category"] in (category, "none")
    assert headers["x-vsr-response-path"] == "upstream"
    assert 0 <= float(headers["x-vsr-selected-confidence"]) <= 1
    assert all(f"x-vsr-selected-{name}" in headers for name in DECISION_HEADERS)
    assert model in answer


def test_the_seeds_own_curl_works_verbatim(stack: Stack) -> None:
    """It is the README's command with another port."""
    command = (
        f"curl -sS -X POST {stack.url}/v1/chat/completions "
        '-H "Content-Type: application/json" -H "Authorization: Bearer test-token" '
        '-d \'{"model":"auto","messages":[{"role":"system","content":"You are a helpful assistant."},'
        '{"role":"user","content":"What are the main renewable energy sources?"}],"temperature":0.7}\''
    )
    done = subprocess.run(command, shell=True, capture_output=True, check=True, timeout=30)  # noqa: S602 - our own text
    answer = json.loads(done.stdout)
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["content"]


def test_a_named_model_is_kept(client: openai.OpenAI) -> None:
    """The question does not matter."""
    headers, answer = ask(client, PROOF, model="coder")
    assert (headers["x-vsr-selected-model"], headers["x-vsr-selected-decision"]) == ("coder", "explicit_model")
    assert "coder" in answer


def test_an_alias_is_decided_as_auto_is(client: openai.OpenAI) -> None:
    """Clients of vLLM Semantic Router send `MoM`."""
    headers, _ = ask(client, PROOF, model="MoM")
    assert headers["x-vsr-selected-model"] == "large"


def test_an_unknown_model_is_a_404_that_names_the_known_ones(client: openai.OpenAI) -> None:
    """The OpenAI client raises its NotFoundError."""
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client, CHAT, model="gpt-9")
    assert caught.value.code == "model_not_found"
    assert "auto" in str(caught.value)
    assert "coder" in str(caught.value)
    assert caught.value.response.headers["x-vsr-response-path"] == "error"


def test_models_are_listed_and_shown(client: openai.OpenAI) -> None:
    """The list holds the names that a client may send, and nothing else."""
    names = [model.id for model in client.models.list()]
    assert names == ["auto", "MoM", "small", "large", "coder"]
    assert client.models.retrieve("small").id == "small"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nope")


def test_the_body_reaches_the_model_byte_for_byte_but_for_what_was_decided(stack: Stack, request_id: str) -> None:
    """Vendor fields, number formats, Unicode and spacing survive. A body with a named model that fits stays as it is."""
    body = (
        '{ "vendor": {"x": [1.0e2, 0.70, 12345678901234567890]},"model" :"coder",\n"messages": '
        '[{"role":"user","content":"h\\u00e9llo é 😀 \\ud83d"}], "max_tokens": 5 }'
    )
    headers = {"x-request-id": request_id, "content-type": "application/json"}
    response = httpx.post(f"{stack.url}/v1/chat/completions", content=body.encode(), headers=headers, timeout=30)
    assert response.status_code == 200
    assert stack.seen("coder", request_id)["body"] == body


def test_the_decision_reaches_the_model_as_model_prompt_and_switch(stack: Stack, request_id: str) -> None:
    """For mathematics these are the served name, the family's reasoning switch, and a system prompt before the client's."""
    body = {"model": "auto", "messages": [{"role": "user", "content": PROOF}], "max_tokens": 5, "x_vendor": 1.50}
    response = httpx.post(f"{stack.url}/v1/chat/completions", json=body, headers={"x-request-id": request_id}, timeout=30)
    assert response.headers["x-vsr-selected-reasoning"] == "on"
    seen = stack.seen("large", request_id)
    sent = json.loads(seen["body"])
    assert sent["model"] == "large"
    assert sent["messages"][-1] == body["messages"][0]
    assert sent["messages"][0]["role"] == "system"
    assert sent.get("reasoning_effort") or sent["chat_template_kwargs"]
    assert sent["x_vendor"] == 1.50
    assert "x-upstream-cluster" not in seen["headers"]


def test_the_explicit_off_is_sent(stack: Stack, request_id: str) -> None:
    """Small talk needs no thinking, and templates that think by default must be told so."""
    body = {"model": "auto", "messages": [{"role": "user", "content": CHAT}], "max_tokens": 5}
    response = httpx.post(f"{stack.url}/v1/chat/completions", json=body, headers={"x-request-id": request_id}, timeout=30)
    assert response.headers["x-vsr-selected-reasoning"] == "off"
    assert json.loads(stack.seen("small", request_id)["body"])["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize("name", ["x-upstream-cluster", "X-Upstream-Cluster"])
def test_a_client_cannot_choose_the_cluster(stack: Stack, name: str) -> None:
    """It cannot use that header, nor repeat it, nor send the headers that describe a decision."""
    headers = [
        (name, "large"),
        (name, "coder"),
        ("x-vsr-selected-model", "spoof"),
        ("content-type", "application/json"),
    ]
    body = json.dumps({"model": "small", "messages": [{"role": "user", "content": CHAT}], "max_tokens": 3})
    response = httpx.post(f"{stack.url}/v1/chat/completions", content=body, headers=headers, timeout=30)
    assert response.headers["x-vsr-selected-model"] == "small"
    assert response.json()["model"] == "small"
    other = httpx.get(f"{stack.url}/version", headers=headers, timeout=30)
    assert other.headers["x-vsr-response-path"] == "bypass"
    assert "x-vsr-selected-model" not in other.headers


def test_streams_are_routed_too_and_flow_token_by_token(client: openai.OpenAI) -> None:
    """The chunks arrive as the model makes them, not together at the end."""
    arrivals, text = [], ""
    with client.chat.completions.with_streaming_response.create(
        model="auto",
        messages=[{"role": "user", "content": CODE}],
        stream=True,
        extra_headers={"x-sim-token-ms": "20", "x-sim-answer-tokens": "30"},
    ) as response:
        assert response.headers["x-vsr-selected-model"] == "coder"
        for chunk in response.parse():
            arrivals.append(time.monotonic())
            text += chunk.choices[0].delta.content or ""
    assert text
    assert len(arrivals) >= 30
    assert arrivals[-1] - arrivals[0] > 0.3
    assert max(later - earlier for earlier, later in pairwise(arrivals)) < 0.3


def test_a_stream_gets_no_usage_chunk_that_it_did_not_ask_for(client: openai.OpenAI) -> None:
    """A client that asked for it gets it."""
    question = {"model": "auto", "messages": [{"role": "user", "content": CHAT}], "stream": True, "max_tokens": 5}
    plain = list(client.chat.completions.create(**question))
    assert all(chunk.choices for chunk in plain)
    asked = list(client.chat.completions.create(**question, stream_options={"include_usage": True}))
    assert asked[-1].usage is not None
    assert asked[-1].choices == []


def test_legacy_endpoints_go_by_model_name(client: openai.OpenAI) -> None:
    """Completions and embeddings of a known model reach its cluster. An unknown model is refused."""
    assert client.completions.create(model="large", prompt="once upon a time", max_tokens=5).model == "large"
    assert len(client.embeddings.create(model="small", input="text").data[0].embedding) > 0
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="nope", input="text")
    with pytest.raises(openai.BadRequestError, match="embedding model"):
        client.embeddings.create(model="auto", input="text")


def test_other_paths_pass_untouched(stack: Stack) -> None:
    """They go to the default cluster, and the router is not asked."""
    response = httpx.get(f"{stack.url}/health", timeout=10)
    assert (response.status_code, response.headers["x-vsr-response-path"]) == (200, "bypass")


def test_an_answer_in_json_keeps_its_length(stack: Stack) -> None:
    """The response does not pass the router, so Envoy does not make it chunked."""
    body = {"model": "small", "messages": [{"role": "user", "content": CHAT}], "max_tokens": 3}
    response = httpx.post(f"{stack.url}/v1/chat/completions", json=body, timeout=30)
    assert "content-length" in response.headers
