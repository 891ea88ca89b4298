"""What a body holds is counted before it is parsed. The count is exact, whatever its strings hold and wherever it is cut."""

from __future__ import annotations

import json
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.events import Overloaded, Pause, Reply, RequestBody, Resumed, Route
from router.core.exchange import Exchange
from router.core.openai import bodysize
from router.core.openai.bodysize import DEFAULTS, BodyBounds, count
from router.core.openai.request import parse
from router.core.types import Endpoint
from router.errors import RequestError
from tests.unit.builders import chat_body, request_headers, snapshot

TRICKY = st.text(alphabet='"\\,:[]{} 1a\u00e9', max_size=12)
JSON = st.recursive(
    st.none() | st.integers(-5, 5) | TRICKY,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TRICKY, inner, max_size=4),
    max_leaves=12,
)


def size(value: Any) -> tuple[int, int, int]:
    """The numbers of commas and opening brackets, of colons and of levels, counted by walking through the document."""
    if not isinstance(value, dict | list):
        return 0, 0, 0
    inner = [size(each) for each in (value.values() if isinstance(value, dict) else value)]
    values = 1 + max(0, len(value) - 1) + sum(each[0] for each in inner)
    keys = sum(each[1] for each in inner) + (len(value) if isinstance(value, dict) else 0)
    return values, keys, 1 + max((each[2] for each in inner), default=0)


def is_within(data: bytes, bounds: BodyBounds) -> bool:
    """Whether a body stays within the limits."""
    try:
        list(count(data, bounds))
    except RequestError:
        return False
    return True


@given(JSON, st.booleans(), st.integers(1, 40))
def test_counts_are_exact_wherever_a_piece_ends(document: object, ascii_only: bool, piece_bytes: int) -> None:
    """A body at the limit passes and one over it does not. Quotes, backslashes and brackets inside strings are text."""
    data = json.dumps(document, ensure_ascii=ascii_only).encode()
    values, keys, depth = size(document)
    with mock.patch.object(bodysize, "PIECE_BYTES", piece_bytes):
        assert is_within(data, BodyBounds(values or 1, keys, depth))
        assert not values or not is_within(data, BodyBounds(values - 1, keys, depth))
        assert not keys or not is_within(data, BodyBounds(values, keys - 1, depth))
        assert not depth or not is_within(data, BodyBounds(values, keys, depth - 1))


@pytest.mark.parametrize(
    ("inner", "status", "code", "words"),
    [
        (b"[" + b"0," * 300_001 + b"0]", 413, "body_too_complex", "300000 values"),
        (b"{" + b",".join(b'"%d":0' % number for number in range(50_001)) + b"}", 413, "body_too_complex", "50000 keys"),
        (b"[" * 120 + b"]" * 120, 400, "nested_too_deeply", "100 levels"),
        (b'{"a":' * 120 + b"0" + b"}" * 120, 400, "nested_too_deeply", "100 levels"),
        (b'""' * 350_003, 413, "body_too_complex", "300000 values"),
        (b"9" * 2_400_001, 413, "body_too_complex", "2400000 digits in numbers"),
    ],
)
def test_what_passes_a_bound_is_refused_by_its_name(inner: bytes, status: int, code: str, words: str) -> None:
    """The error names the limit, so that the operator can raise it."""
    with pytest.raises(RequestError, match=words) as caught:
        list(count(b'{"model": "auto", "x": ' + inner + b"}", DEFAULTS))
    assert (caught.value.http_status, caught.value.code) == (status, code)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "x"}] * 11,
        [{"role": "user", "content": [{"type": "text", "text": "x"}] * 10}],
        [{"role": "user", "content": "x"}, {"role": "user", "content": [{"type": "image_url"}] * 9}],
    ],
)
def test_messages_and_their_parts_are_bounded_together(messages: list[object]) -> None:
    """Messages and their parts share one limit, for each costs the router work. The error names the field."""
    data = json.dumps({"model": "auto", "messages": messages}).encode()
    with pytest.raises(RequestError, match="10 messages and parts") as caught:
        parse(Endpoint.CHAT, data, {}, BodyBounds(max_messages=10))
    assert (caught.value.http_status, caught.value.param) == (413, "messages")
    parse(Endpoint.CHAT, data, {}, BodyBounds(max_messages=11))


def agent_conversation() -> bytes:
    """2,000 messages, of which every second is a tool call or its result, and 200 tools of ten parameters each."""
    call = {"id": "call_1", "type": "function", "function": {"name": "search", "arguments": '{"query": "x", "limit": 3}'}}
    turn = [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "call_1", "content": '{"a": [1, 2]}'}]
    properties = {f"p{number}": {"type": "string", "description": "x", "enum": ["a", "b"]} for number in range(10)}
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    tool = {"type": "function", "function": {"name": "search", "description": "x", "parameters": parameters}}
    return chat_body(messages=[{"role": "user", "content": "x"}, *turn * 1000], tools=[tool] * 200)


@pytest.mark.parametrize(
    "body",
    [
        agent_conversation(),
        chat_body(',[{:"\\' * 400_000),
        chat_body([{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBORw0KGgo+/A==" * 200_000}}]),
        json.dumps({"model": "small", "prompt": list(range(131_072))}).encode(),
    ],
    ids=["an agent's long conversation", "a document full of marks", "an image", "the token ids of a whole context"],
)
def test_what_clients_really_send_keeps_the_bounds(body: bytes) -> None:
    """No default limit refuses an honest request."""
    assert is_within(body, DEFAULTS)


def test_a_large_body_is_counted_in_turns() -> None:
    """Other requests are served between two pieces of a large body. A small body is read without a pause."""
    exchange = Exchange(snapshot(max_body_bytes=1 << 24))
    exchange.receive(request_headers())
    action = exchange.receive(RequestBody(chat_body("x" * (3 << 18))))
    pauses = 0
    while isinstance(action, Pause):
        action, pauses = exchange.receive(Resumed()), pauses + 1
    assert isinstance(action, Route)
    assert pauses == 5  # four pieces, then the rewrite
    exchange = Exchange(snapshot(max_body_bytes=1 << 24))
    exchange.receive(request_headers())
    assert isinstance(exchange.receive(RequestBody(chat_body("x" * 1000))), Route)


def test_a_large_body_whose_turn_does_not_come_is_refused() -> None:
    """It is refused in time. Any later, and Envoy would let it pass unread."""
    exchange = Exchange(snapshot(max_body_bytes=1 << 24))
    exchange.receive(request_headers())
    assert exchange.receive(RequestBody(chat_body("x" * (1 << 20)))) == Pause()
    reply = exchange.receive(Overloaded())
    assert isinstance(reply, Reply)
    assert reply.http_status == 503
    assert exchange.record("replied").error_code == "overloaded"


def test_a_large_body_that_passes_a_bound_is_answered_before_it_is_read_whole() -> None:
    """The refusal has OpenAI's shape."""
    exchange = Exchange(snapshot(max_body_bytes=1 << 24))
    exchange.receive(request_headers())
    action = exchange.receive(RequestBody(b'{"a": [' + b"[]," * (1 << 22) + b"0]}"))
    while isinstance(action, Pause):
        action = exchange.receive(Resumed())
    assert isinstance(action, Reply)
    assert action.http_status == 413
    assert json.loads(action.body)["error"]["code"] == "body_too_complex"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model": "auto", "messages": [{"role": "user", "content": "a", "content": "b"}]}', "messages"),
        (b'{"model": "auto", "messages": [], "tools": [{"function": {"name": "a", "name": "b"}}]}', "tools"),
        (b'{"model": "auto", "messages": [], "x": {"y": [{"\\u0061": 1, "a": 2}]}}', "x"),
    ],
)
def test_a_key_that_occurs_twice_is_refused_at_any_depth(body: bytes, param: str) -> None:
    """The router would read one of the two values, and the backend might read the other."""
    with pytest.raises(RequestError, match="occurs twice") as caught:
        parse(Endpoint.CHAT, body, {})
    assert (caught.value.http_status, caught.value.param, caught.value.code) == (400, param, "duplicate_key")
