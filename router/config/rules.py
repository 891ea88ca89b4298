"""Rules: what may stand in `rules`, `default` and `signals.keywords`, and the policy that becomes of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from router.config.cache import CacheConfig, decision_terms
from router.config.logic import contradiction, follows, in_words, never_holds
from router.config.patterns import LinearPattern, PatternError, compile_pattern, keyword_patterns
from router.config.reader import Item, Section, suggest
from router.core.lookup import CachePolicy
from router.core.policy import (
    AllOf,
    AnyOf,
    Choice,
    Condition,
    Default,
    FlagIs,
    HeaderMatches,
    LabelIs,
    Not,
    Pattern,
    Policy,
    Rule,
    TextMatches,
    TokensWithin,
)
from router.core.prompt import KEYWORDS, READS, name_of
from router.core.types import Block, Model, Reasoning, ReasoningFamily, SystemPrompt
from router.errors import ConfigError
from router.inference.manifest import HeadManifest, facts_of

NAME = r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,99}"
NAME_WORDS = "a name of letters, digits and ._:/@+- (at most 100)"
EFFORTS = ("minimal", "low", "medium", "high")
OWN_SIGNALS = ("intent", "jailbreak", "pii", "quality")
_RESERVED_RULES = ("default", "explicit_model")
_FLAGS = ("has_tools", "has_images", "is_stream")


def check_name(name: str, item: Item) -> None:
    """Note a name that could not travel everywhere."""
    # Names travel in headers, metrics and messages.
    if not re.fullmatch(NAME, name):
        item.problem(f"{NAME_WORDS} was expected")


@dataclass(frozen=True, slots=True)
class ModelCapabilities:
    """What the bundle's model tells apart."""

    labels: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    thresholds: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> ModelCapabilities:
        """From a bundle's manifest.json."""
        labels, attacks, kinds, models = (
            tuple(map(str, manifest.get(key) or ())) for key in ("labels", "attacks", "personal", "models")
        )
        return cls(labels, attacks, kinds, models, manifest.get("thresholds") or {})


@dataclass(frozen=True, slots=True)
class Custom:
    """A signal of the operator's own."""

    folder: Path
    labels: tuple[str, ...]
    threshold: float
    looks: bool = False
    """Looks for something, as a classifier of one's own does; a head tells what a message is about."""


def read_custom(section: Section) -> dict[str, Custom]:
    """The signals of `signals.custom`, by name. Their models are not loaded."""
    found = {}
    for name, item in section.named():
        check_name(name, item)
        if name in OWN_SIGNALS:
            item.problem(f"'{name}' is a signal of the router's own; choose another name")
        part = item.section()
        folder = Path(section.notes.file).parent / part.text("bundle", what="the folder of a model")
        threshold, labels, looks = 0.5, tuple[str, ...](), False
        if part.has("bundle"):
            try:
                facts = facts_of(folder)
                labels, threshold = facts.names, facts.threshold if isinstance(facts, HeadManifest) else 0.5
                looks = not isinstance(facts, HeadManifest)
            except ConfigError as error:
                part.problem("bundle", f"{error.problems[0].file} {error.problems[0].message}")
        found[name] = Custom(folder, labels, part.number("threshold", threshold, 0, 1), looks)
        part.close()
    return found


def read_keywords(section: Section) -> dict[str, TextMatches]:
    """The keyword sets of `signals.keywords`, by name."""
    sets = {}
    for name, item in section.named():
        check_name(name, item)
        part = item.section()
        is_case_sensitive = part.flag("case_sensitive", default=False)
        words, regexes = part.item("words"), part.item("regex")
        whole_words = [word.text() for word in words.texts("words")] if words else []
        checked = [_regex(each, is_case_sensitive) for each in regexes.texts("patterns")] if regexes else []
        if not words and not regexes:
            item.problem("'words' or 'regex' was expected")
        part.close()
        patterns: tuple[LinearPattern, ...] = ()
        try:
            valid = [pattern.pattern for pattern in checked if pattern]
            patterns = keyword_patterns(whole_words, valid, is_case_sensitive=is_case_sensitive)
        except PatternError as error:
            item.problem(str(error))
        sets[name] = TextMatches(name, patterns)
    return sets


def _regex(item: Item, is_case_sensitive: bool) -> LinearPattern | None:
    try:
        pattern = compile_pattern(item.text(), is_case_sensitive=is_case_sensitive)
    except PatternError as error:
        item.problem(str(error))
        return None
    if pattern.search("") and pattern.search("\0"):
        item.problem("matches every text; is there a '*' or '?' too many?")
    return pattern


# -- rules -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RuleContext:
    """What rules may refer to."""

    models: Mapping[str, Model]
    families: Mapping[str, ReasoningFamily]
    keywords: Mapping[str, TextMatches]
    heads: ModelCapabilities
    custom: Mapping[str, Custom]
    intent_enabled: bool
    intent_threshold: float
    cache: CacheConfig


_NO_MODEL = Model("", "", "")
_NO_CONDITION = AllOf(())


def read_policy(top: Section, words: RuleContext) -> tuple[Policy, dict[str, CachePolicy]]:
    """The rules; and on which terms the answers to what they decide are cached, by their names."""
    listed = top.item("rules")
    items = listed.items("a list of rules") if listed else []
    cache_policy: dict[str, CachePolicy] = {}
    rules = [_rule(item, words, cache_policy) for item in items]
    _check_rules(rules, items)
    section = top.section("default")
    if not top.has("default"):
        top.problem("default", "is missing; name the model that serves when no rule fires")
    model = _model(section, words)
    default = Default(model, _reasoning(section, model, words), _system_prompt(section), _choice(section, words))
    if default_terms := decision_terms(section, words.cache):
        cache_policy["default"] = default_terms
    section.close()
    return Policy.of(tuple(rules), default, words.intent_threshold), cache_policy


def _check_rules(rules: list[Rule], items: list[Item]) -> None:
    """Names differ, and no rule stands in the full shadow of one that is asked before it."""
    names: set[str] = set()
    for rule, item in zip(rules, items, strict=True):
        if rule.name in names:
            item.problem(f"there is a rule '{rule.name}' already; names tell rules apart in headers and metrics")
        names.add(rule.name or item.path)
    asked: list[Rule] = []
    for rule, item in sorted(zip(rules, items, strict=True), key=lambda pair: (pair[0].block is None, -pair[0].priority)):
        if any(problem.path.startswith(f"{item.path}.when") for problem in item.notes.problems):
            continue  # what it asks is not known, so nothing follows from it
        shadow = next((other for other in asked if _shadows(other, rule)), None)
        if shadow and rule.when != _NO_CONDITION:
            what = "asks the same" if shadow.when == rule.when else "holds whenever this one does"
            item.problem(f"can never win: rule '{shadow.name}' {what} and is asked before it")
        asked.append(rule)


def _shadows(other: Rule, rule: Rule) -> bool:
    """A rule that fails closed may also fire on a reading that is missing, which no other rule does."""
    is_stricter = rule.block is not None and rule.block.fails_closed and not (other.block and other.block.fails_closed)
    is_told = other.when == _NO_CONDITION or never_holds(rule.when)
    return not is_told and not is_stricter and follows(rule.when, other.when)


def _rule(item: Item, words: RuleContext, cache_policy: dict[str, CachePolicy]) -> Rule:
    section = item.section()
    name = section.text("name", pattern=NAME, what=NAME_WORDS)
    if name in _RESERVED_RULES:
        section.problem("name", f"'{name}' is the router's own word; choose another")
    when = section.item("when")
    if when is None:
        section.problem("when", "is missing; say when the rule holds")
    block, reads = _block(section)
    condition = _condition(when, words) if when else _NO_CONDITION
    model = next(iter(words.models.values()), _NO_MODEL) if block else _model(section, words, "the name of a model, or 'block',")
    rule = Rule(
        name,
        _of_prompt(condition, reads, words) if block else condition,
        model,
        section.integer("priority", 0, -1_000_000, 1_000_000),
        _reasoning(section, model, words),
        _system_prompt(section),
        _choice(section, words),
        block,
    )
    if block:
        for key in ("model", "reasoning", "system_prompt", "select", "cache"):
            if section.has(key):
                section.problem(key, "could do nothing: the rule blocks, no model is asked")
    if own_terms := decision_terms(section, words.cache):
        cache_policy[name] = own_terms
    section.close()
    return rule


def _block(section: Section) -> tuple[Block | None, str]:
    """And what it reads, one of `READS`."""
    if not section.has("block"):
        return None, "message"
    part = section.section("block")
    block = Block(part.text("message", "this request is not allowed here"), part.flag("fail_closed", default=False))
    reads = part.choice("reads", READS[0], READS)
    part.close()
    return block, reads


def _of_prompt(condition: Condition, reads: str, words: RuleContext) -> Condition:
    """The condition of a rule that blocks: what looks for something looks through all that `reads` says.

    What tells the subject of a message (the intent, heads) stays with the last user message, and so does what must not be there:
    no request has it in all its parts.
    """
    match condition:
        case LabelIs(signal) if signal in ("jailbreak", "pii") or (signal in words.custom and words.custom[signal].looks):
            return replace(condition, signal=name_of(reads, signal))
        case TextMatches(name) if reads != "message":
            return LabelIs(name_of(reads, f"{KEYWORDS} {name}"), frozenset({name}), 0.5)
        case AllOf(parts) | AnyOf(parts):
            return type(condition)(tuple(_of_prompt(part, reads, words) for part in parts))
        case _:
            return condition


def _choice(section: Section, words: RuleContext) -> Choice | None:
    """Models to choose among by price and chance; each has to say what it costs and whose chances stand for its own."""
    if not section.has("select"):
        return None
    part = section.section("select")
    listed = part.item("from")
    items = listed.texts("names of models") if listed else []
    models = []
    for item in items:
        model = words.models.get(item.text())
        if model is None:
            item.problem(f"there is no model '{item.text()}'{suggest(item.text(), words.models)}")
        elif not model.quality_profile:
            item.problem(f"models.{model.name}.quality_profile is missing, so nothing tells its chance of a right answer")
        else:
            models.append(model)
    if len(items) < 2:
        part.problem("from", "at least two models were expected")
    if not words.heads.models:
        part.problem(
            "from", "the model of signals.encoder.model_path tells no chances of a right answer, or signals.intent is switched off"
        )
    weight = part.number("cost_weight", 0.1, 0, 1)
    part.close()
    return Choice(tuple(models), weight) if models else None


def _model(section: Section, words: RuleContext, what: str = "the name of a model") -> Model:
    if section.node is None:
        return _NO_MODEL
    name = section.text("model", what=what)
    if name and name not in words.models:
        section.problem("model", f"there is no model '{name}'{suggest(name, words.models)}")
    return words.models.get(name, _NO_MODEL)


def _reasoning(section: Section, model: Model, words: RuleContext) -> Reasoning | None:
    if not section.has("reasoning"):
        return None
    part = section.section("reasoning")
    enabled = part.flag("enabled", default=True)
    effort = part.choice("effort", "", EFFORTS)
    if not part.has("enabled"):
        part.problem("enabled", "is missing; true or false was expected")
    if effort and not enabled:
        part.problem("effort", "says how hard to think while 'enabled' is false; remove one of them")
    if model.name and model.reasoning_family is None:
        part.problem("enabled", f"the model '{model.name}' has no reasoning_family, so this could do nothing")
    family = words.families.get(model.reasoning_family or "")
    if effort and family and family.kind == "chat_template_kwargs":
        part.problem("effort", f"could do nothing: the family '{model.reasoning_family}' only knows on and off")
    part.close()
    return Reasoning(enabled, effort or None)


def _system_prompt(section: Section) -> SystemPrompt | None:
    if not section.has("system_prompt"):
        return None
    part = section.section("system_prompt")
    prompt = SystemPrompt(part.text("text", what="the prompt's text"), part.choice("mode", "insert", ("insert", "replace")))
    part.close()
    return prompt


# -- conditions ------------------------------------------------------------------------------------------------------


def _condition(item: Item, words: RuleContext) -> Condition:
    """A mapping of one condition, or of several that all have to hold."""
    section = item.section()
    found = [
        condition for key, read in _CONDITIONS.items() if (part := section.item(key)) for condition in read(key, part, words)
    ]
    section.close()
    _check_possible(found, item)
    if not found and not any(problem.path.startswith(item.path) for problem in item.notes.problems):
        item.problem(f"a condition was expected, one of {', '.join(_CONDITIONS)}")
    return found[0] if len(found) == 1 else AllOf(tuple(found))


def _tree(key: str, item: Item, words: RuleContext) -> list[Condition]:
    parts = tuple(_condition(part, words) for part in item.items("a list of conditions"))
    if not parts:
        item.problem("at least one condition was expected")
    if key == "all":
        _check_possible(parts, item)
    return [AllOf(parts) if key == "all" else AnyOf(parts)]


def _check_possible(parts: Sequence[Condition], item: Item) -> None:
    """Conditions that all have to hold can hold together; where one of them is wrong in itself, that is enough to tell."""
    if any(problem.path.startswith(item.path) for problem in item.notes.problems):
        return
    if found := contradiction(AllOf(tuple(parts))):
        item.problem(f"could never hold: '{in_words(found[0])}' and '{in_words(found[1])}' exclude each other")


def _not(key: str, item: Item, words: RuleContext) -> list[Condition]:
    return [Not(_condition(item, words))]


def _label_is(key: str, item: Item, words: RuleContext) -> list[Condition]:
    at_least, labels = words.intent_threshold, item
    if item.is_mapping:
        section = item.section()
        at_least = section.number("at_least", at_least, 0, 1)
        labels = section.item("labels") or item
        section.close()
    if not words.intent_enabled:
        item.problem("the signal is switched off (signals.encoder.enabled), so this could never hold")
        return []
    names = labels.texts("categories")
    for name in names:
        if words.heads.labels and name.text() not in words.heads.labels:
            name.problem(f"there is no category '{name.text()}'{suggest(name.text(), words.heads.labels)}")
    return [LabelIs("intent", frozenset(name.text() for name in names), at_least)]


def _any_scores(key: str, item: Item, words: RuleContext) -> list[Condition]:
    """`jailbreak` and `pii`: true for any, a list of some, or a section with both."""
    known = words.heads.attacks[1:] if key == "jailbreak" else words.heads.kinds
    at_least, labels = float(words.heads.thresholds.get(key, 0.5)), item
    if not known:
        item.problem("the model of signals.encoder.model_path does not tell this, or signals.intent is switched off")
        return []
    if item.is_mapping:
        section = item.section()
        at_least = section.number("at_least", at_least, 0, 1)
        labels = section.item("labels") or item
        section.close()
    if labels.value is True or labels.is_mapping:
        return [LabelIs(key, frozenset(known), at_least)]
    if labels.value is not None:
        item.problem(f"true, or a list such as [{known[0]}], was expected")
        return []
    names = labels.texts("labels")
    for name in names:
        if name.text() not in known:
            name.problem(f"there is no '{name.text()}' here{suggest(name.text(), known)}")
    return [LabelIs(key, frozenset(name.text() for name in names), at_least)]


def _custom(key: str, item: Item, words: RuleContext) -> list[Condition]:
    """`signal`: one of the operator's own signals gives one of these labels."""
    section = item.section()
    name = section.text("name", what="the name of a signal in signals.custom")
    signal = words.custom.get(name)
    if name and signal is None:
        section.problem("name", f"there is no signal '{name}' in signals.custom{suggest(name, words.custom)}")
    listed = section.item("labels")
    labels = listed.texts("labels") if listed else []
    if listed is None:
        section.problem("labels", "is missing; name the labels for which the condition holds")
    at_least = section.number("at_least", signal.threshold if signal else 0.5, 0, 1)
    section.close()
    for label in labels:
        if signal and signal.labels and label.text() not in signal.labels:
            label.problem(f"there is no label '{label.text()}'{suggest(label.text(), signal.labels)}")
    return [LabelIs(name, frozenset(label.text() for label in labels), at_least)]


def _text_matches(key: str, item: Item, words: RuleContext) -> list[Condition]:
    name = item.text("the name of a keyword set")
    if name in words.keywords:
        return [words.keywords[name]]
    if name:
        item.problem(f"there is no keyword set '{name}' in signals.keywords{suggest(name, words.keywords)}")
    return []


def _tokens_within(key: str, item: Item, words: RuleContext) -> list[Condition]:
    section = item.section()
    least = section.integer("min", 0, 0, 1_000_000_000)
    most = section.integer("max", 1_000_000_000, 0, 1_000_000_000) if section.has("max") else None
    if not section.has("min") and most is None:
        item.problem("'min', 'max' or both were expected")
    if most is not None and most < least:
        section.problem("max", f"is below min ({least}), so this could never hold")
    if least == 0 and most is None and section.has("min"):
        section.problem("min", "0 holds for every request; raise it, or take the condition away")
    section.close()
    return [TokensWithin(least, most)]


def _flag_is(key: str, item: Item, words: RuleContext) -> list[Condition]:
    value = item.value
    if not isinstance(value, bool):
        item.problem("true or false was expected")
    return [FlagIs(key, value is True)]


def _header_matches(key: str, item: Item, words: RuleContext) -> list[Condition]:
    section = item.section()
    name = section.text("name", pattern=r"[A-Za-z0-9-]{1,100}", what="a header's name").lower()
    tests = [test for test in ("equals", "regex", "present") if section.has(test)]
    pattern: Pattern | None = re.compile(re.escape(section.text("equals", "")))
    if len(tests) != 1:
        item.problem("exactly one of 'equals', 'regex' and 'present' was expected")
    elif tests == ["regex"] and (regex := section.item("regex")):
        pattern = _regex(regex, is_case_sensitive=True)
    elif tests == ["present"]:
        if not section.flag("present", default=True):
            section.problem("present", "only true makes sense; for an absent header write not: {header: ...}")
        pattern = re.compile(".*", re.DOTALL)
    section.close()
    return [HeaderMatches(name, pattern)] if pattern else []


_CONDITIONS = {
    "all": _tree,
    "any": _tree,
    "not": _not,
    "intent": _label_is,
    "jailbreak": _any_scores,
    "pii": _any_scores,
    "signal": _custom,
    "keywords": _text_matches,
    "prompt_tokens": _tokens_within,
    **dict.fromkeys(_FLAGS, _flag_is),
    "header": _header_matches,
}
"""What may stand in `when`, and its reader."""
