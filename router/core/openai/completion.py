"""Answers that are stored and replayed: read from JSON or from a stream, and written as either.

An answer is stored as the JSON document of a whole chat completion, without the fields of one request (`id`, `created`). Text is
never trimmed or re-wrapped: the pieces of a replayed stream join to the stored text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast

from router.core.lookup import NotStoredReason
from router.core.openai.bodysize import is_within
from router.core.openai.jsontext import JsonObject
from router.core.openai.sse import data_of, events_in, name_of
from router.core.text.invisible import is_blank

_PIECE_CHARS = 2000  # of text in one replayed event: some clients read lines of at most 64 KiB, and an escape takes 12 bytes
_OWN = frozenset({"id", "created", "object"})
"""Fields that belong to one request or follow from the form of the answer. They are never stored."""
_GROWING = frozenset({"content", "reasoning_content", "reasoning", "refusal"})
"""Text fields that a stream sends in pieces."""
_TOKENS = "token_ids"
"""Set by vLLM's `return_token_ids`: each chunk holds the ids of its own piece."""
_ENDS = ("finish_reason", "stop_reason")
_NOTHING: tuple[object, ...] = ("", [], {})
"""Values that add nothing to a field."""
_CALLS = ("tool_calls", "function_call", "audio")
DONE = b"[DONE]"
_MIN_EVENT_BYTES = 64
"""A shorter event counts as this long, because it costs as much work. Events with text are longer."""


class NotStorable(Exception):  # noqa: N818 - no fault of anybody's
    """Says why an answer must not be stored or replayed."""

    def __init__(self, reason: NotStoredReason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer that may be replayed."""

    document: Mapping[str, object]
    """`choices`, perhaps `usage` and `model`, and all other top-level fields of the backend."""

    @property
    def choices(self) -> list[JsonObject]:
        """The choices; each has a `message`, which `checked` ensures."""
        return cast(list[JsonObject], self.document["choices"])

    def encode(self) -> bytes:
        """The stored form: UTF-8 JSON."""
        return _json(self.document)


@dataclass(slots=True)
class _Choice:
    """A choice that is not complete yet."""

    index: int
    message: JsonObject = field(default_factory=dict)
    beside: JsonObject = field(default_factory=dict)
    """The other fields of the choice."""


@dataclass(slots=True)
class AnswerReader:
    """Reads one answer while it passes. A stream comes in runs of whole events, a document in any pieces."""

    is_event_stream: bool
    max_bytes: int
    """A longer answer is not stored."""
    _held: bytearray = field(default_factory=bytearray)
    _size_bytes: int = 0
    _top: JsonObject = field(default_factory=dict)
    _choices: dict[int, _Choice] = field(default_factory=dict)
    _is_done: bool = False
    _why_not: NotStoredReason | None = None

    def feed(self, data: bytes) -> None:
        """Take the next bytes; of a stream, whole events. After the first reason not to store, nothing is kept."""
        self._size_bytes += len(data)
        if self._size_bytes > self.max_bytes:
            self.give_up("too_long")
        if self._why_not:
            return
        if not self.is_event_stream:
            self._held += data
            return
        try:
            for event in events_in(data):
                self._size_bytes += max(0, _MIN_EVENT_BYTES - len(event))
                if self._size_bytes > self.max_bytes:
                    raise NotStorable("too_long")
                self._read_event(event)
        except NotStorable as error:
            self.give_up(error.reason)

    def finish(self) -> Answer:
        """The complete answer.

        Raises:
            NotStorable: the answer is not complete, did not end with `stop`, or must not be replayed.
        """
        if self._why_not:
            raise NotStorable(self._why_not)
        if self.is_event_stream:
            if not self._is_done:
                raise NotStorable("interrupted")
            choices = [_closed(self._choices[index]) for index in sorted(self._choices)]
            return checked({**self._top, "choices": choices})
        document = _loads(bytes(self._held))
        return checked({key: value for key, value in document.items() if key not in _OWN})

    def give_up(self, reason: NotStoredReason) -> None:
        """Keep nothing from now on. The first reason counts."""
        self._why_not = self._why_not or reason
        self._held.clear()
        self._choices.clear()

    def _read_event(self, event: bytes) -> None:
        payload = data_of(event)
        if self._is_done:
            return  # after the end
        if name_of(event).lower() == b"error":
            raise NotStorable("error")
        if not payload:
            return  # a comment, or an event without data
        if payload.strip() == DONE:
            self._is_done = True
            return
        chunk = _loads(payload)
        if "error" in chunk or chunk.get("object") == "error":
            raise NotStorable("error")
        self._read_choices(chunk.pop("choices", None))
        for key, value in chunk.items():
            if key not in _OWN and value is not None:
                self._top[key] = value

    def _read_choices(self, choices: object) -> None:
        if not isinstance(choices, list):
            raise NotStorable("unreadable")
        if len(choices) > 1:
            raise NotStorable("several_choices")
        for choice in choices:
            self._read_choice(choice)

    def _read_choice(self, part: object) -> None:
        if not isinstance(part, dict) or not isinstance(part.get("index", 0), int):
            raise NotStorable("unreadable")
        index = part.get("index", 0)
        choice = self._choices.setdefault(index, _Choice(index))
        delta = part.get("delta") or {}
        if not isinstance(delta, dict):
            raise NotStorable("unreadable")
        for key, value in delta.items():
            _grow(choice.message, key, value)
        for key, value in part.items():
            if key == "logprobs" and isinstance(value, dict):
                _grow_logprobs(choice.beside, value)
            elif key == "message" and value:
                raise NotStorable("unknown_delta")  # a whole message among the pieces of one
            elif key not in ("index", "delta", "message"):
                _grow_choice(choice.beside, key, value)


class _Pieces(list[str]):
    """A text that is not complete yet. Its pieces are joined once, at the end."""


def _grow(message: JsonObject, key: str, value: object) -> None:
    """Add one field of a delta to a message."""
    if value is None:
        message.setdefault(key, None)
    elif key in _CALLS:
        if value:
            raise NotStorable("tool_calls")
    elif key in _GROWING and isinstance(value, str):
        pieces = message.get(key)
        if pieces is None:
            pieces = message[key] = _Pieces()
        if not isinstance(pieces, _Pieces):
            raise NotStorable("unknown_delta")  # the field began as something other than text
        pieces.append(value)
    elif message.get(key) is None or (key == "role" and message[key] == value):
        message[key] = value
    elif value not in _NOTHING:
        # It is unknown how this field grows. Even an equal piece may continue it: "ha" and "ha".
        raise NotStorable("unknown_delta")


def _grow_choice(choice: JsonObject, key: str, value: object) -> None:
    """Add one field beside the delta to a choice."""
    held = choice.get(key)
    if value is None:
        return
    if held is None or key in _ENDS:
        choice[key] = value
    elif key == _TOKENS and isinstance(value, list) and isinstance(held, list):
        held += value
    elif value not in _NOTHING and (value != held or isinstance(value, str | list)):
        raise NotStorable("unknown_delta")


def _grow_logprobs(choice: JsonObject, value: JsonObject) -> None:
    held = choice.setdefault("logprobs", {})
    if not isinstance(held, dict):
        raise NotStorable("unknown_delta")
    for key, tokens in value.items():
        if isinstance(tokens, list) and isinstance(held.get(key), list):
            held[key] += tokens
        elif held.get(key) is None:
            held[key] = tokens
        elif tokens is not None and tokens != held[key]:
            raise NotStorable("unknown_delta")


def _closed(choice: _Choice) -> JsonObject:
    message = {key: "".join(value) if isinstance(value, _Pieces) else value for key, value in choice.message.items()}
    message.setdefault("role", "assistant")
    message.setdefault("content", None)
    return {"index": choice.index, "message": message, **choice.beside}


def checked(document: Mapping[str, object]) -> Answer:
    """The answer in a document. Raises `NotStorable` when it must not be replayed."""
    choices = document.get("choices")
    if document.get("error"):
        raise NotStorable("error")
    if not isinstance(choices, list) or not choices:
        raise NotStorable("unreadable")
    if len(choices) > 1:
        raise NotStorable("several_choices")  # `query_of` accepts only requests for one
    for choice in choices:
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(message, dict):
            raise NotStorable("unreadable")
        if any(message.get(name) for name in _CALLS):
            raise NotStorable("tool_calls")
        if choice.get("finish_reason") != "stop":
            raise NotStorable("not_stopped")
        if message.get("refusal"):
            raise NotStorable("refused")
        if not isinstance(message.get("content"), str) or is_blank(message["content"]):
            raise NotStorable("empty")
    return Answer(document)


def decode(data: bytes) -> Answer:
    """The answer that `Answer.encode` wrote. Raises `NotStorable` for anything else."""
    return checked(_loads(data))


# -- replay ----------------------------------------------------------------------------------------------------------


def as_json(answer: Answer, completion_id: str, created_s: int) -> bytes:
    """The body of a whole completion."""
    return _json({"id": completion_id, "object": "chat.completion", "created": created_s, **answer.document})


def as_stream(answer: Answer, completion_id: str, created_s: int, wants_usage: bool) -> bytes:
    """The same as server-sent events: role, text, finish reason, usage if the client asked for it, end."""
    document = dict(answer.document)
    del document["choices"]
    usage = document.pop("usage", None)
    head = {"id": completion_id, "object": "chat.completion.chunk", "created": created_s, **document}
    extra = {"usage": None} if wants_usage else {}
    frames = [_frame({**head, "choices": [part], **extra}) for choice in answer.choices for part in _parts(choice)]
    if wants_usage:
        frames.append(_frame({**head, "choices": [], "usage": usage}))
    return b"".join([*frames, b"data: " + DONE + b"\n\n"])


def _parts(choice: JsonObject) -> Iterator[JsonObject]:
    """One choice as the choices of successive chunks."""
    index, message = choice.get("index", 0), cast(JsonObject, choice["message"])
    logprobs = {"logprobs": choice["logprobs"]} if choice.get("logprobs") else {}
    still = {key: value for key, value in message.items() if key not in _GROWING and value is not None and key not in _CALLS}
    yield {"index": index, "delta": {"role": "assistant", **still, "content": ""}, "finish_reason": None}
    for key in ("reasoning_content", "reasoning", "refusal", "content"):
        for piece in _pieces(message.get(key) or ""):
            yield {"index": index, "delta": {key: piece}, "finish_reason": None}
    rest = {key: value for key, value in choice.items() if key not in ("index", "message", "logprobs")}
    yield {"index": index, "delta": {}, **logprobs, **rest}


def _pieces(text: object) -> Iterator[object]:
    """The pieces of a text; any other value is one piece."""
    if not isinstance(text, str):
        yield text
        return
    for at in range(0, len(text), _PIECE_CHARS):
        yield text[at : at + _PIECE_CHARS]


def _frame(document: Mapping[str, object]) -> bytes:
    return b"data: " + _json(document) + b"\n\n"


def _loads(data: bytes) -> JsonObject:
    if not is_within(data):
        raise NotStorable("unreadable")
    try:
        document = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise NotStorable("unreadable") from None
    if not isinstance(document, dict):
        raise NotStorable("unreadable")
    return document


def _refuse_constant(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity are not JSON: a strict client could not read the replay


def _json(document: Mapping[str, object]) -> bytes:
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:  # half a surrogate pair: JSON can escape it, UTF-8 cannot hold it
        return json.dumps(document, separators=(",", ":")).encode()
