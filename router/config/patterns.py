"""Operators' patterns, matched by RE2 in time linear in the text, so that no message can stall the router.

Knows no rules and no YAML. A linear engine cannot support lookaround and back-references, so they are refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import re2

MAX_REPEATED = 100
"""The most characters that counted repetitions may stand for, nested ones multiplied. RE2's time is the text's length times the
pattern's concurrent states: 16,384 characters took up to 160 ms with 200 states, and over a second with 3,000."""
MAX_WORDS = 10_000
"""The most characters of one set. With three times as many, RE2 runs out of memory for states and is a thousand times slower."""
_MEMORY_BYTES = 64 * 1024 * 1024
"""RE2's memory for one pattern, most of it used while searching. With RE2's default of 8 MiB, 4,000 words or a counted `\\pL` run
out of memory for states, and a search takes a hundred times as long."""
_NOT_WORD = r"[^\pL\pN_]"
"""Python's `\\W`. RE2's own `\\W` knows only ASCII."""
_REMEDIES = (
    (r"\(\?<?[=!]", "it looks ahead or behind; write that into the pattern, or use two conditions under all and not"),
    (r"\\[1-9]|\(\?P=|invalid perl operator: \(\?P$", "it refers back to a group; write the alternatives out"),
    (r"\\Z", r"write \z for the end of the text"),
    (r"\\[uUN]", r"write \x{1F600} for a character by its number"),
    (r"\(\?>|[*+?}]\+$", "it forbids backtracking, which this engine never does; leave that out"),
    (r"\(\?\(", "it depends on a group; write two patterns"),
    (r"\(\?[#x]", "write the pattern without comments and layout"),
    (r"\(\?[aLu]", "leave the flag out"),
    ("repetition size", f"counts go up to 1000, and repetitions may stand for {MAX_REPEATED} characters; write * or + for more"),
    ("too large", "write a shorter one, or several"),
)
"""Patterns that recognise an unsupported construct in RE2's error message, each with what to write instead."""
_TOKEN = re.compile(
    r"\\Q.*?(?:\\E|\Z)|\\[pP]\{[^}]*\}|\\x\{[^}]*\}|\\.|\[\^?\]?(?:\[:\^?\w+:\]|\\.|[^\]\\])*\]|\(\?[\w-]*\)|\(\?P?<\w+>|"
    r"\(\?[\w-]*:|[()|^$]|(?P<count>\{\d+(?:,\d*)?\})|[*+?]|.",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class LinearPattern:
    """A compiled pattern. Patterns with equal text and case are equal."""

    pattern: str
    is_case_sensitive: bool
    _compiled: Any = field(compare=False, repr=False)

    def search(self, text: str, /) -> bool:
        """Whether it matches anywhere in `text`."""
        return _found(self._compiled.search, text)

    def fullmatch(self, text: str, /) -> bool:
        """Whether it matches the whole of `text`."""
        return _found(self._compiled.fullmatch, text)


class PatternError(ValueError):
    """The text is not a valid pattern. The message is for the operator."""


def compile_pattern(pattern: str, *, is_case_sensitive: bool = True) -> LinearPattern:
    """Compile a pattern in RE2's syntax.

    Raises:
        PatternError: says what RE2 does not accept, and what to write instead.
    """
    options = re2.Options()
    options.case_sensitive, options.log_errors, options.never_capture = is_case_sensitive, False, True
    options.max_mem = _MEMORY_BYTES
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        raise PatternError(_explained(error)) from None
    except UnicodeEncodeError:
        raise PatternError("is no regular expression: half a surrogate pair stands for no character") from None
    if (count := repeated(pattern)) > MAX_REPEATED:
        raise PatternError(f"its counted repetitions stand for {count} characters, over {MAX_REPEATED}; write * or + for more")
    if _has_boundary_beside_others(pattern):
        raise PatternError(r"\b knows ASCII letters alone and stands beside another; use 'words', or (?:^|[^\pL]) in its place")
    return LinearPattern(pattern, is_case_sensitive, compiled)


def keyword_patterns(words: Sequence[str], patterns: Sequence[str], *, is_case_sensitive: bool) -> tuple[LinearPattern, ...]:
    """Combine words and valid patterns into as few patterns as possible, so that a text is searched once.

    Raises:
        PatternError: there are too many words.
    """
    if len(words) > MAX_WORDS:
        raise PatternError(f"more than {MAX_WORDS} words; split them into several sets")
    every = [any_word(words), *patterns] if words else list(patterns)
    together = "|".join(f"(?:{pattern})" for pattern in every) if len(every) > 1 else "".join(every)
    try:
        return (compile_pattern(together, is_case_sensitive=is_case_sensitive),) if every else ()
    except PatternError:
        return tuple(compile_pattern(pattern, is_case_sensitive=is_case_sensitive) for pattern in every)


def any_word(words: Iterable[str]) -> str:
    """A pattern for any of some whole words or phrases. A word ends where no letter or digit of any script follows."""
    # Not \b, because a word may begin or end with a character that is not a letter or digit, such as C++ or .NET.
    return rf"(?:\A|{_NOT_WORD})(?:{'|'.join(map(re2.escape, words))})(?:{_NOT_WORD}|\z)"


def repeated(pattern: str) -> int:
    """How many characters the counted repetitions of a valid pattern stand for. `(?:ab{3}){10}` stands for 40."""
    counted = 0
    size = before = 0
    """Of what was read last: its characters, and what was counted before it began."""
    open_groups: list[tuple[int, int]] = []
    inside = 0
    """Characters of the group that is open."""
    for match in _TOKEN.finditer(pattern):
        piece = match[0]
        if match["count"]:
            times = max(map(int, re.findall(r"\d+", piece)))
            counted = before + size * times
            inside += size * (times - 1)
            size *= times
        elif piece == ")":
            size = inside
            inside, before = open_groups.pop()
            inside += size
        elif piece.startswith("("):
            if piece.endswith(")"):
                continue  # flags alone
            open_groups.append((inside, counted))
            inside = 0
        else:
            size, before = int(piece not in "|^$*+?"), counted
            inside += size
    return counted


def _has_boundary_beside_others(pattern: str) -> bool:
    pieces = [match[0] for match in _TOKEN.finditer(pattern)]
    pairs = (*pairwise(pieces), *pairwise(reversed(pieces)))
    return any(one == r"\b" and len(other) == 1 and not other.isascii() for one, other in pairs)


def _found(match: Any, text: str) -> bool:
    try:
        return match(text) is not None
    except UnicodeEncodeError:  # JSON may carry half a surrogate pair, which has no UTF-8
        return match(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")) is not None


def _explained(error: Exception) -> str:
    said = error.args[0] if error.args else ""
    words = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
    remedy = next((remedy for sign, remedy in _REMEDIES if re.search(sign, words)), "")
    return f"is no regular expression of RE2: {words}" + (f"; {remedy}" if remedy else "")
