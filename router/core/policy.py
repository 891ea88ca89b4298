"""From rules to a decision: which rule wins, and which signals must be read first. Pure; the configuration builds the rules."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from router.core.conditions import Condition, Truth, signals_of
from router.core.models import Model, Reasoning, SystemPrompt
from router.core.prompt import is_guard
from router.core.selection import QUALITY, Selector
from router.core.types import Block, ChatRequest, Classification, Decision, DecisionReason, Missing, Readings, Scores


@dataclass(frozen=True, slots=True)
class Rule:
    """One condition and what is chosen when it holds."""

    name: str
    when: Condition
    model: Model
    """The model that serves; in a rule that selects, only while the predicted accuracies are unknown."""
    priority: int = 0
    """Rules of higher priority are judged first; equal priorities keep the order of the file."""
    reasoning: Reasoning | None = None
    system_prompt: SystemPrompt | None = None
    selection: Selector | None = None
    block: Block | None = None


@dataclass(frozen=True, slots=True)
class Default:
    """What is chosen when no rule holds."""

    model: Model
    reasoning: Reasoning | None = None
    system_prompt: SystemPrompt | None = None
    selection: Selector | None = None


@dataclass(frozen=True, slots=True)
class NeedsSignals:
    """The decision depends on signals that are not read yet."""

    signals: frozenset[str]


@dataclass(frozen=True, slots=True)
class Policy:
    """All rules, highest priority first, and the default."""

    rules: tuple[Rule, ...]
    default: Default
    intent_threshold: float
    """Confidence from which the intent counts as known, 0 to 1. It only changes the reason that the default gives."""

    @classmethod
    def of(cls, rules: tuple[Rule, ...], default: Default, intent_threshold: float) -> Policy:
        """A policy that judges `rules` in this order: rules that block first, then by priority, then as in the file."""
        return cls(tuple(sorted(rules, key=lambda rule: (rule.block is None, -rule.priority))), default, intent_threshold)

    @property
    def signals(self) -> frozenset[str]:
        """Every signal that a rule or a selection may need."""
        chooses = any(rule.selection for rule in self.rules) or self.default.selection is not None
        own = frozenset({QUALITY}) if chooses else frozenset[str]()
        return own.union(*(signals_of(rule.when) for rule in self.rules))

    @property
    def reads_prompt(self) -> bool:
        """Whether a rule that blocks reads more than the last user message, which may take long."""
        return any(map(is_guard, self.signals))

    def fails_closed(self, name: str) -> bool:
        """Whether every rule that needs this reading blocks when the reading is missing."""
        return all(rule.block and rule.block.fails_closed for rule in self.rules if name in signals_of(rule.when))

    def decide(self, request: ChatRequest, readings: Readings) -> Decision | NeedsSignals:
        """The first rule that holds, or the default.

        Signals are read late: a rule of higher priority may win without any. The result is `NeedsSignals` only when a rule
        that could still win depends on a signal that `readings` lacks.
        """
        return self._first(self.rules, request, readings) or _decision(
            "default", self.default, self._why_default(readings), readings
        )

    def refuse(self, request: ChatRequest, readings: Readings) -> Decision | NeedsSignals | None:
        """The first blocking rule that holds. For a request that names its model, no other rules are judged."""
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
        """The signals that blocking rules still need. Most requests pass all these rules, so the signals are read in parallel."""
        open_rules = [rule for rule in self.rules if rule.block and rule.when.judge(request, readings) is Truth.UNKNOWN]
        return frozenset().union(*(signals_of(rule.when) for rule in open_rules)) - readings.keys()

    def _why_default(self, readings: Readings) -> DecisionReason:
        match readings.get("intent"):
            case Missing():
                return "intent_missing"
            case Classification(confidence=confidence) if confidence < self.intent_threshold:
                return "below_threshold"
            case _:
                return "no_match"


def _decision(
    name: str, chosen: Rule | Default, reason: DecisionReason, readings: Readings, block: Block | None = None
) -> Decision | NeedsSignals:
    model = chosen.model
    if chosen.selection:
        if QUALITY not in readings:
            return NeedsSignals(frozenset({QUALITY}))
        scores = readings[QUALITY]
        if isinstance(scores, Scores):
            model, reason = chosen.selection.among(scores), "selected"
    return Decision(name, model, reason, chosen.reasoning, chosen.system_prompt, block)


def _missing(condition: Condition, readings: Readings) -> str:
    """Why a signal of the condition could not be read; empty when none is missing or there was no text."""
    found = [readings.get(name) for name in sorted(signals_of(condition))]
    return next((each.reason for each in found if isinstance(each, Missing) and each.reason != "no_text"), "")
