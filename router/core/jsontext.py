"""JSON read with the place of every value, so that a few can change and every other byte stays as it was sent.

`json.loads` then `json.dumps` would rewrite `1.0e2`, `0.70`, `\\u00e9` and the space between values, and drop
duplicate keys. Here a change is a splice into the original text. Values are parsed by the standard library's C scanner.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from router.errors import RequestError

_NOT_SPACE = re.compile(r"[^ \t\n\r]|\Z")
_NAME_SHOWN_CHARS = 80  # of a client's key in an error message: enough to find it, too little to echo a document


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


@dataclass(frozen=True, slots=True)
class Placed:
    """A value and where its text stands: `text[start:end]`."""

    value: object
    """As `json.loads` gives it."""
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Splice:
    """Put `text` in the place of the characters `start` to `end`; equal ends insert."""

    start: int
    end: int
    text: str


Members = dict[str, Placed]


def read_document(data: bytes) -> tuple[str, Members]:
    """The text of a request body and the members of the one object in it.

    Raises:
        RequestError: 400 when `data` is not UTF-8, not exactly one JSON object, nested too deeply, or has a key twice.
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
    """Members of an object inside a document that was read before, each with its place.

    Raises:
        RequestError: 400 for a key that occurs twice.
    """
    return _read_members(text, placed.start)[0]


def read_array(text: str, placed: Placed) -> list[Placed]:
    """Elements of an array inside a document that was read before, each with its place."""
    elements: list[Placed] = []
    at = _open(text, placed.start, "[")
    while not text.startswith("]", at):
        if elements:
            at = _past(text, at, ",")
        value, end = _read_value(text, at)
        elements.append(Placed(value, at, end))
        at = _skip_space(text, end)
    return elements


def apply(text: str, splices: Iterable[Splice]) -> str:
    """`text` with all splices made. They must not overlap; several insertions at one place keep their order."""
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
        key, at = _read_value(text, at)
        if key in members:
            name = str(key)[:_NAME_SHOWN_CHARS]
            # Two readers of such a body need not agree on which value counts, so routing by one of them is not safe.
            raise RequestError(400, f"the key '{name}' occurs twice in one object", param=name, code="duplicate_key")
        at = _past(text, _skip_space(text, at), ":")
        value, end = _read_value(text, at)
        members[str(key)] = Placed(value, at, end)
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
    found = _NOT_SPACE.search(text, at)
    return found.start() if found else len(text)


def _read_value(text: str, at: int) -> tuple[object, int]:
    try:
        return _DECODER.raw_decode(text, at)
    except json.JSONDecodeError as error:
        raise _broken(text, error.pos, error.msg) from None
    except ValueError:  # a number of more digits than Python turns into an int, or NaN and Infinity
        raise _broken(text, at, "a JSON value was expected") from None


def _broken(text: str, at: int, message: str) -> RequestError:
    line = text.count("\n", 0, at) + 1
    column = at - text.rfind("\n", 0, at)
    return _invalid(f"is not valid JSON: {message} at line {line} column {column}")


def _invalid(what: str) -> RequestError:
    return RequestError(400, f"the body {what}", code="invalid_json")
