"""Events and usage: any split of a stream gives the same events, and the joined events are the stream."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from router.core.exchange_record import Usage
from router.core.openai.sse import EventSplitter, data_of, events_in, usage_in

LINES = st.sampled_from([b"data: {}", b"data:{}", b"data", b": comment", b"event: x", b"data: a b", b"id: 1", b"data: \xc3\xa9"])
ENDS = st.sampled_from([b"\n", b"\r\n"])


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[bytes], bytes]:
    """Whole frames and the stream that they form, with one kind of line end."""
    end = draw(ENDS)
    frames = draw(st.lists(st.lists(LINES, min_size=1, max_size=4), max_size=5))
    built = [b"".join(line + end for line in lines) + end for lines in frames]
    return built, b"".join(built)


@given(streams(), st.lists(st.integers(0, 200)))
def test_any_split_gives_the_same_frames(stream: tuple[list[bytes], bytes], cuts: list[int]) -> None:
    """The network may cut the bytes anywhere."""
    frames, whole = stream
    places = [0, *sorted(cut for cut in cuts if cut < len(whole)), len(whole)]
    splitter = EventSplitter()
    runs = [splitter.feed(whole[start:end]) for start, end in pairwise(places)]
    assert b"".join(runs) + splitter.feed(b"", is_end=True) == whole
    # A CRLF that is cut in the middle may leave its LF to the next event, where it is an empty line.
    got = [event for run in runs for event in events_in(run)]
    assert [data_of(frame) for frame in got if data_of(frame)] == [data_of(frame) for frame in frames if data_of(frame)]


@given(st.binary(max_size=200), st.integers(1, 7))
def test_no_byte_is_lost(data: bytes, step: int) -> None:
    """The frames and the rest are exactly what the backend sent."""
    splitter = EventSplitter()
    got = b"".join(splitter.feed(data[at : at + step]) for at in range(0, len(data), step))
    assert got + splitter.feed(b"", is_end=True) == data


def test_data_lines_are_joined_and_other_fields_are_not_data() -> None:
    """One leading space is dropped, lines are joined, and `database:` is not data, as the standard says."""
    assert data_of(b": hi\nevent: x\ndata: a\ndata:  b\ndata\ndatabase: no\n\n") == b"a\n b\n"


def test_the_extra_usage_chunk_is_told_from_a_last_chunk_with_usage() -> None:
    """Only a chunk without choices may be hidden."""
    extra = b'{"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}'
    last = b'{"choices": [{"index": 0}], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}'
    assert usage_in(extra) == (Usage(3, 5), True)
    assert usage_in(last) == (Usage(3, 5), False)


def test_what_is_not_usage_is_none() -> None:
    """Broken, null or foreign shapes are not usage, and raise nothing."""
    for payload in (
        b"[DONE]",
        b'{"usage": null}',
        b'{"usage": {',
        b'{"usage": {"prompt_tokens": "3"}}',
        b'["usage"]',
        b"",
    ):
        assert usage_in(payload) == (None, False)
