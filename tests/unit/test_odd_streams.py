"""Answers that no model sends: their cost in memory and parsing is limited, and they pass unchanged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.exchange_record import Usage
from router.core.openai import completion as answers
from router.core.openai import sse
from router.core.openai.completion import AnswerReader, NotStorable
from router.core.openai.sse import EventSplitter
from router.core.response import PassingAnswer

TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}],"usage":null}\n\n'
EXTRA = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5}}\n\n'
DONE = b"data: [DONE]\n\n"
PIECE = 65_536
FLOODS = {
    "line ends": b"\n",
    "other line ends": b"\r\n",
    "comments": b":\n\n",
    "no line end": b"a",
    "a word": b'"usage"',
    "frames of a word": b'"usage"\n\n',
    "frames of counts": EXTRA,
    "a document without end": b'data: {"usage":{"prompt_tokens":[],',
    "lists": b"[],",
}


def pieces_of(data: bytes, size: int) -> Iterator[bytes]:
    """The pieces as they come."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.fixture
def read_bytes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The length of every document that is parsed."""
    lengths: list[int] = []
    loads = json.loads

    def counted(data: bytes, **options: object) -> object:
        lengths.append(len(data))
        return loads(data, **options)

    for module in (sse, answers):
        monkeypatch.setattr(module.json, "loads", counted)
    return lengths


@pytest.mark.parametrize("name", FLOODS)
@pytest.mark.parametrize("hides_usage", [True, False])
@pytest.mark.parametrize("size", [PIECE, 1_500_000])
def test_a_flood_is_neither_held_nor_read(name: str, hides_usage: bool, size: int, read_bytes: list[int]) -> None:
    """Whatever it consists of, and in pieces of any size: a limited part of each piece is parsed, and a megabyte is held."""
    flood = (FLOODS[name] * PIECE)[: 4 * 1024 * 1024]
    reader = PassingAnswer(is_event_stream=True, hides_usage=hides_usage)
    shown = 0
    for piece in pieces_of(flood, size):
        read_bytes.clear()
        shown += len(reader.feed(piece, is_end=False))
        assert sum(read_bytes) <= PIECE
        assert len(read_bytes) <= 64
        assert len(reader._splitter._held) <= 1024 * 1024
    shown += len(reader.feed(b"", is_end=True))
    assert shown == len(flood) or (hides_usage and flood.startswith(EXTRA))


def test_after_a_frame_without_end_a_stream_passes_as_it_came() -> None:
    """No byte is lost, and nothing is searched any more."""
    reader = PassingAnswer(is_event_stream=True, hides_usage=True)
    stream = [TOKEN, *[b"x" * PIECE] * 40, b"\n\n", EXTRA, DONE]
    assert b"".join(reader.feed(piece, is_end=piece is DONE) for piece in stream) == b"".join(stream)
    assert reader.usage is None


@given(st.lists(st.integers(0, 800)), st.sampled_from([b"\n", b"\r\n", b"\r"]), st.booleans(), st.integers(0, 5))
def test_however_it_is_cut_the_counts_are_read_and_hidden(cuts: list[int], end: bytes, hides: bool, count: int) -> None:
    """The chunk that only the router asked for is removed. Every other byte is there."""
    frames = [frame.replace(b"\n", end) for frame in (*[TOKEN] * count, EXTRA, b": ping\n\n", DONE)]
    whole = b"".join(frames)
    reader = PassingAnswer(is_event_stream=True, hides_usage=hides)
    places = [0, *sorted(cut for cut in cuts if cut < len(whole)), len(whole)]
    shown = b"".join(reader.feed(whole[start:stop], is_end=False) for start, stop in pairwise(places)) + reader.feed(
        b"", is_end=True
    )
    wanted = b"".join(frame for frame in frames if not (hides and frame == frames[count]))
    # A CRLF that is cut in the middle may leave its LF to the next frame, where it is an empty line.
    assert [line for line in shown.splitlines() if line] == [line for line in wanted.splitlines() if line]
    assert hides or shown == wanted
    assert reader.usage == Usage(3, 5)


@pytest.mark.parametrize("hides_usage", [True, False])
def test_of_counts_with_every_token_the_last_ones_stand(hides_usage: bool) -> None:
    """This also holds if thousands come in one piece."""
    frames = [b'data: {"choices":[{}],"usage":{"prompt_tokens":3,"completion_tokens":%d}}\n\n' % number for number in range(3000)]
    reader = PassingAnswer(is_event_stream=True, hides_usage=hides_usage)
    assert reader.feed(b"".join(frames), is_end=False) == b"".join(frames)
    assert reader.usage == Usage(3, 2999)


@pytest.mark.parametrize("flood", [b"[]," * 700_000, b"a" * 5_000_000])
def test_a_document_that_is_no_answer_is_not_parsed(flood: bytes, read_bytes: list[int]) -> None:
    """This covers a JSON answer of many values or of many megabytes. The latter is not held in memory either."""
    reader = PassingAnswer(is_event_stream=False, hides_usage=False)
    for piece in pieces_of(b'{"usage":{},"x":[' + flood + b"0]}", PIECE):
        assert reader.feed(piece, is_end=False) == piece
        assert len(reader._usage._document) <= 2 * 1024 * 1024
    assert reader.feed(b"", is_end=True) == b""
    assert (reader.usage, read_bytes) == (None, [])


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_no_answer_to_keep(name: str, read_bytes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each event has a cost, so the limit on an answer's length also limits the work."""
    events: list[bytes] = []
    monkeypatch.setattr(answers, "data_of", lambda event: events.append(event) or sse.data_of(event))
    splitter = EventSplitter()
    reader = AnswerReader(is_event_stream=True, max_bytes=262_144)
    for piece in pieces_of((FLOODS[name] * PIECE)[:250_000], 250_000):
        reader.feed(splitter.feed(piece))
    assert len(events) <= 262_144 // 64
    assert sum(read_bytes) <= 262_144
    with pytest.raises(NotStorable):
        reader.finish()
    reader.feed(b"a" * 262_144)
    assert not reader._choices


def test_a_document_of_many_values_is_not_kept(read_bytes: list[int]) -> None:
    """It is not parsed either: a megabyte of brackets takes as long as sixteen megabytes of text."""
    reader = AnswerReader(is_event_stream=False, max_bytes=16 * 1024 * 1024)
    reader.feed(b'{"choices":[' + b"[]," * 400_000 + b"0]}")
    with pytest.raises(NotStorable, match="unreadable"):
        reader.finish()
    assert read_bytes == []
