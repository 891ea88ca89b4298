"""Reads JSON with the place of every value, so that a few values can change and all other bytes stay as they were sent.

`json.loads` then `json.dumps` would rewrite `1.0e2`, `0.70`, `\\u00e9` and the space between values, and drop
duplicate keys. Here a change is a splice into the original text, and a key that occurs twice is refused at any depth. The
standard library's C scanner parses the values. `bodysize` bounds the body before it is read here.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from router.errors import RequestError

JsonObject = dict[str, object]
"""An object as `json.loads` gives it. Check the type of a value before you use it."""
_SPACE = re.compile(r"[ \t\n\r]*")
MAX_MEMBERS = 1000
"""Bound on the keys of an object that is read key by key, at 5 microseconds each: the body, and inner objects that change."""
_NAME_SHOWN_CHARS = 80  # of a client's key in an error message: enough to find it, without echoing a document


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


class _DuplicateKeyError(Exception):
    """Parsers disagree about which value of a repeated key counts, so routing by one of them is not safe."""


def _object(pairs: list[tuple[str, object]]) -> JsonObject:
    members = dict(pairs)
    if len(members) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise _DuplicateKeyError(next(key for key, count in counts.items() if count > 1))
    return members


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_object)


@dataclass(frozen=True, slots=True)
class Placed:
    """A value and the place of its text, `text[start:end]`."""

    value: object
    """As `json.loads` gives it."""
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Splice:
    """Replace the characters from `start` to `end` by `text`; insert it when both are equal."""

    start: int
    end: int
    text: str


Members = dict[str, Placed]


def read_document(data: bytes) -> tuple[str, Members]:
    """The text of a request body and the members of the one object in it.

    Raises:
        RequestError: 400 when `data` is not UTF-8, not exactly one JSON object, nested too deeply, or has a key twice in any
            object, however deep; 413 when it has too many keys.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _invalid(f"is not UTF-8: byte {error.start} is out of place") from None
    try:
        members, end = _read_members(text, _skip_space(text, 0))
    except RecursionError:
        raise _invalid("is nested too deeply") from None
    if (at := _skip_space(text, end)) != len(text):
        raise _broken(text, at, "nothing was expected after the object")
    return text, members


def read_object(text: str, placed: Placed) -> Members:
    """Members of an object inside a checked document, each with its place.

    Raises:
        RequestError: 413 for too many keys.
    """
    return _read_members(text, placed.start)[0]


def read_array(text: str, placed: Placed) -> Iterator[Placed]:
    """Elements of an array inside a checked document, each with its place. Reads only as far as the caller iterates."""
    at = _open(text, placed.start, "[")
    is_first = True
    while not text.startswith("]", at):
        if not is_first:
            at = _past(text, at, ",")
        value, end = _read_value(text, at)
        yield Placed(value, at, end)
        at, is_first = _skip_space(text, end), False


def apply(text: str, splices: Iterable[Splice]) -> str:
    """`text` after all splices. They must not overlap; insertions at the same place keep their order."""
    pieces: list[str] = []
    at = 0
    for splice in sorted(splices, key=lambda splice: splice.start):
        pieces += (text[at : splice.start], splice.text)
        at = splice.end
    pieces.append(text[at:])
    return "".join(pieces)


def _read_members(text: str, start: int) -> tuple[Members, int]:
    members: Members = {}
    at = _open(text, start, "{")
    while not text.startswith("}", at):
        if members:
            at = _past(text, at, ",")
        if not text.startswith('"', at):
            raise _broken(text, at, "a key in double quotes was expected")
        read, at = _read_value(text, at)
        key = str(read)
        if key in members:
            raise _duplicate(key, key)
        if len(members) == MAX_MEMBERS:
            raise RequestError(413, f"an object of the body has more than {MAX_MEMBERS} keys", code="body_too_complex")
        at = _past(text, _skip_space(text, at), ":")
        try:
            value, end = _read_value(text, at)
        except _DuplicateKeyError as error:
            raise _duplicate(str(error), key) from None
        members[key] = Placed(value, at, end)
        at = _skip_space(text, end)
    return members, at + 1


def _open(text: str, start: int, bracket: str) -> int:
    if not text.startswith(bracket, start):
        kind = "object" if bracket == "{" else "array"
        raise _broken(text, start, f"a JSON {kind} was expected")
    return _skip_space(text, start + 1)


def _past(text: str, at: int, mark: str) -> int:
    if not text.startswith(mark, at):
        raise _broken(text, at, f"'{mark}' was expected")
    return _skip_space(text, at + 1)


def _skip_space(text: str, at: int) -> int:
    return _SPACE.match(text, at).end()  # type: ignore[union-attr]


def _read_value(text: str, at: int) -> tuple[object, int]:
    try:
        return _DECODER.raw_decode(text, at)
    except json.JSONDecodeError as error:
        raise _broken(text, error.pos, error.msg) from None
    except ValueError:  # a number of more digits than Python turns into an int, or NaN and Infinity
        raise _broken(text, at, "a JSON value was expected") from None


def _duplicate(key: str, field: str) -> RequestError:
    message = f"the key '{key[:_NAME_SHOWN_CHARS]}' occurs twice in one object"
    return RequestError(400, message, param=field[:_NAME_SHOWN_CHARS], code="duplicate_key")


def _broken(text: str, at: int, message: str) -> RequestError:
    line = text.count("\n", 0, at) + 1
    column = at - text.rfind("\n", 0, at)
    return _invalid(f"is not valid JSON: {message} at line {line} column {column}")


def _invalid(what: str) -> RequestError:
    return RequestError(400, f"the body {what}", code="invalid_json")
