"""The cache through the real Envoy, with the real OpenAI client, on Milvus Lite as it comes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest

from tests.e2e.stack import STACKS, Stack, running, wait_for

SEED = (
    """curl -s -X POST http://localhost:{port}/v1/chat/completions -H "Content-Type: application/json" """
    """-H "Authorization: Bearer test-token" -d '{{"model":"auto","messages":[{{"role":"system","content":"You are a helpful """
    """assistant."}},{{"role":"user","content":"What are the main renewable energy sources?"}}],"temperature":0.7}}' -D -"""
)
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


def switch_on(config: dict[str, Any]) -> None:
    """Switch the cache on as the seed writes it, with waiting for equal questions."""
    config["semantic_cache"] = {
        "enabled": True,
        "backend_type": "milvus",
        "similarity_threshold": 0.8,
        "max_entries": 1000,
        "ttl_seconds": 3600,
        "eviction_policy": "fifo",
        "coalesce_timeout_seconds": 20,
        "lookup_timeout_ms": 2000,  # two busy cores: whether a lookup is late is tested elsewhere
    }


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A shared stack: each test asks what no other asks, or as another principal."""
    with running(tmp_path_factory.mktemp("cached"), edit_config=switch_on) as stack:
        yield stack


@pytest.fixture
def client(cached: Stack) -> Iterator[openai.OpenAI]:
    """A client with a principal of this test's own."""
    with cached.client(uuid.uuid4().hex, timeout_s=60) as made:
        yield made


class Asked:
    """An answer with what its headers say."""

    def __init__(self, raw: Any, is_stream: bool) -> None:
        self.headers = raw.headers
        self.is_hit = raw.headers["x-vsr-cache-hit"] == "true"
        self.status = raw.headers["x-vsr-cache-status"]
        if is_stream:
            # To its end: the client would hang up at [DONE], and an answer whose end did not pass the router is not stored.
            raw.http_response.read()
            self.chunks = list(raw.parse())
            self.text = "".join(chunk.choices[0].delta.content or "" for chunk in self.chunks if chunk.choices)
        else:
            self.answer = raw.parse()
            self.text = self.answer.choices[0].message.content or ""


def ask(client: openai.OpenAI, text: str, *, system: str = "", headers: dict[str, str] | None = None, **fields: Any) -> Asked:
    """Ask one question, and wait until its answer is stored if it may be."""
    messages = [{"role": "system", "content": system}] if system else []
    messages = fields.pop("messages", [*messages, {"role": "user", "content": text}])
    pace = {"x-sim-token-ms": "1", "x-sim-answer-tokens": "40", **(headers or {})}
    raw = client.chat.completions.with_raw_response.create(model="auto", messages=messages, extra_headers=pace, **fields)
    asked = Asked(raw, bool(fields.get("stream")))
    STACKS[str(client.base_url)].wait_until_idle()
    return asked


def test_the_seeds_curl_misses_and_then_hits(cached: Stack) -> None:
    """The command is verbatim. The second answer is the same byte for byte, under a new id."""
    answers = []
    for is_hit in ("false", "true"):
        out = subprocess.run(["bash", "-c", SEED.format(port=cached.envoy_port)], capture_output=True, check=True).stdout
        head, _, body = out.partition(b"\r\n\r\n")
        assert f"x-vsr-cache-hit: {is_hit}".encode() in head
        standard = b"hit; detail=exact" if is_hit == "true" else b"fwd=miss; detail=empty"
        assert b"\r\ncache-status: semantic-router; " + standard + b"\r\n" in head
        answers.append(json.loads(body))
        cached.wait_until_idle()
    one, other = answers
    assert one["choices"] == other["choices"]
    assert one["usage"] == other["usage"]
    assert one["id"] != other["id"]


def test_a_hit_says_what_it_is(client: openai.OpenAI) -> None:
    """Its headers give the entry, its age, the similarity and the decision."""
    assert ask(client, "What is a mutex?").status == "miss:empty"
    asked = ask(client, "what's a mutex?")
    assert asked.is_hit
    assert asked.status == "hit:semantic"
    assert 0.9 < float(asked.headers["x-vsr-cache-similarity"]) < 1
    assert re.fullmatch("[0-9a-f]{32}-[0-9a-f]{32}", asked.headers["x-vsr-cache-entry"])
    assert int(asked.headers["x-vsr-cache-age"]) < 60
    assert asked.headers["x-vsr-response-path"] == "cache"
    assert asked.headers["x-vsr-selected-model"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("What is 17 times 23?", "What is 17 times 24?"),
        ("How do I enable two-factor authentication?", "How do I disable two-factor authentication?"),
        ("What is the refund policy for shoes?", "What is the refund policy for jackets?"),
        ("What is the distance from Paris to London?", "What is the distance from Paris to Madrid?"),
        ("flights from Rome to Oslo", "flights from Oslo to Rome"),
    ],
)
def test_a_question_that_only_looks_alike_misses(client: openai.OpenAI, first: str, second: str) -> None:
    """No similarity is high enough."""
    assert not ask(client, first).is_hit
    assert not ask(client, second).is_hit
    assert ask(client, first).is_hit


def test_another_system_prompt_misses(client: openai.OpenAI) -> None:
    """Its own answer is stored separately."""
    assert not ask(client, "What is a monad?", system="Answer in one word.").is_hit
    assert not ask(client, "What is a monad?", system="Answer at length.").is_hit
    assert ask(client, "What is a monad?", system="Answer in one word.").is_hit


def test_another_user_misses(cached: Stack, client: openai.OpenAI) -> None:
    """Nobody gets what was answered to another user. A request without a user gets nothing."""
    assert not ask(client, "What is a semaphore?").is_hit
    assert ask(client, "What is a semaphore?").is_hit
    assert not ask(client.with_options(api_key="somebody-else"), "What is a semaphore?").is_hit
    body = {"model": "auto", "messages": [{"role": "user", "content": "What is a semaphore?"}], "max_tokens": 3}
    forged = {"cache-status": "ExampleCache; hit"}
    response = httpx.post(f"{cached.url}/v1/chat/completions", json=body, headers=forged, timeout=30)
    assert response.headers["x-vsr-cache-status"] == "skipped:no_scope"
    assert response.headers["cache-status"] == "semantic-router; fwd=bypass; detail=no_scope"


def test_an_agents_loop_never_hits(client: openai.OpenAI) -> None:
    """This holds with tools on offer and with their results."""
    user = {"role": "user", "content": "Find the file."}
    call = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
    }
    for messages in ([user], [user, call, {"role": "tool", "tool_call_id": "c", "content": "x"}]):
        for _ in range(2):
            assert ask(client, "", messages=messages, tools=TOOLS).status.startswith("skipped:")


@pytest.mark.parametrize("first_streams", [True, False])
def test_streams_and_json_share_answers(client: openai.OpenAI, first_streams: bool) -> None:
    """Code keeps its line breaks and indentation either way."""
    text = f"Write a Python function that sorts a list, variant {'one' if first_streams else 'two'}."
    whole = {"x-sim-answer-tokens": "200"}
    first = ask(client, text, stream=first_streams, headers=whole)
    second = ask(client, text, stream=not first_streams, headers=whole)
    third = ask(client, text, stream=first_streams, headers=whole)
    assert not first.is_hit
    assert [second.status, third.status] == ["hit:exact", "hit:exact"]
    assert first.text == second.text == third.text
    assert "\n    " in first.text


def test_a_replayed_stream_is_read_as_a_live_one(client: openai.OpenAI) -> None:
    """The role comes first, then the text, the finish reason, and usage if it was requested."""
    for is_hit in (False, True):
        asked = ask(client, "Explain photosynthesis briefly.", stream=True, stream_options={"include_usage": True})
        assert asked.is_hit is is_hit
        assert asked.chunks[0].choices[0].delta.role == "assistant"
        assert [chunk.choices[0].finish_reason for chunk in asked.chunks if chunk.choices][-1] == "stop"
        assert asked.chunks[-1].usage.completion_tokens > 0
        assert asked.headers["content-type"].startswith("text/event-stream")
    plain = ask(client, "Explain photosynthesis briefly.", stream=True)
    assert plain.is_hit
    assert all(chunk.usage is None for chunk in plain.chunks)


def test_what_a_client_asks_for(client: openai.OpenAI) -> None:
    """This covers `no-cache`, `no-store` and `only-if-cached`, as HTTP defines them."""
    question = "What is a B-tree?"
    assert not ask(client, question, headers={"Cache-Control": "no-store"}).is_hit
    assert not ask(client, question).is_hit
    assert ask(client, question).is_hit
    assert not ask(client, question, headers={"Cache-Control": "no-cache"}).is_hit
    assert ask(client, question, headers={"Cache-Control": "only-if-cached"}).is_hit
    with pytest.raises(openai.InternalServerError) as caught:
        ask(client, "What is a red-black tree?", headers={"Cache-Control": "only-if-cached"})
    assert caught.value.status_code == 504
    assert caught.value.body["code"] == "not_cached"  # type: ignore[index]


@pytest.mark.parametrize("headers", [{"x-sim-answer-tokens": "1000"}, {"x-sim-status": "500"}])
def test_what_is_not_whole_is_not_stored(client: openai.OpenAI, headers: dict[str, str]) -> None:
    """This covers answers cut off by a length, and errors."""
    for _ in range(2):
        with contextlib.suppress(openai.InternalServerError):
            asked = ask(client, "Tell me about rivers.", headers=headers, max_tokens=5)
            assert asked.answer.choices[0].finish_reason == "length"
            assert not asked.is_hit


def test_a_client_that_leaves_in_the_middle_leaves_nothing_behind(cached: Stack, client: openai.OpenAI) -> None:
    """A stream that was not read to its end is not an answer."""
    question = "Describe the water cycle."
    body = {"model": "auto", "messages": [{"role": "user", "content": question}], "stream": True}
    headers = {"authorization": f"Bearer {client.api_key}", "x-sim-token-ms": "30", "x-sim-answer-tokens": "60"}
    with httpx.stream("POST", f"{cached.url}/v1/chat/completions", json=body, headers=headers, timeout=30) as response:
        next(response.iter_bytes())
    cached.wait_until_idle()
    assert not ask(client, question).is_hit


async def test_two_hundred_equal_questions_are_one_call(cached: Stack) -> None:
    """Half of them are streamed. Every one gets the whole answer."""
    request_id = str(uuid.uuid4())
    before = upstream_calls(cached)
    async with openai.AsyncOpenAI(base_url=f"{cached.url}/v1", api_key="crowd", max_retries=0, timeout=60) as client:

        async def one(number: int) -> str:
            message = [{"role": "user", "content": "What is eventual consistency?"}]
            pace = {"x-sim-token-ms": "20", "x-sim-answer-tokens": "40", "x-request-id": request_id}
            if number % 2:
                stream = await client.chat.completions.create(model="auto", messages=message, stream=True, extra_headers=pace)  # type: ignore[call-overload]
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
            answer = await client.chat.completions.create(model="auto", messages=message, extra_headers=pace)  # type: ignore[call-overload]
            return str(answer.choices[0].message.content)

        answers = await asyncio.gather(*map(one, range(200)))
    assert len(set(answers)) == 1
    assert answers[0]
    assert upstream_calls(cached) - before == 1


async def test_equal_questions_are_one_call_to_an_empty_cache_too(cached: Stack) -> None:
    """At a start and after a purge, many clients ask at once."""
    assert "deleted" in cli(cached, "invalidate", "--all")
    before = upstream_calls(cached)
    pace = {"x-sim-token-ms": "20", "x-sim-answer-tokens": "40"}
    async with openai.AsyncOpenAI(base_url=f"{cached.url}/v1", api_key="early", max_retries=0, timeout=60) as client:
        message = [{"role": "user", "content": "What is a write-ahead log?"}]
        asks = (client.chat.completions.create(model="auto", messages=message, extra_headers=pace) for _ in range(20))  # type: ignore[call-overload]
        answers = await asyncio.gather(*asks)
    assert len({answer.choices[0].message.content for answer in answers}) == 1
    assert upstream_calls(cached) - before == 1


def upstream_calls(stack: Stack) -> int:
    """The number of requests that models have received."""
    return sum(stack.envoy_stat(f"cluster.{name}.upstream_rq_total") for name in ("small", "large", "coder"))


def cli(stack: Stack, *arguments: str, status: int = 0) -> str:
    """The output of `semantic-router cache` against the running router, which must end with this status."""
    command = [sys.executable, "-m", "router", "cache", "--admin", f"127.0.0.1:{stack.admin_port}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stdout + done.stderr


class TestOperators:
    def test_a_wrong_hit_is_rejected_and_not_given_again(self, cached: Stack, client: openai.OpenAI) -> None:
        """The rejection uses what the client saw, and holds in both directions."""
        ask(client, "What is the capital of Peru?")
        wrong = ask(client, "What's the capital of Peru?")
        assert wrong.is_hit
        assert "deleted" in cli(cached, "reject", wrong.headers["x-vsr-cache-entry"])
        assert not ask(client, "What is the capital of Peru?").is_hit
        assert ask(client, "What is the capital of Peru?").status == "hit:exact"
        assert ask(client, "What's the capital of Peru?").status == "miss:rejected"
        cli(cached, "invalidate", "--all")
        assert ask(client, "What's the capital of Peru?").status == "miss:empty"
        assert ask(client, "What is the capital of Peru?").status == "miss:rejected"

    def test_entries_are_found_shown_and_purged(self, cached: Stack, client: openai.OpenAI) -> None:
        """This works by text, and then by id."""
        ask(client, "What is a zygohistomorphic prepromorphism?")
        (line,) = [line for line in cli(cached, "search", "zygohistomorphic").splitlines() if "zygohistomorphic" in line]
        entry_id = line.split()[0]
        shown = json.loads(cli(cached, "get", entry_id))
        assert shown["answer"]["choices"][0]["message"]["content"]
        assert client.api_key not in json.dumps(shown)
        assert cli(cached, "invalidate", "--id", entry_id, "--dry-run").startswith("1 entry would")
        assert ask(client, "What is a zygohistomorphic prepromorphism?").is_hit
        assert cli(cached, "invalidate", "--id", entry_id).startswith("1 entry deleted")
        assert not ask(client, "What is a zygohistomorphic prepromorphism?").is_hit

    def test_entries_survive_export_purge_and_import(self, cached: Stack, client: openai.OpenAI, tmp_path: Path) -> None:
        """The file has JSON lines."""
        ask(client, "What is a Merkle tree?")
        file = tmp_path / "entries.jsonl"
        cli(cached, "export", str(file))
        cli(cached, "invalidate", "--all")
        assert not ask(client, "What is a Merkle tree?", headers={"Cache-Control": "no-store"}).is_hit
        assert "entries imported" in cli(cached, "import", str(file))
        assert ask(client, "What is a Merkle tree?").is_hit

    def test_the_cache_is_warmed_from_a_file(self, cached: Stack, client: openai.OpenAI, tmp_path: Path) -> None:
        """The questions are asked through Envoy, for a principal."""
        file = tmp_path / "questions.jsonl"
        file.write_text(json.dumps({"prompt": "What is a Bloom filter?"}) + "\n")
        value = tmp_path / "value"
        value.write_text(f"Bearer {client.api_key}\n")
        warm = ("warm", str(file), "--url", cached.url, "--scope-value-file", str(value))
        assert cli(cached, *warm).endswith("1 stored, 0 already stored\n")
        assert ask(client, "What is a Bloom filter?").is_hit
        assert cli(cached, *warm).endswith("0 stored, 1 already stored\n")
        said = cli(cached, "warm", str(file), "--url", cached.url, status=2)
        assert "give its value with --authorization or --scope-value-file" in said

    def test_a_principal_is_purged_by_the_headers_own_value(self, cached: Stack, client: openai.OpenAI, tmp_path: Path) -> None:
        """Only the router can hide the value. No other principal loses anything."""
        other = client.with_options(api_key=uuid.uuid4().hex)
        for who in (client, other):
            assert not ask(who, "What is a skip list?").is_hit
        (tmp_path / "value").write_text(f"Bearer {client.api_key}\n")
        purge = ("invalidate", "--scope-value-file", str(tmp_path / "value"))
        assert cli(cached, *purge) == "1 entry deleted\n"
        assert cli(cached, *purge, status=1).startswith("0 entries deleted\nno entry of this router matches")
        assert not ask(client, "What is a skip list?", headers={"Cache-Control": "no-store"}).is_hit
        assert ask(other, "What is a skip list?").is_hit
        assert "--scope-value-file" in cli(cached, "invalidate", "--scope", client.api_key[:8], status=2)

    def test_counts_and_metrics_are_there(self, cached: Stack, client: openai.OpenAI) -> None:
        """They show hits by tier, misses by reason, and the store's state."""
        ask(client, "What is a ring buffer?")
        ask(client, "What is a ring buffer?")
        stats = json.loads(cli(cached, "stats"))
        assert stats["hits"]["exact"] > 0
        assert stats["store"]["is_up"] is True
        page = httpx.get(f"{cached.admin_url}/metrics").text
        assert 'llm_cache_hits_total{decision="' in page
        assert "llm_cache_store_up 1.0" in page


def test_what_was_stored_is_there_after_a_restart(tmp_path: Path) -> None:
    """Milvus Lite keeps a file. A killed router loses only what it was about to write."""
    with running(tmp_path, edit_config=switch_on) as stack:
        client = stack.client("k", timeout_s=60)
        first = ask(client, "What is a tombstone in databases?")
        assert not first.is_hit
        wait_for(lambda: json.loads(cli(stack, "stats"))["store"]["waiting"] == 0, "the store")
        stack.kill("router", signal.SIGTERM)
        stack.start_router()
        stack.wait_until_routing()
        wait_for(lambda: ask(client, "anything", max_tokens=1).headers["x-vsr-response-path"] != "bypass", "routing")
        second = ask(client, "What's a tombstone in databases?")
        assert second.is_hit
        assert second.text == first.text
        client.close()


def test_a_stream_that_is_recorded_survives_the_death_of_the_router(tmp_path: Path) -> None:
    """Every event arrives, though each was on its way through the router."""

    def in_memory(config: dict[str, Any]) -> None:
        config["semantic_cache"] = {"enabled": True, "backend_type": "memory"}

    with running(tmp_path, edit_config=in_memory) as stack:
        body = {"model": "auto", "messages": [{"role": "user", "content": "Describe the water cycle."}], "stream": True}
        headers = {"authorization": "Bearer k", "x-sim-token-ms": "30", "x-sim-answer-tokens": "40"}
        data = ""
        with httpx.stream("POST", f"{stack.url}/v1/chat/completions", json=body, headers=headers, timeout=30) as response:
            for count, text in enumerate(response.iter_text()):
                data += text
                if count == 4:
                    stack.kill("router")
        assert response.headers["x-vsr-cache-status"] == "miss:empty"
        assert data.count("data:") >= 42
        assert data.rstrip().endswith("data: [DONE]")


def test_shadow_serves_nothing_and_counts(tmp_path: Path) -> None:
    """An operator can look at the counts before switching the cache on."""

    def shadow(config: dict[str, Any]) -> None:
        config["semantic_cache"] = {"enabled": True, "backend_type": "memory", "shadow": True}

    with running(tmp_path, edit_config=shadow) as stack:
        client = stack.client("k", timeout_s=60)
        assert ask(client, "What is a trie?").status == "miss:empty"
        second = ask(client, "What is a trie?")
        assert not second.is_hit
        assert second.status == "shadow:exact"
        assert "llm_cache_shadow_hits_total" in httpx.get(f"{stack.admin_url}/metrics").text
        client.close()


def test_questions_and_answers_are_in_no_log(cached: Stack, client: openai.OpenAI) -> None:
    """This covers a cache that has stored and served them."""
    marker = "zanzibarquux"
    ask(client, f"What is {marker}?")
    assert ask(client, f"What is {marker}?").is_hit
    for part in ("router", "envoy"):
        assert marker not in cached.output(part)
    assert marker not in httpx.get(f"{cached.admin_url}/metrics").text
