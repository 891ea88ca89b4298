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
        selects = any(rule.selection for rule in self.rules) or self.default.selection is not None
        for_selection = frozenset({QUALITY}) if selects else frozenset[str]()
        return for_selection.union(*(signals_of(rule.when) for rule in self.rules))

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
        if found := self._first_of(self.rules, request, readings):
            return found
        return _decide_by("default", self.default, self._why_default(readings), readings)

    def refuse(self, request: ChatRequest, readings: Readings) -> Decision | NeedsSignals | None:
        """The first blocking rule that holds. For a request that names its model, no other rules are judged."""
        return self._first_of([rule for rule in self.rules if rule.block], request, readings)

    def open_decisions(self, request: ChatRequest) -> list[str]:
        """Names of the decisions that a request may get, as far as it shows before any signal is read."""
        names = []
        for rule in self.rules:
            truth = rule.when.judge(request, {})
            if truth is not Truth.NO:
                names.append(rule.name)
            if truth is Truth.YES:
                return names
        return [*names, "default"]

    def _first_of(self, rules: Iterable[Rule], request: ChatRequest, readings: Readings) -> Decision | NeedsSignals | None:
        """The decision of the first rule that holds, or the signals that tell whether a rule holds; None when no rule does."""
        for rule in rules:
            truth = rule.when.judge(request, readings)
            if truth is Truth.YES:
                return _decide_by(rule.name, rule, "matched", readings, rule.block)
            if truth is Truth.UNKNOWN and (found := self._while_unknown(rule, request, readings)):
                return found
        return None

    def _while_unknown(self, rule: Rule, request: ChatRequest, readings: Readings) -> Decision | NeedsSignals | None:
        """What follows from a rule of which nobody knows whether it holds; None when the next rule is judged."""
        unread = signals_of(rule.when) - readings.keys()
        if unread and rule.block:
            return NeedsSignals(self._unread_of_blocking_rules(request, readings))
        if unread:
            return NeedsSignals(unread)
        if rule.block and rule.block.fails_closed and (missing := _why_missing(rule.when, readings)):
            return Decision(rule.name, rule.model, "signal_missing", block=rule.block, missing=missing)
        return None

    def _unread_of_blocking_rules(self, request: ChatRequest, readings: Readings) -> frozenset[str]:
        """The unread signals of all blocking rules that may hold, to be read together: most requests pass all these rules."""
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


def _decide_by(
    name: str, chosen: Rule | Default, reason: DecisionReason, readings: Readings, block: Block | None = None
) -> Decision | NeedsSignals:
    """The decision of a rule or the default that won; a selection may first need the predicted accuracies."""
    model = chosen.model
    if chosen.selection:
        if QUALITY not in readings:
            return NeedsSignals(frozenset({QUALITY}))
        scores = readings[QUALITY]
        if isinstance(scores, Scores):
            model, reason = chosen.selection.among(scores), "selected"
    return Decision(name, model, reason, chosen.reasoning, chosen.system_prompt, block)


def _why_missing(condition: Condition, readings: Readings) -> str:
    """Why a signal of the condition could not be read; empty when none is missing or there was no text."""
    found = [readings.get(name) for name in sorted(signals_of(condition))]
    return next((each.reason for each in found if isinstance(each, Missing) and each.reason != "no_text"), "")
