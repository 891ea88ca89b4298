"""Rules to decision: what a rule may ask, how it is judged, and which rule wins. Pure; the config builds it from YAML.

Truth has three values (Kleene's logic). A condition on a signal that is missing, or that is not sure enough, is
UNKNOWN, and so is its negation: a rule fires only on what was really measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from router.core.prompt import reads_of
from router.core.types import (
    Block,
    ChatRequest,
    Classification,
    Decision,
    Missing,
    Model,
    Reading,
    Reasoning,
    Scores,
    SystemPrompt,
)

QUALITY = "quality"
"""The signal that tells each model's chance of a right answer."""


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


# -- conditions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LabelIs:
    """A signal names one of these labels and is sure enough of it; one that scores many, scores one of these high enough."""

    signal: str
    labels: frozenset[str]
    at_least: float
    """Least probability, 0 to 1. A classification below it is UNKNOWN; a score below it is NO."""

    def judge(self, request: ChatRequest, readings: Readings) -> Truth:
        """Judge by the reading alone; an unread or missing signal is UNKNOWN."""
        reading = readings.get(self.signal)
        if isinstance(reading, Scores):
            return Truth.of(any(reading.values.get(label, 0.0) >= self.at_least for label in self.labels))
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
    patterns: tuple[Pattern, ...]

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
class Candidate:
    """A model that a choice weighs."""

    model: Model
    chance: float
    """Of a right answer, 0 to 1."""
    worth: float
    """The chance, less what the price takes from it; the highest wins."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Choose among models by what each costs and by its chance of a right answer."""

    models: tuple[Model, ...]
    cost_weight: float
    """How much chance is given up for price: at 0.1, the dearest of the models has to be expected to be right 10 points more
    often than a free one; 0 takes the best, whatever it costs."""

    def among(self, scores: Scores) -> Model:
        """The model with the highest worth; ties to the cheaper."""
        return max(self.weigh(scores), key=lambda candidate: (candidate.worth, -candidate.model.cost)).model

    def weigh(self, scores: Scores) -> list[Candidate]:
        """Every model with its chance, less its share of the highest price times `cost_weight`."""
        dearest = max(model.cost for model in self.models) or 1.0
        weighed = []
        for model in self.models:
            chance = scores.values.get(model.quality_profile, 0.0)
            weighed.append(Candidate(model, chance, chance - self.cost_weight * (model.cost / dearest)))
        return weighed


@dataclass(frozen=True, slots=True)
class Rule:
    """One condition and what is chosen when it holds."""

    name: str
    when: Condition
    model: Model
    """Of a rule with a choice, what serves while the chances cannot be told."""
    priority: int = 0
    """Higher is asked first; equal ones in the order of the file."""
    reasoning: Reasoning | None = None
    system_prompt: SystemPrompt | None = None
    choice: Choice | None = None
    block: Block | None = None


@dataclass(frozen=True, slots=True)
class Default:
    """What is chosen when no rule fires."""

    model: Model
    reasoning: Reasoning | None = None
    system_prompt: SystemPrompt | None = None
    choice: Choice | None = None


@dataclass(frozen=True, slots=True)
class NeedsSignals:
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
        """Put `rules` into the order in which they are asked: what blocks first, then by priority, else as they stand."""
        return cls(tuple(sorted(rules, key=lambda rule: (rule.block is None, -rule.priority))), default, intent_threshold)

    @property
    def signals(self) -> frozenset[str]:
        """Every signal that a rule or a choice may ask for."""
        chooses = any(rule.choice for rule in self.rules) or self.default.choice is not None
        own = frozenset({QUALITY}) if chooses else frozenset[str]()
        return own.union(*(signals_of(rule.when) for rule in self.rules))

    @property
    def reads_prompt(self) -> bool:
        """A rule that blocks reads more than the last user message, which may take long."""
        return any(reads_of(name)[0] != "message" for name in self.signals)

    def fails_closed(self, name: str) -> bool:
        """Every rule that asks for this reading blocks where it is missing."""
        return all(rule.block and rule.block.fails_closed for rule in self.rules if name in signals_of(rule.when))

    def decide(self, request: ChatRequest, readings: Readings) -> Decision | NeedsSignals:
        """The first rule that holds, or the default.

        Signals are read late: a rule of higher priority that needs none may settle the matter without them. The answer
        is `NeedsSignals` only when a rule that could still win hangs on a signal absent from `readings`.
        """
        return self._first(self.rules, request, readings) or _decision(
            "default", self.default, self._why_default(readings), readings
        )

    def refuse(self, request: ChatRequest, readings: Readings) -> Decision | NeedsSignals | None:
        """The first rule that blocks and holds. Asked of requests that name their model, too, where no other rule is."""
        return self._first([rule for rule in self.rules if rule.block], request, readings)

    def _first(self, rules: Iterable[Rule], request: ChatRequest, readings: Readings) -> Decision | NeedsSignals | None:
        for rule in rules:
            truth = rule.when.judge(request, readings)
            if truth is Truth.YES:
                return _decision(rule.name, rule, "matched", readings, rule.block)
            if truth is Truth.UNKNOWN and (unread := signals_of(rule.when) - readings.keys()):
                return NeedsSignals(unread | self._guards(request, readings) if rule.block else unread)
            if truth is Truth.UNKNOWN and rule.block and rule.block.fails_closed and (missing := _missing(rule.when, readings)):
                return Decision(rule.name, rule.model, "signal_missing", block=rule.block, missing=missing)
        return None

    def _guards(self, request: ChatRequest, readings: Readings) -> frozenset[str]:
        """What all rules that block still have to know: most requests pass all of them, so it is read side by side."""
        open_rules = [rule for rule in self.rules if rule.block and rule.when.judge(request, readings) is Truth.UNKNOWN]
        return frozenset().union(*(signals_of(rule.when) for rule in open_rules)) - readings.keys()

    def _why_default(self, readings: Readings) -> str:
        match readings.get("intent"):
            case Missing():
                return "intent_missing"
            case Classification(confidence=confidence) if confidence < self.intent_threshold:
                return "below_threshold"
            case _:
                return "no_match"


def _decision(
    name: str, chosen: Rule | Default, reason: str, readings: Readings, block: Block | None = None
) -> Decision | NeedsSignals:
    model = chosen.model
    if chosen.choice:
        if QUALITY not in readings:
            return NeedsSignals(frozenset({QUALITY}))
        scores = readings[QUALITY]
        if isinstance(scores, Scores):
            model, reason = chosen.choice.among(scores), "chosen"
    return Decision(name, model, reason, chosen.reasoning, chosen.system_prompt, block)


def _missing(condition: Condition, readings: Readings) -> str:
    """Why a signal of the condition could not be read; empty when none is missing, or there was nothing to read."""
    found = [readings.get(name) for name in sorted(signals_of(condition))]
    return next((each.reason for each in found if isinstance(each, Missing) and each.reason != "no_text"), "")
