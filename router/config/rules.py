"""Reads `rules` and `default` into the policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module

from router.config.cache import CacheConfig, DecisionCacheKeys, decision_policy
from router.config.conditions import GUARDED_SIGNALS, ConditionContext, read_condition
from router.config.keys import (
    NAME,
    NAME_WORDS,
    Choice,
    Flag,
    Integer,
    JsonSchema,
    Number,
    OwnSection,
    Text,
    Texts,
    key,
    read,
    subsection,
)
from router.config.logic import follows, never_holds
from router.config.models import EFFORTS
from router.config.reader import Item, Section, suggest
from router.core.conditions import AllOf, AnyOf, Condition, LabelIs, TextMatches
from router.core.lookup import CachePolicy
from router.core.models import Model, Reasoning, ReasoningFamily, SystemPrompt
from router.core.policy import Default, Policy, Rule
from router.core.prompt import READS, name_of, name_of_keywords
from router.core.selection import Selector
from router.core.types import Block

_RESERVED_NAMES = ("default", "explicit_model")
_MODEL = Text("model", "the name of a model")
_NO_MODEL = Model("", "", "")
_NO_CONDITION = AllOf(())


# -- declarations ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _When:
    """A condition, which `conditions.read_condition` reads."""

    words: str = "condition"

    @property
    def schema(self) -> JsonSchema:
        """See `keys.Kind`."""
        return {"$ref": "#/$defs/condition"}


@dataclass(frozen=True, slots=True)
class SelectKeys:
    """Models among which a rule selects."""

    candidates: tuple[str, ...] = key(
        Texts("names of models", "list of models", at_least=2),
        "Two or more, each with `quality_profile`.",
        (),
        required="name two models or more",
    )
    cost_weight: float = key(
        Number(0, 1),
        "Predicted accuracy given up for cost: at 0.1 the most expensive model must be expected right 10 points more often than "
        "a free one. 0: the most accurate, at any cost.",
        0.1,
    )


@dataclass(frozen=True, slots=True)
class BlockKeys:
    """What a rule that blocks does."""

    message: str = key(Text(), "What the client is told.", "this request is not allowed here")
    fail_closed: bool = key(Flag(), "Refuse also what could not be read, with another answer.", False)
    reads: str = key(
        Choice(READS),
        "Everything that the model will read; all but what the application writes (system and developer messages, tools, "
        "formats); the last user message alone.",
        READS[0],
    )


@dataclass(frozen=True, slots=True)
class ReasoningKeys:
    """Whether the model thinks, and with which effort."""

    enabled: bool = key(Flag(), "Sent either way: off is said, too.", True, required="true or false was expected")
    effort: str = key(
        Choice(EFFORTS),
        "Only for families of type `reasoning_effort`, which with `select` every candidate's has to be.",
        "",
        shown="the family's",
    )

    def check(self, section: Section) -> None:
        """Refuse an effort when thinking is off."""
        if self.effort and not self.enabled:
            section.problem("effort", "says how hard to think while 'enabled' is false; remove one of them")


@dataclass(frozen=True, slots=True)
class SystemPromptKeys:
    """A system prompt of the operator's."""

    text: str = key(Text("text", "the prompt's text"), "The prompt.", "", required="the prompt's text was expected")
    mode: str = key(Choice(("insert", "replace")), "Before the client's own system prompt, or instead of it.", "insert")


@dataclass(frozen=True, slots=True)
class DefaultKeys:
    """The decision when no rule fires."""

    model: str = key(
        _MODEL, "Also serves, by envoy.yaml, while the router is down.", "", required="the name of a model was expected"
    )
    select: SelectKeys = subsection(SelectKeys, "As in rules.", shown="none")
    reasoning: ReasoningKeys = subsection(ReasoningKeys, "As in rules.", shown="unchanged")
    system_prompt: SystemPromptKeys = subsection(SystemPromptKeys, "As in rules.", shown="none")
    cache: object = key(OwnSection(DecisionCacheKeys), "As in rules.", shown="as in rules")


@dataclass(frozen=True, slots=True)
class RuleKeys:
    """One rule."""

    name: str = key(
        Text("name", NAME_WORDS, NAME),
        "Seen in `x-vsr-selected-decision`, metrics and logs. `default` and `explicit_model` are taken.",
        "",
        required=f"{NAME_WORDS} was expected",
    )
    when: object = key(_When(), "See [Conditions](#conditions).", None, required="say when the rule holds")
    model: str = key(
        _MODEL,
        "The model that serves; of a rule with `select`, while accuracy cannot be predicted. A rule that blocks has none.",
        "",
        shown="required",
    )
    select: SelectKeys = subsection(
        SelectKeys, "Selects the candidate with the best predicted accuracy for its cost.", shown="none"
    )
    block: BlockKeys = subsection(
        BlockKeys,
        "Instead of a model: answer 403. Evaluated before all other rules, also for requests that name their model.",
        shown="none",
    )
    priority: int = key(Integer(-1_000_000, 1_000_000), "Higher is evaluated first.", 0)
    reasoning: ReasoningKeys = subsection(ReasoningKeys, "Absent, the client's own switches stay as they are.", shown="unchanged")
    system_prompt: SystemPromptKeys = subsection(SystemPromptKeys, "A system prompt for what the rule decides.", shown="none")
    cache: object = key(OwnSection(DecisionCacheKeys), "Cache settings of this rule.", shown="as in `semantic_cache`")


# -- readers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RuleContext:
    """What rules may refer to."""

    models: Mapping[str, Model]
    families: Mapping[str, ReasoningFamily]
    conditions: ConditionContext
    cache: CacheConfig


def read_policy(top: Section, context: RuleContext) -> tuple[Policy, dict[str, CachePolicy]]:
    """Read the rules, and the cache policies of their decisions by name. A decision without a policy is not cached."""
    listed = top.item("rules")
    items = listed.items("a list of rules") if listed else []
    policies: dict[str, CachePolicy] = {}
    rules = [_rule(item, context, policies) for item in items]
    _check_rules(rules, items)
    section = top.section("default")
    if not top.has("default"):
        top.problem("default", "is missing; name the model that serves when no rule fires")
    keys = read(section, DefaultKeys) if section.node is not None else DefaultKeys()
    model = _model(section, keys.model, context)
    default = Default(
        model,
        _reasoning(section, keys, model, context),
        _system_prompt(section, keys.system_prompt),
        _selection(section, keys.select, context),
    )
    if cache_policy := decision_policy(section, context.cache):
        policies["default"] = cache_policy
    return Policy.of(tuple(rules), default, context.conditions.intent_threshold), policies


def _check_rules(rules: list[Rule], items: list[Item]) -> None:
    """Report rules with equal names, and rules that can never win because an earlier rule always wins."""
    names: set[str] = set()
    for rule, item in zip(rules, items, strict=True):
        if rule.name in names:
            item.problem(f"there is a rule '{rule.name}' already; names tell rules apart in headers and metrics")
        names.add(rule.name or item.path)
    evaluated: list[Rule] = []
    for rule, item in sorted(zip(rules, items, strict=True), key=lambda pair: (pair[0].block is None, -pair[0].priority)):
        if any(problem.path.startswith(f"{item.path}.when") for problem in item.notes.problems):
            continue  # what it asks is not known, so nothing follows from it
        shadow = next((other for other in evaluated if _shadows(other, rule)), None)
        if shadow and rule.when != _NO_CONDITION:
            what = "asks the same" if shadow.when == rule.when else "holds whenever this one does"
            item.problem(f"can never win: rule '{shadow.name}' {what} and is evaluated before it")
        evaluated.append(rule)


def _shadows(other: Rule, rule: Rule) -> bool:
    """Whether `rule` can never win because the earlier `other` always does.

    A rule that fails closed also fires on a missing reading, so only a rule that fails closed can shadow it.
    """
    is_stricter = rule.block is not None and rule.block.fails_closed and not (other.block and other.block.fails_closed)
    is_told = other.when == _NO_CONDITION or never_holds(rule.when)
    return not is_told and not is_stricter and follows(rule.when, other.when)


def _rule(item: Item, context: RuleContext, policies: dict[str, CachePolicy]) -> Rule:
    section = item.section()
    keys = read(section, RuleKeys)
    if keys.name in _RESERVED_NAMES:
        section.problem("name", f"'{keys.name}' is the router's own word; choose another")
    when, is_blocking = section.item("when"), section.has("block")
    condition = read_condition(when, context.conditions) if when else _NO_CONDITION
    if is_blocking:
        for name in ("model", "reasoning", "system_prompt", "select", "cache"):
            if section.has(name):
                section.problem(name, "could do nothing: the rule blocks, no model is asked")
        condition = _of_prompt(condition, keys.block.reads, context)
    elif not section.has("model"):
        section.problem("model", "is missing; the name of a model, or 'block', was expected")
    model = next(iter(context.models.values()), _NO_MODEL) if is_blocking else _model(section, keys.model, context)
    if cache_policy := decision_policy(section, context.cache):
        policies[keys.name] = cache_policy
    return Rule(
        keys.name,
        condition,
        model,
        keys.priority,
        _reasoning(section, keys, model, context),
        _system_prompt(section, keys.system_prompt),
        _selection(section, keys.select, context),
        Block(keys.block.message, keys.block.fail_closed) if is_blocking else None,
    )


def _of_prompt(condition: Condition, reads: str, context: RuleContext) -> Condition:
    """The condition of a blocking rule, whose guards read what `reads` says.

    A signal without a guard still reads the last user message: the intent, a head, a signal that is not in `GUARDED_SIGNALS`. So
    does a condition under `not`, because no request has a finding in all its parts.
    """
    custom = context.conditions.custom
    match condition:
        case LabelIs(signal) if signal in GUARDED_SIGNALS or (signal in custom and custom[signal].is_detector):
            return replace(condition, signal=name_of(reads, signal))
        case TextMatches(name) if reads != "message":
            return LabelIs(name_of(reads, name_of_keywords(name)), frozenset({name}), 0.5)
        case AllOf(parts) | AnyOf(parts):
            return type(condition)(tuple(_of_prompt(part, reads, context) for part in parts))
        case _:
            return condition


_USUAL_SELECTOR = "cost_weight"
SELECTORS: Mapping[str, Callable[[tuple[Model, ...], SelectKeys], Selector]] = {
    "cost_weight": lambda models, keys: import_module("router.core.selection").Selection(models, keys.cost_weight),
}
"""By the key of `select` that asks for it."""


def _selection(section: Section, keys: SelectKeys, context: RuleContext) -> Selector | None:
    """Each candidate has to say which benchmarked model predicts its accuracy."""
    if not section.has("select"):
        return None
    part = section.section("select")
    listed, models = part.item("candidates"), []
    for item in listed.items() if listed else ():
        model = context.models.get(item.text())
        if model is None:
            item.problem(f"there is no model '{item.text()}'{suggest(item.text(), context.models)}")
        elif not model.quality_profile:
            item.problem(f"models.{model.name}.quality_profile is missing, so its accuracy cannot be predicted")
        elif model in models:
            item.problem(f"'{model.name}' is a candidate already; name another model, or remove it")
        else:
            models.append(model)
    if listed and len(keys.candidates) < 2:
        part.problem("candidates", "at least two models were expected")
    if not context.conditions.capabilities.models:
        message = "the model of signals.encoder.model_path predicts no accuracy, or signals.encoder is switched off"
        part.problem("candidates", message)
    asked = [name for name in SELECTORS if part.has(name)] or [_USUAL_SELECTOR]
    for name in asked[1:]:
        part.problem(name, f"could do nothing: {asked[0]} selects already")
    return SELECTORS[asked[0]](tuple(models), keys) if models else None


def _model(section: Section, name: str, context: RuleContext) -> Model:
    if name and name not in context.models:
        section.problem("model", f"there is no model '{name}'{suggest(name, context.models)}")
    return context.models.get(name, _NO_MODEL)


def _reasoning(section: Section, keys: DefaultKeys | RuleKeys, model: Model, context: RuleContext) -> Reasoning | None:
    """Every model that may serve has to know what is asked: `model`, and each candidate of `select`."""
    if not section.has("reasoning"):
        return None
    part, asked = section.section("reasoning"), keys.reasoning
    candidates = (context.models[name] for name in keys.select.candidates if name in context.models)
    for each in dict.fromkeys((model, *candidates)):
        if each.name and each.reasoning_family is None:
            part.problem("enabled", f"the model '{each.name}' has no reasoning_family, so this could do nothing")
        family = context.families.get(each.reasoning_family or "")
        if asked.effort and family and family.kind == "chat_template_kwargs":
            part.problem(
                "effort",
                f"could do nothing: the family '{each.reasoning_family}' of the model '{each.name}' only knows on and off",
            )
    return Reasoning(asked.enabled, asked.effort or None)


def _system_prompt(section: Section, keys: SystemPromptKeys) -> SystemPrompt | None:
    return SystemPrompt(keys.text, keys.mode) if section.has("system_prompt") else None
