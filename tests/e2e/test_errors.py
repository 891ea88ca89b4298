"""What a client sees when its request cannot be served: OpenAI's shape, the field, and what to do."""

from __future__ import annotations

import gzip
import json

import httpx2 as httpx
import pytest

from tests.e2e.stack import Stack

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "hi"}]


def post(stack: Stack, content: bytes | str | object, **headers: str) -> httpx.Response:
    """Send a raw POST to chat completions."""
    data = content if isinstance(content, bytes) else content.encode() if isinstance(content, str) else json.dumps(content)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"{stack.url}{CHAT}", content=data, headers={"content-type": "application/json", **names}, timeout=60)


@pytest.mark.parametrize(
    ("content", "status", "param"),
    [
        ('{"model": "auto", ', 400, None),
        ("", 400, None),
        ("[]", 400, None),
        (b'{"model": "\xff"}', 400, None),
        ({"model": "auto"}, 400, "messages"),
        ({"model": "auto", "messages": []}, 400, "messages"),
        ({"model": "auto", "messages": "hi"}, 400, "messages"),
        ({"model": "auto", "messages": [{"role": "user", "content": 1}]}, 400, "messages[0].content"),
        ({"model": 1, "messages": MESSAGES}, 400, "model"),
        ({"messages": MESSAGES}, 400, "model"),
        ({"model": "auto", "messages": MESSAGES, "stream": "yes"}, 400, "stream"),
        ('{"model": "small", "model": "large", "messages": []}', 400, "model"),
    ],
)
def test_a_mistake_is_named(stack: Stack, content: object, status: int, param: str | None) -> None:
    """Status, type and field are those that OpenAI uses."""
    response = post(stack, content)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["type"]) == (status, param, "invalid_request_error")
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-vsr-response-path"] == "error"


def test_a_compressed_body_is_refused(stack: Stack) -> None:
    """Classification would have to unpack what a stranger packed."""
    response = post(stack, gzip.compress(b'{"model": "auto", "messages": []}'), content_encoding="gzip")
    assert response.status_code == 415
    assert response.json()["error"]["param"] == "content-encoding"


def test_ten_megabytes_are_served(stack: Stack) -> None:
    """A bounded part of the text is classified, and all of it is rewritten."""
    response = post(stack, {"model": "auto", "messages": [{"role": "user", "content": "hello " * 1_700_000}], "max_tokens": 3})
    assert response.status_code == 200
    assert response.headers["x-vsr-response-path"] == "upstream"


def test_a_body_over_the_limit_is_a_413_in_openais_shape(stack: Stack) -> None:
    """This holds with a length header and without one."""
    body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "x" * (17 << 20)}]}).encode()
    response = post(stack, body)
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "body_too_large"
    chunks = (body[start : start + 65536] for start in range(0, len(body), 65536))
    chunked = httpx.post(f"{stack.url}{CHAT}", content=chunks, headers={"content-type": "application/json"}, timeout=60)
    assert chunked.status_code == 413
    assert chunked.json()["error"]["code"] == "body_too_large"


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": ""}],
        [{"role": "user", "content": "   \n"}],
        [{"role": "user", "content": None}],
        [{"role": "developer", "content": "be brief"}, {"role": "user", "content": "hi"}],
        [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "what is this?"},
                    {"type": "image_url", "image_url": {"url": "data:,"}},
                ],
            }
        ],
        [
            {"role": "user", "content": "weather?"},
            {
                "role": "assistant",
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "1", "content": "sunny"},
        ],
        [{"role": "user", "content": "😀" * 200}],
        [{"role": "user", "content": "a\x00b\ud83d"}],
        [{"role": "user", "content": "x" * 300_000}],
    ],
)
def test_odd_conversations_are_served(stack: Stack, messages: list) -> None:
    """Nothing that OpenAI's API allows makes the router fail or bypasses it."""
    response = post(stack, {"model": "auto", "messages": messages, "max_tokens": 3})
    assert response.status_code == 200
    assert response.headers["x-vsr-response-path"] == "upstream"


def test_a_models_own_error_passes_through(stack: Stack) -> None:
    """Status and body are the backend's own."""
    response = post(stack, {"model": "small", "messages": MESSAGES}, x_sim_status="503")
    assert response.status_code == 503
    assert response.headers["x-vsr-selected-model"] == "small"
