"""Streams and bodies that are whole, long or hostile: what passes at once, what is given again, what is not even parsed."""

from __future__ import annotations

import json

import pytest

from router.core.exchange_record import Usage
from router.core.openai.bodysize import DIGITS_A_VALUE, BodyBounds, is_within
from router.core.openai.completion import AnswerReader, as_json, as_stream, decode
from router.core.openai.replies import unreadable
from router.core.openai.sse import MAX_EVENT_BYTES, EventSplitter, data_of, events_in, usage_in

ANSWER = {"model": "m", "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}]}


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_whole_event_passes_with_the_bytes_that_bring_it(end: bytes) -> None:
    """To its last byte, whatever ends its lines: a token does not wait for the next one."""
    event = b"data: {}" + end + end
    splitter = EventSplitter()
    assert [splitter.feed(event) for _ in range(3)] == [event] * 3


def test_many_events_at_once_are_split_though_together_they_are_longer_than_one_may_be() -> None:
    """The bound is for one event: a fast backend sends megabytes in one piece."""
    event = b"data: " + b"x" * 1000 + b"\n\n"
    count = MAX_EVENT_BYTES // len(event) + 1
    splitter = EventSplitter()
    assert len(list(events_in(splitter.feed(event * count)))) == count
    assert not splitter.has_given_up


@pytest.mark.parametrize("extra", ["[" * 101 + "]" * 101, f"[{'0,' * 300_000}0]"])
def test_counts_in_an_event_that_breaks_the_bounds_are_not_read(extra: str) -> None:
    """A backend cannot make the router parse what a client may not send."""
    usage = {"prompt_tokens": 1, "completion_tokens": 2}
    assert usage_in(f'{{"usage": {json.dumps(usage)}, "x": []}}'.encode()) == (Usage(1, 2), False)
    assert usage_in(f'{{"usage": {json.dumps(usage)}, "x": {extra}}}'.encode()) == (None, False)


@pytest.mark.parametrize("logprobs", [None, {"content": []}])
def test_each_piece_of_a_replayed_answer_names_its_choice(logprobs: object) -> None:
    """The last one too, which says why the answer ended: clients put the pieces together by that number."""
    choice = {**ANSWER["choices"][0], "index": 3, "logprobs": logprobs}  # type: ignore[dict-item]
    sent = as_stream(decode(json.dumps({**ANSWER, "choices": [choice]}).encode()), "a", 1, wants_usage=False)
    pieces = [json.loads(data)["choices"][0] for event in events_in(sent) if (data := data_of(event)) != b"[DONE]"]
    assert [piece["index"] for piece in pieces] == [3] * len(pieces)
    assert pieces[-1]["finish_reason"] == "stop"
    assert pieces[-1].get("logprobs") == logprobs


@pytest.mark.parametrize("extra", [0, 1])
def test_digits_are_counted_to_the_last_one_and_nothing_else_is_taken_for_one(extra: int) -> None:
    """A body that holds as many as it may is read, whatever brackets, commas and colons it holds; one more is too many."""
    bounds = BodyBounds(max_values=8, max_keys=3, max_depth=5)
    digits = DIGITS_A_VALUE * bounds.max_values
    body = f'{{"a": [{"1" * (digits - 5 + extra)}, 22, [[33]]], "b": {{"c": 4}}}}'.encode()
    assert is_within(body, bounds) is not bool(extra)


@pytest.mark.parametrize("index", [0, 2])
def test_an_answer_that_was_read_from_a_stream_keeps_the_number_of_its_choice(index: int) -> None:
    """Given again as JSON it is what the backend would have sent as JSON."""
    parts = [
        {"index": index, "delta": {"role": "assistant", "content": "Hi"}},
        {"index": index, "delta": {}, "finish_reason": "stop"},
    ]
    reader = AnswerReader(is_event_stream=True, max_bytes=10_000)
    for part in parts:
        reader.feed(f"data: {json.dumps({'model': 'm', 'choices': [part]})}\n\n".encode())
    reader.feed(b"data: [DONE]\n\n")
    choice = json.loads(as_json(reader.finish(), "a", 1))["choices"][0]
    assert (choice["index"], choice["message"]["content"]) == (index, "Hi")


@pytest.mark.parametrize(
    ("reason", "status", "param"), [("too_long", 400, "messages"), ("token_ids", 400, "prompt"), ("closed", 503, None)]
)
def test_a_request_that_no_guard_can_read_names_the_field_at_fault(reason: str, status: int, param: str | None) -> None:
    """Where the router is at fault there is none."""
    error = unreadable(reason)
    assert (error.http_status, error.param, error.code) == (status, param, "unreadable")
