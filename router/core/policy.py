"""Rules to decision: what a rule may ask, how it is judged, and which rule wins. Pure; the config builds it from YAML.

Truth has three values (Kleene's logic). A condition on a signal that is missing, or that is not sure enough, is
UNKNOWN, and so is its negation: a rule fires only on what was really measured.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from router.core.types import (
    ChatRequest,
    Classification,
    Decision,
    Missing,
    Model,
    Reading,
    Reasoning,
    SystemPrompt,
)


class Truth(Enum):
    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"

    @classmethod
    def of(cls, fact: bool) -> Truth:
        """YES or NO."""
        return cls.YES if fact else cls.NO


Readings = Mapping[str, Reading]
"""What was measured, by signal name. A name that is absent was not read yet; one that failed is `Missing`."""


# -- conditions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LabelIs:
    """A classifying signal names one of these labels and is sure enough of it."""

    signal: str
    labels: frozenset[str]
    at_least: float
    """Least confidence, 0 to 1; below it the condition is UNKNOWN."""

    def judge(self, request: ChatRequest, readings: Readings) -> Truth:
        """Judge by the reading alone; an unread or missing signal is UNKNOWN."""
        reading = readings.get(self.signal)
        if not isinstance(reading, Classification) or reading.confidence < self.at_least:
            return Truth.UNKNOWN
        return Truth.of(reading.label in self.labels)

    def __str__(self) -> str:
        return f"{self.signal} is {' or '.join(sorted(self.labels))} (at least {self.at_least:.2f})"


@dataclass(frozen=True, slots=True)
class TextMatches:
    """The classified text contains a match of any of these patterns."""

    name: str
    """What the operator called this set of keywords."""
    patterns: tuple[re.Pattern[str], ...]

    def judge(self, request: ChatRequest, readings: Readings) -> Truth:
        """Search the classified text, which is one message, not the whole conversation."""
        return Truth.of(any(pattern.search(request.text) for pattern in self.patterns))

    def __str__(self) -> str:
        return f"keywords {self.name}"


@dataclass(frozen=True, slots=True)
class TokensWithin:
    """The estimated size of the whole prompt lies in a range; both ends belong to it."""

    least: int
    most: int | None

    def judge(self, request: ChatRequest, readings: Readings) -> Truth:
        """Compare `ChatRequest.prompt_tokens`."""
        size = request.prompt_tokens
        return Truth.of(self.least <= size and (self.most is None or size <= self.most))

    def __str__(self) -> str:
        return f"prompt tokens {self.least} to {'any' if self.most is None else self.most}"


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
    """A request header is there and its value matches in full."""

    header: str
    """Lower-case name."""
    pattern: re.Pattern[str]

    def judge(self, request: ChatRequest, readings: Readings) -> Truth:
        """An absent header is NO."""
        value = request.headers.get(self.header)
        return Truth.of(value is not None and self.pattern.fullmatch(value) is not None)

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


Condition = LabelIs | TextMatches | TokensWithin | FlagIs | HeaderMatches | AllOf | AnyOf | Not


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


# -- rules -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rule:
    """One condition and what is chosen when it holds."""

    name: str
    when: Condition
    model: Model
    priority: int = 0
    """Higher is asked first; equal ones in the order of the file."""
    reasoning: Reasoning | None = None
    system_prompt: SystemPrompt | None = None


@dataclass(frozen=True, slots=True)
class Default:
    """What is chosen when no rule fires."""

    model: Model
    reasoning: Reasoning | None = None
    system_prompt: SystemPrompt | None = None


@dataclass(frozen=True, slots=True)
class Unread:
    """The decision hangs on signals that were not read yet."""

    signals: frozenset[str]


@dataclass(frozen=True, slots=True)
class Policy:
    """All rules, highest priority first, and the default."""

    rules: tuple[Rule, ...]
    default: Default
    intent_threshold: float
    """Least confidence at which the intent counts as known, 0 to 1; only names the default's reason."""

    @classmethod
    def of(cls, rules: tuple[Rule, ...], default: Default, intent_threshold: float) -> Policy:
        """Put `rules` into the order in which they are asked; equal priorities keep their order."""
        return cls(tuple(sorted(rules, key=lambda rule: -rule.priority)), default, intent_threshold)

    def decide(self, request: ChatRequest, readings: Readings) -> Decision | Unread:
        """The first rule that holds, or the default.

        Signals are read late: a rule of higher priority that needs none may settle the matter without them. The answer
        is `Unread` only when a rule that could still win hangs on a signal absent from `readings`.
        """
        for rule in self.rules:
            truth = rule.when.judge(request, readings)
            if truth is Truth.YES:
                return Decision(rule.name, rule.model, "matched", rule.reasoning, rule.system_prompt)
            if truth is Truth.UNKNOWN and (unread := signals_of(rule.when) - readings.keys()):
                return Unread(unread)
        default = self.default
        return Decision("default", default.model, self._why_default(readings), default.reasoning, default.system_prompt)

    def _why_default(self, readings: Readings) -> str:
        match readings.get("intent"):
            case Missing():
                return "intent_missing"
            case Classification(confidence=confidence) if confidence < self.intent_threshold:
                return "below_threshold"
            case _:
                return "no_match"
