"""Streams and bodies that are whole, long or hostile: what passes at once, what is given again, what is not even parsed."""

from __future__ import annotations

import json

import pytest

from router.core.openai.bodysize import DIGITS_A_VALUE, BodyBounds, is_within
from router.core.openai.completion import as_stream, decode
from router.core.openai.sse import MAX_EVENT_BYTES, EventSplitter, data_of, events_in, usage_in
from router.core.outcome import Usage

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
