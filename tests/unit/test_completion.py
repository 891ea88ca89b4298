"""Answers read from JSON and from streams, and replayed as either."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.openai.completion import Answer, AnswerReader, NotStorable, as_json, as_stream, decode
from router.core.openai.sse import data_of, events_in
from router.core.response import PassingAnswer

CODE = "Here:\n\n```python\ndef f(x):\n    return x  # ü — 日本 \U0001f600\n```\r\n\n\tend  "
MESSAGE = {"role": "assistant", "content": CODE, "reasoning_content": "hm\n\nwell", "refusal": None, "vendor": {"a": [1.5, None]}}
CHOICE = {"index": 0, "message": MESSAGE, "finish_reason": "stop", "stop_reason": None}
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
BODY = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [CHOICE], "usage": USAGE, "fp": "v1"}


def read(data: bytes, *, is_event_stream: bool = False, max_bytes: int = 10**6, cuts: tuple[int, ...] = ()) -> Answer:
    """The answer in a body that arrives in pieces."""
    reader = AnswerReader(is_event_stream, max_bytes)
    passing = PassingAnswer(is_event_stream, hides_usage=False, reader=reader)
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in pairwise(places):
        passing.feed(data[start:end], is_end=end == len(data))
    return reader.finish()


def body(**changes: Any) -> bytes:
    """A whole completion; `choice` and `message` change its only choice."""
    choice = {**CHOICE, **changes.pop("choice", {})}
    choice["message"] = {**choice["message"], **changes.pop("message", {})}
    return json.dumps({**BODY, "choices": [choice], **changes}).encode()


def chunk(delta: dict[str, Any], index: int = 0, **choice: Any) -> dict[str, Any]:
    """One event of a stream."""
    part = {"index": index, "delta": delta, "finish_reason": None, **choice}
    return {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [part]}


def stream(*chunks: dict[str, Any], end: str = "\n\n", field: str = "data: ", done: bool = True) -> bytes:
    """Events as a server writes them."""
    lines = [json.dumps(each, ensure_ascii=False) for each in chunks] + ["[DONE]"] * done
    return "".join(f"{field}{line}{end}" for line in lines).encode()


def whole(*parts: dict[str, Any]) -> bytes:
    """A stream that ends well, with these deltas or chunks in it."""
    middle = (part if "choices" in part else chunk(part) for part in parts)
    return stream(chunk({"role": "assistant", "content": "x"}), *middle, chunk({}, finish_reason="stop"))


STREAM = (
    chunk({"role": "assistant", "content": ""}),
    chunk({"reasoning_content": "hm\n\n"}),
    chunk({"reasoning_content": "well"}),
    *(chunk({"content": piece}) for piece in (CODE[:7], CODE[7:30], CODE[30:])),
    chunk({}, finish_reason="stop"),
    {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], "usage": USAGE},
)


def message_of(answer: Answer) -> dict[str, Any]:
    """The message of the only choice."""
    message: dict[str, Any] = answer.document["choices"][0]["message"]
    return message


def events(data: bytes) -> list[dict[str, Any]]:
    """The JSON of a stream's events, without the end marker."""
    payloads = [data_of(event) for event in events_in(data)]
    assert payloads.pop() == b"[DONE]"
    return [json.loads(payload) for payload in payloads]


class TestJson:
    def test_everything_comes_back_but_what_belongs_to_one_request(self) -> None:
        """Vendor fields, nulls and numbers are replayed too."""
        replayed = json.loads(as_json(decode(read(body()).encode()), "new", 7))
        assert replayed == {**BODY, "id": "new", "created": 7}

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"choice": {"finish_reason": "length"}}, "not_stopped"),
            ({"choice": {"finish_reason": "content_filter"}}, "not_stopped"),
            ({"choice": {"finish_reason": None}}, "not_stopped"),
            ({"message": {"tool_calls": [{"id": "c"}]}}, "tool_calls"),
            ({"message": {"function_call": {"name": "f"}}}, "tool_calls"),
            ({"message": {"content": None}}, "empty"),
            ({"message": {"content": ""}}, "empty"),
            ({"message": {"content": " \n\t"}}, "empty"),
            ({"message": {"content": "\u200b\ufeff"}}, "empty"),
            ({"message": {"refusal": "I cannot help with that"}}, "refused"),
            ({"error": {"message": "the answer was cut off"}}, "error"),
            ({"message": {"content": None, "refusal": "no"}}, "refused"),
            ({"message": {"content": ["part"]}}, "empty"),
            ({"choices": []}, "unreadable"),
            ({"choices": [1]}, "unreadable"),
            ({"choices": [CHOICE, {**CHOICE, "index": 1}]}, "several_choices"),
        ],
    )
    def test_an_answer_that_must_not_be_replayed_is_not_stored(self, change: dict[str, Any], reason: str) -> None:
        """The result names the reason."""
        with pytest.raises(NotStorable, match=f"^{reason}$"):
            read(body(**change))

    @pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b'{"a": NaN}', b"\xff", b"[" * 100_000])
    def test_what_is_no_completion_is_not_stored(self, data: bytes) -> None:
        """This holds for any kind of document."""
        with pytest.raises(NotStorable, match="unreadable"):
            read(data)

    def test_an_error_document_is_not_stored(self) -> None:
        """Some servers send one with status 200."""
        with pytest.raises(NotStorable, match=r"^error$"):
            read(b'{"error": {"message": "overloaded"}}')

    def test_a_long_answer_is_not_stored_and_not_held(self) -> None:
        """Nothing past the limit is held in memory."""
        reader = AnswerReader(is_event_stream=False, max_bytes=100)
        for _ in range(100):
            reader.feed(b"x" * 1000)
        with pytest.raises(NotStorable, match="too_long"):
            reader.finish()
        assert len(reader._held) == 0


class TestStream:
    def test_a_whole_message_beside_pieces_is_not_stored(self) -> None:
        """Nobody can tell which of the two is the answer."""
        with pytest.raises(NotStorable, match="unknown_delta"):
            read(whole(chunk({"content": "x"}, message={"content": "y"})), is_event_stream=True)

    def test_it_gives_the_same_answer_as_json(self) -> None:
        """So one entry serves both kinds of clients."""
        answer = read(stream(*STREAM), is_event_stream=True)
        assert message_of(answer) == {"role": "assistant", "content": CODE, "reasoning_content": "hm\n\nwell"}
        assert answer.document["usage"] == USAGE
        assert answer.document["model"] == "m"
        assert answer.document["choices"][0]["finish_reason"] == "stop"

    @given(
        st.lists(st.integers(0, 10_000), max_size=40),
        st.sampled_from(["\n\n", "\r\n\r\n", "\r\r"]),
        st.sampled_from(["data: ", "data:"]),
    )
    def test_any_split_gives_the_same_answer(self, cuts: list[int], end: str, field: str) -> None:
        """The cut may fall at any byte, with any line end, with or without a space after `data:`."""
        data = stream(*STREAM, end=end, field=field)
        assert read(data, is_event_stream=True, cuts=tuple(cuts)) == read(stream(*STREAM), is_event_stream=True)

    def test_comments_other_fields_and_data_in_several_lines_are_read(self) -> None:
        """The specification of server-sent events asks for this."""
        parts = json.dumps(chunk({"role": "assistant", "content": "a\nb"}), indent=1).splitlines()
        data = b": ping\n\nevent: x\nid: 1\n" + "".join(f"data: {part}\n" for part in parts).encode() + b"\n"
        data += stream(chunk({}, finish_reason="stop"))
        assert message_of(read(data, is_event_stream=True))["content"] == "a\nb"

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (stream(*STREAM, done=False), "interrupted"),
            (stream(*STREAM[:-2]), "not_stopped"),
            (stream(*STREAM[:3], {"error": {"message": "x"}}), "error"),
            (stream(*STREAM[:3], {"object": "error", "message": "x"}, *STREAM[3:]), "error"),
            (b'event: error\ndata: {"message": "x"}\n\n' + stream(*STREAM), "error"),
            (b"event: error\n\n" + stream(*STREAM), "error"),
            (stream(*STREAM[:3], {"message": "rate limited"}, *STREAM[3:]), "unreadable"),
            (stream(chunk({"content": "x", "refusal": "no"}), chunk({}, finish_reason="stop")), "refused"),
            (stream(chunk({"role": "assistant", "content": " \n\u200b"}), chunk({}, finish_reason="stop")), "empty"),
            (stream(chunk({"tool_calls": [{"index": 0}]}), chunk({}, finish_reason="tool_calls")), "tool_calls"),
            (stream(chunk({"role": "assistant", "content": "x"}), chunk({}, finish_reason="length")), "not_stopped"),
            (whole({"odd": [1]}, {"odd": [2]}), "unknown_delta"),
            (whole({"odd": "ha"}, {"odd": "ha"}), "unknown_delta"),
            (whole({"odd": 1}, {"odd": True}), "unknown_delta"),
            (whole({"role": "user"}), "unknown_delta"),
            (whole({"content": [{"text": "a"}]}, {"content": "b"}), "unknown_delta"),
            (whole({}, {"content": [{"text": "a"}]}), "unknown_delta"),
            (whole(chunk({}, odd=[1]), chunk({}, odd=[2])), "unknown_delta"),
            (whole(chunk({}, odd=[1]), chunk({}, odd=[1])), "unknown_delta"),
            (whole(chunk({}, odd="ha"), chunk({}, odd="ha")), "unknown_delta"),
            (whole(chunk({}, odd={"a": 1}), chunk({}, odd={"a": 2})), "unknown_delta"),
            (whole(chunk({}, token_ids=[1]), chunk({}, token_ids="2")), "unknown_delta"),
            (whole(chunk({}, logprobs={"odd": "a"}), chunk({}, logprobs={"odd": "b"})), "unknown_delta"),
            (whole(chunk({}, logprobs=["a"]), chunk({}, logprobs={"odd": "b"})), "unknown_delta"),
            (whole(chunk({"content": "x"}, index=1)), "several_choices"),
            (whole({"id": "x", "choices": [{"index": 0, "delta": {"content": "a"}}] * 2}), "several_choices"),
            (b"data: {\n\ndata: [DONE]\n\n", "unreadable"),
            (b"data: [DONE]\n\n", "unreadable"),
            (b"", "interrupted"),
        ],
    )
    def test_what_is_not_whole_is_not_stored(self, data: bytes, reason: str) -> None:
        """An answer that was interrupted, truncated, filtered or failed is not stored, nor one of a kind that we cannot join."""
        with pytest.raises(NotStorable, match=f"^{reason}$"):
            read(data, is_event_stream=True)

    def test_tokens_and_their_probabilities_come_back_whole(self) -> None:
        """In a stream, vLLM sends `token_ids` (`return_token_ids`) and `logprobs` with each piece. As JSON they are one list."""
        parts = [chunk({"content": str(n)}, token_ids=[n, 7], logprobs={"content": [{"token": str(n)}]}) for n in range(3)]
        answer = read(stream(*parts, chunk({}, finish_reason="stop", stop_reason=2, token_ids=[])), is_event_stream=True)
        choice = answer.document["choices"][0]
        assert choice["token_ids"] == [0, 7, 1, 7, 2, 7]
        assert choice["logprobs"] == {"content": [{"token": "0"}, {"token": "1"}, {"token": "2"}]}
        replayed = [each["choices"][0] for each in events(as_stream(answer, "new", 7, wants_usage=False))]
        assert [token for each in replayed for token in each.get("token_ids", [])] == choice["token_ids"]

    def test_repeated_fields_that_add_nothing_do_not_prevent_storing(self) -> None:
        """The role in every piece, null and empty fields, and a field beside the delta that repeats the whole do not prevent
        storing.
        """
        empty = {"annotations": [], "odd": {}, "thinking": "", "refusal": None, "tool_calls": []}
        parts = [chunk({"role": "assistant", "content": "ha", **empty}, filters={"hate": False}, odd=[]) for _ in range(3)]
        answer = read(stream(*parts, chunk({}, finish_reason="stop")), is_event_stream=True)
        assert message_of(answer)["content"] == "hahaha"
        assert answer.document["choices"][0]["filters"] == {"hate": False}


class TestReplay:
    @pytest.mark.parametrize("wants_usage", [True, False])
    def test_a_stream_is_well_formed(self, wants_usage: bool) -> None:
        """The role comes first, then the text, then the finish reason, then usage if the client asked for it."""
        chunks = events(as_stream(read(body()), "new", 7, wants_usage))
        assert {(each["id"], each["created"], each["object"], each["model"]) for each in chunks} == {
            ("new", 7, "chat.completion.chunk", "m")
        }
        extra = chunks.pop() if wants_usage else None
        assert extra is None or (extra["choices"] == [] and extra["usage"] == USAGE)
        assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
        assert [each["choices"][0]["finish_reason"] for each in chunks] == [None] * (len(chunks) - 1) + ["stop"]

    @given(st.text(min_size=1, max_size=9000).map(lambda text: f"{text}."), st.text(max_size=50))
    def test_text_survives_every_way_through(self, content: str, thought: str) -> None:
        """Any characters survive JSON to stream to JSON: line breaks, half surrogate pairs, anything."""
        first = read(body(message={"content": content, "reasoning_content": thought}))
        second = read(as_stream(decode(first.encode()), "a", 1, wants_usage=True), is_event_stream=True)
        assert message_of(second)["content"] == content
        assert (message_of(second).get("reasoning_content") or "") == thought
        assert message_of(second)["vendor"] == MESSAGE["vendor"]
        assert second.document["usage"] == USAGE

    def test_no_event_is_too_long_for_clients_that_read_line_by_line(self) -> None:
        """Several clients take at most 64 KiB in a line."""
        data = as_stream(read(body(message={"content": "\U0001f600" * 100_000}), max_bytes=10**7), "a", 1, wants_usage=False)
        assert max(map(len, data.split(b"\n\n"))) < 65_536
