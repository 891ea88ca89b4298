"""The conditions of rules, and how they are judged. Pure; the configuration builds conditions from YAML.

Truth has three values (Kleene's logic). A condition on a signal that is missing, or below its threshold, is UNKNOWN, and so is
its negation. A rule therefore fires only on what was measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from router.core.types import ChatRequest, Classification, Readings, Scores


class Truth(Enum):
    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"

    @classmethod
    def of(cls, fact: bool) -> Truth:
        """YES or NO."""
        return cls.YES if fact else cls.NO


class Pattern(Protocol):
    """A compiled regular expression, of any engine."""

    @property
    def pattern(self) -> str:
        """As the operator wrote it."""
        ...

    def search(self, text: str, /) -> object:
        """True, or a match, when it matches anywhere in the text."""
        ...

    def fullmatch(self, text: str, /) -> object:
        """True, or a match, when it matches the whole text."""
        ...


class Condition(Protocol):
    """What a rule asks of a request. `str` says it in words, without its parts."""

    def judge(self, request: ChatRequest, readings: Readings) -> Truth:
        """Whether it holds, by the request and what was read of it so far."""
        ...


@dataclass(frozen=True, slots=True)
class LabelIs:
    """A signal's label is one of these with enough confidence, or the score of one of these is high enough."""

    signal: str
    labels: frozenset[str]
    threshold: float
    """Probability, 0 to 1. A classification below it is UNKNOWN; a score below it is NO."""

    def judge(self, request: ChatRequest, readings: Readings) -> Truth:
        """Judge the reading; an unread or missing signal is UNKNOWN."""
        reading = readings.get(self.signal)
        if isinstance(reading, Scores):
            return Truth.of(any(reading.values.get(label, 0.0) >= self.threshold for label in self.labels))
        if not isinstance(reading, Classification) or reading.confidence < self.threshold:
            return Truth.UNKNOWN
        return Truth.of(reading.label in self.labels)

    def __str__(self) -> str:
        return f"{self.signal} is {' or '.join(sorted(self.labels))} (at least {self.threshold:.2f})"


@dataclass(frozen=True, slots=True)
class TextMatches:
    """The classified text contains a match of any of these patterns."""

    name: str
    """The operator's name for this set of keywords."""
    patterns: tuple[Pattern, ...]

    def judge(self, request: ChatRequest, readings: Readings) -> Truth:
        """Search the classified text: the last user message, not the whole conversation."""
        return Truth.of(any(pattern.search(request.text) for pattern in self.patterns))

    def __str__(self) -> str:
        return f"keywords {self.name}"


@dataclass(frozen=True, slots=True)
class TokensWithin:
    """The estimated size of the whole prompt lies in a range, both ends included."""

    min_tokens: int
    max_tokens: int | None
    """None for no upper bound."""

    def judge(self, request: ChatRequest, readings: Readings) -> Truth:
        """Compare `ChatRequest.prompt_tokens`."""
        size = request.prompt_tokens
        return Truth.of(self.min_tokens <= size and (self.max_tokens is None or size <= self.max_tokens))

    def __str__(self) -> str:
        return f"prompt tokens {self.min_tokens} to {'any' if self.max_tokens is None else self.max_tokens}"


@dataclass(frozen=True, slots=True)
class FlagIs:
    """A yes-or-no property of the request."""

    flag: str
    """`has_tools`, `has_images` or `is_stream`."""
    expected: bool

    def judge(self, request: ChatRequest, readings: Readings) -> Truth:
        """Compare the request's own attribute of that name."""
        return Truth.of(getattr(request, self.flag) is self.expected)

    def __str__(self) -> str:
        return self.flag if self.expected else f"not {self.flag}"


@dataclass(frozen=True, slots=True)
class HeaderMatches:
    """The request has a header, and the pattern matches its whole value."""

    header: str
    """Lower-case name."""
    pattern: Pattern

    def judge(self, request: ChatRequest, readings: Readings) -> Truth:
        """An absent header is NO."""
        value = request.headers.get(self.header)
        return Truth.of(value is not None and bool(self.pattern.fullmatch(value)))

    def __str__(self) -> str:
        return f"header {self.header} matches {self.pattern.pattern}"


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every part holds: NO if one is NO, else UNKNOWN if one is UNKNOWN."""

    parts: tuple[Condition, ...]

    def judge(self, request: ChatRequest, readings: Readings) -> Truth:
        """Stops at the first NO."""
        truth = Truth.YES
        for part in self.parts:
            found = part.judge(request, readings)
            if found is Truth.NO:
                return found
            if found is Truth.UNKNOWN:
                truth = found
        return truth

    def __str__(self) -> str:
        return "all"


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one part holds: YES if one is YES, else UNKNOWN if one is UNKNOWN."""

    parts: tuple[Condition, ...]

    def judge(self, request: ChatRequest, readings: Readings) -> Truth:
        """Stops at the first YES."""
        truth = Truth.NO
        for part in self.parts:
            found = part.judge(request, readings)
            if found is Truth.YES:
                return found
            if found is Truth.UNKNOWN:
                truth = found
        return truth

    def __str__(self) -> str:
        return "any"


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold; UNKNOWN stays UNKNOWN."""

    part: Condition

    def judge(self, request: ChatRequest, readings: Readings) -> Truth:
        """Swap YES and NO."""
        found = self.part.judge(request, readings)
        if found is Truth.UNKNOWN:
            return found
        return Truth.of(found is Truth.NO)

    def __str__(self) -> str:
        return "not"


def parts_of(condition: Condition) -> tuple[Condition, ...]:
    """The conditions directly inside one; empty for a leaf."""
    match condition:
        case AllOf(parts) | AnyOf(parts):
            return parts
        case Not(part):
            return (part,)
        case _:
            return ()


def signals_of(condition: Condition) -> frozenset[str]:
    """Names of every signal that a condition reads."""
    if isinstance(condition, LabelIs):
        return frozenset({condition.signal})
    return frozenset().union(*map(signals_of, parts_of(condition)))
