"""Bodies of every awkward shape at full size beside another client: each is refused or served, and none passes unread."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx
import pytest

from tests.bench.bodies import SHAPES
from tests.e2e.stack import Stack

REFUSED = {
    "keys inside": 413,
    "messages": 413,
    "parts": 413,
    "lists": 413,
    "strings": 413,
    "levels": 400,
    "one number": 413,
    "quotes": 413,
}
SERVED = (
    "most allowed: keys",
    "most allowed: messages",
    "one text of line ends",
    "an image of 5 MB",
    "2,000 messages, 200 tools",
)


def post(stack: Stack, content: str) -> httpx.Response:
    """Send a raw POST to chat completions."""
    url, headers = f"{stack.url}/v1/chat/completions", {"content-type": "application/json"}
    return httpx.post(url, content=content.encode(), headers=headers, timeout=60)


def beside(stack: Stack, act: Callable[[], httpx.Response]) -> tuple[httpx.Response, set[str]]:
    """The result of `act`, and the answers that another client's small requests got meanwhile."""
    is_over = threading.Event()
    small = json.dumps({"model": "small", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1})

    def client() -> set[str]:
        paths = set()
        while not is_over.is_set():
            paths.add(post(stack, small).headers["x-vsr-response-path"])
        return paths

    with ThreadPoolExecutor(1) as pool:
        others = pool.submit(client)
        try:
            response = act()
        finally:
            is_over.set()
        return response, others.result()


@pytest.mark.parametrize(("name", "status"), REFUSED.items())
def test_a_body_that_holds_too_much_is_refused_and_holds_up_nobody(stack: Stack, name: str, status: int) -> None:
    """The refusal has OpenAI's shape. Such bodies are no larger than honest documents, but would hold up other clients."""
    body = SHAPES[name]()
    response, others = beside(stack, lambda: post(stack, body))
    assert response.status_code == status
    assert response.headers["x-vsr-response-path"] == "error"
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert others == {"upstream"}


@pytest.mark.parametrize("name", SERVED)
def test_an_honest_body_of_any_size_is_served_and_holds_up_nobody(stack: Stack, name: str) -> None:
    """This holds up to the limits, and up to 16 MiB of text."""
    body = SHAPES[name]()
    response, others = beside(stack, lambda: post(stack, body))
    assert response.status_code == 200
    assert response.headers["x-vsr-response-path"] == "upstream"
    assert others == {"upstream"}


def test_a_flood_of_large_bodies_holds_up_no_small_one(stack: Stack) -> None:
    """They are read one at a time, in steps."""
    body = SHAPES["one text"]()
    with ThreadPoolExecutor(4) as pool:
        flood = [pool.submit(post, stack, body) for _ in range(4)]
        _, others = beside(stack, lambda: [each.result() for each in flood][-1])
    assert "upstream" in {answer.result().headers["x-vsr-response-path"] for answer in flood}
    assert others == {"upstream"}
