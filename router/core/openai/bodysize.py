"""How much a body holds, counted before it is parsed: 16 MiB of text are parsed in milliseconds, 16 MiB of `[]` in a second.

What stands in strings does not count, so a document full of commas and brackets inside one string is as good as any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from router.errors import RequestError

PIECE_BYTES = 256 * 1024
"""Counted in one go: 5 ms at most, measured over bodies of quotes, brackets, backslashes and text."""
DIGITS_A_VALUE = 8
"""Digits that numbers may have on average at the bound on values; long ones cost more to parse than many."""
_NUMERALS = b"0123456789"
_KEPT = b",:[]{}" + _NUMERALS
_DROPPED = bytes(byte for byte in range(256) if byte not in _KEPT)
_NO_BRACKET = bytes(byte for byte in range(256) if byte not in b"[]{}")
_NO_OPENING_BRACKET = bytes(byte for byte in range(256) if byte not in b"[{")
_STEPS = bytes.maketrans(b"[]{}", b"\x01\xff\x01\xff")
"""Brackets as signed bytes: one level down, one level up."""


@dataclass(frozen=True, slots=True)
class BodyBounds:
    """What a body may hold besides bytes. The defaults are several times what long conversations of agents hold."""

    max_values: int = 300_000
    """Elements, members, arrays and objects together; an array that is itself an element counts twice."""
    max_keys: int = 50_000
    """Keys of all objects together."""
    max_depth: int = 100
    """Arrays and objects inside each other."""
    max_messages: int = 10_000
    """Messages, and parts of their contents, together."""


DEFAULTS = BodyBounds()


def count(data: bytes, bounds: BodyBounds) -> Iterator[None]:
    """Count in pieces, so that others may have their turn between them. Ends when the whole body keeps the bounds.

    Raises:
        RequestError: 413 that names the bound, as soon as it is passed.
    """
    if _is_within_by_its_length(data, bounds):
        return
    held, is_inside, depth, values, keys, digits, quotes = b"", False, 0, 0, 0, 0, 0
    for start in range(0, len(data), PIECE_BYTES):
        piece = held + data[start : start + PIECE_BYTES]
        held = b""
        if b"\\" in piece:
            # Of backslashes in a row each first one escapes the next; what is left over escapes a quote, or ends the piece.
            piece = piece.replace(b"\\\\", b"")
            if piece.endswith(b"\\"):
                piece, held = piece[:-1], b"\\"
            piece = piece.replace(b'\\"', b"")
        parts = piece.split(b'"')
        marks = b"".join(parts[is_inside::2]).translate(None, _DROPPED)
        is_inside ^= len(parts) % 2 == 0
        brackets = marks.translate(_STEPS, _NO_BRACKET)
        values += marks.count(b",") + brackets.count(b"\x01")
        keys += marks.count(b":")
        # What is neither mark nor bracket is a digit.
        digits += len(marks) - len(brackets) - marks.count(b",") - marks.count(b":")
        quotes += len(parts) - 1
        # Each string is a value or a key, so that many quotes are too many, even where no comma parts them.
        _check("values", max(values, quotes // 2 - bounds.max_keys - 1), bounds.max_values)
        _check("keys", keys, bounds.max_keys)
        _check("digits in numbers", digits, DIGITS_A_VALUE * bounds.max_values)
        if brackets:
            *_, depth = levels = list(accumulate(memoryview(brackets).cast("b"), initial=depth))
            if max(levels) > bounds.max_depth:
                raise too_deep(bounds)
        yield


def is_within(data: bytes, bounds: BodyBounds = DEFAULTS) -> bool:
    """Whether a document keeps the bounds. Counts in one go, so it is for documents that are short enough to be held anyway."""
    try:
        for _ in count(data, bounds):
            pass
    except RequestError:
        return False
    return True


def _is_within_by_its_length(data: bytes, bounds: BodyBounds) -> bool:
    """Most bodies have fewer bytes than they may have values: a value takes one at least, and a key with its value four."""
    if len(data) > min(bounds.max_values, 4 * bounds.max_keys):
        return False
    return len(data.translate(None, _NO_OPENING_BRACKET)) <= bounds.max_depth


def check_messages(count: int, bounds: BodyBounds) -> None:
    """Refuse too many messages and parts. Raises `RequestError` as `count` does."""
    _check("messages and parts", count, bounds.max_messages, "messages")


def too_deep(bounds: BodyBounds) -> RequestError:
    """The 400 for a body with too many levels."""
    message = f"the body is nested too deeply: more than {bounds.max_depth} levels, this router's limit"
    return RequestError(400, message, code="nested_too_deeply")


def _check(what: str, count: int, bound: int, param: str | None = None) -> None:
    if count > bound:
        message = f"the body holds more than {bound} {what}, this router's limit"
        raise RequestError(413, message, param=param, code="body_too_complex")
