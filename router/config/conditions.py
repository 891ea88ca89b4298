"""Reads the `when` of a rule into a condition."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from router.config.keys import (
    Flag,
    Integer,
    JsonSchema,
    Number,
    SectionOf,
    Text,
    Texts,
    ValueKind,
    key,
    keys_of,
    read,
    section_schema,
)
from router.config.logic import contradiction, in_words
from router.config.reader import Item, suggest
from router.config.signals import USUAL_THRESHOLD, CustomSignal, ModelCapabilities, compile_regex
from router.core.conditions import (
    AllOf,
    AnyOf,
    Condition,
    FlagIs,
    HeaderMatches,
    LabelIs,
    Not,
    Pattern,
    TextMatches,
    TokensWithin,
)
from router.core.selection import QUALITY

_MAX_TOKENS = 1_000_000_000
_HEADER = Text("header name", "a header's name", r"[A-Za-z0-9-]{1,100}")


@dataclass(frozen=True, slots=True)
class ConditionContext:
    """What conditions may refer to."""

    keywords: Mapping[str, TextMatches]
    capabilities: ModelCapabilities
    custom: Mapping[str, CustomSignal]
    has_encoder: bool
    intent_threshold: float


# -- declarations ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Nested:
    """Conditions in a condition."""

    words: str
    is_list: bool

    @property
    def schema(self) -> JsonSchema:
        """See `keys.Kind`."""
        one: JsonSchema = {"$ref": "#/$defs/condition"}
        return {"type": "array", "items": one, "minItems": 1} if self.is_list else one


@dataclass(frozen=True, slots=True)
class _Labels:
    """Labels; or a section with labels and a threshold; or, of some signals, true for any label."""

    words: str
    declared: type[IntentKeys] | type[ScoreKeys]
    may_be_true: bool = False

    @property
    def schema(self) -> JsonSchema:
        """See `keys.Kind`."""
        forms: list[JsonSchema] = [{"type": "array", "items": {"type": "string"}, "minItems": 1}, section_schema(self.declared)]
        return {"anyOf": [*forms, *([{"const": True}] if self.may_be_true else [])]}


@dataclass(frozen=True, slots=True)
class IntentKeys:
    """The long form of a condition on the intent."""

    labels: tuple[str, ...] = key(
        Texts("categories"), "The same, in the section's form.", (), required="a list of categories was expected"
    )
    threshold: float = key(Number(0, 1), "Lowest confidence for this condition alone.", 0.5, shown="`signals.intent.threshold`")


@dataclass(frozen=True, slots=True)
class ScoreKeys:
    """The long form of a condition on scores, of which several may be high."""

    labels: tuple[str, ...] = key(Texts("labels", "list of labels"), "The same, in the section's form.", (), shown="any")
    threshold: float = key(Number(0, 1), "Lowest probability for this condition alone.", 0.5, shown="the model's own")


@dataclass(frozen=True, slots=True)
class SignalKeys:
    """A condition on the operator's own signal."""

    name: str = key(
        Text("name", "the name of a signal in signals.custom"),
        "In `signals.custom`.",
        "",
        required="the name of a signal in signals.custom was expected",
    )
    labels: tuple[str, ...] = key(
        Texts("labels", "list of labels"),
        "Of a head also `out_of_scope`, where it knows what that is.",
        (),
        required="name the labels for which the condition holds",
    )
    threshold: float = key(Number(0, 1), "Lowest probability.", 0.5, shown="the signal's own")


@dataclass(frozen=True, slots=True)
class TokensKeys:
    """A range of sizes."""

    min: int = key(Integer(0, _MAX_TOKENS), "Smallest size.", 0)
    max: int = key(Integer(0, _MAX_TOKENS), "Largest size.", _MAX_TOKENS, shown="none")


@dataclass(frozen=True, slots=True)
class HeaderKeys:
    """A test of one header."""

    name: str = key(_HEADER, "The header.", "", required="a header's name was expected")
    equals: str = key(Text(), "The value is exactly this.", "", shown=" ")
    regex: str = key(Text("pattern"), "The whole value matches. See [Patterns](#patterns).", "", shown=" ")
    present: bool = key(Flag("true"), "It is there.", True, shown=" ")


@dataclass(frozen=True, slots=True)
class When:
    """The keys of `when`. A key whose kind does not say how to make its condition has a reader in `_READERS`."""

    all: object = key(_Nested("list of conditions", is_list=True), "Every one holds.", shown=" ")
    any: object = key(_Nested("list of conditions", is_list=True), "At least one holds.", shown=" ")
    not_: object = key(_Nested("condition", is_list=False), "It does not hold.", name="not", shown=" ")
    intent: object = key(
        _Labels("list of categories, or a section", IntentKeys), "The intent is one of them, with enough confidence.", shown=" "
    )
    jailbreak: object = key(
        _Labels("true, list, or a section", ScoreKeys, may_be_true=True),
        "The message tries to talk the model out of its instructions, or to get something harmful (`jailbreak`, `harmful`).",
        shown=" ",
    )
    pii: object = key(
        _Labels("true, list, or a section", ScoreKeys, may_be_true=True),
        "The message holds personal data of these kinds, or of any.",
        shown=" ",
    )
    signal: object = key(SectionOf(SignalKeys), "A signal of your own gives one of these labels.", shown=" ")
    keywords: object = key(
        Text("keyword set", "the name of a keyword set"),
        "The classified text contains one of the set's words or patterns.",
        shown=" ",
    )
    prompt_tokens: object = key(
        SectionOf(TokensKeys), "Estimated size of the whole prompt (bytes of text / 4), ends included.", shown=" "
    )
    has_tools: object = key(Flag(), "The request offers tools, or carries tool calls or results.", shown=" ")
    has_images: object = key(Flag(), "It carries an image part, or an image under its key in another.", shown=" ")
    is_stream: object = key(Flag(), "The client asked for a stream.", shown=" ")
    header: object = key(SectionOf(HeaderKeys), "A request header; one of the three tests below.", shown=" ")


# -- readers ---------------------------------------------------------------------------------------------------------


def read_condition(item: Item, context: ConditionContext) -> Condition:
    """Read a mapping of one condition, or of several that must all hold."""
    section = item.section()
    found = [
        condition
        for each in keys_of(When)
        if (part := section.item(each.name))
        for condition in _READERS.get(each.name, _by_kind)(each.name, part, context)
    ]
    section.close()
    _check_possible(found, item)
    if not found and not any(problem.path.startswith(item.path) for problem in item.notes.problems):
        item.problem(f"a condition was expected, one of {', '.join(each.name for each in keys_of(When))}")
    return found[0] if len(found) == 1 else AllOf(tuple(found))


def _tree(key: str, item: Item, context: ConditionContext) -> list[Condition]:
    parts = tuple(read_condition(part, context) for part in item.items("a list of conditions"))
    if not parts:
        item.problem("at least one condition was expected")
    if key == "all":
        _check_possible(parts, item)
    return [AllOf(parts) if key == "all" else AnyOf(parts)]


def _check_possible(parts: Sequence[Condition], item: Item) -> None:
    """Report conditions that cannot hold together. If one of them is wrong in itself, only that problem is reported."""
    if any(problem.path.startswith(item.path) for problem in item.notes.problems):
        return
    if found := contradiction(AllOf(tuple(parts))):
        item.problem(f"could never hold: '{in_words(found[0])}' and '{in_words(found[1])}' exclude each other")


def _not(key: str, item: Item, context: ConditionContext) -> list[Condition]:
    return [Not(read_condition(item, context))]


def _labels(item: Item, usual: IntentKeys | ScoreKeys) -> tuple[Item | None, float]:
    """The place of the labels, None if they are left out, and the threshold."""
    if not item.is_mapping:
        return item, usual.threshold
    section = item.section()
    return section.item("labels"), read(section, type(usual), usual).threshold


def _known(listed: Item, known: Sequence[str], what: str, kind: str) -> frozenset[str]:
    """Read a list of labels. Each label that the signal does not have is a problem."""
    names = listed.texts(what)
    for name in names:
        if known and name.text() not in known:
            name.problem(f"there is no {kind} '{name.text()}'{suggest(name.text(), known)}")
    return frozenset(name.text() for name in names)


def _intent(key: str, item: Item, context: ConditionContext) -> list[Condition]:
    labels, threshold = _labels(item, IntentKeys(threshold=context.intent_threshold))
    if not context.has_encoder:
        item.problem("the signal is switched off (signals.encoder.enabled), so this could never hold")
        return []
    known = _known(labels, context.capabilities.labels, "categories", "category") if labels else frozenset[str]()
    return [LabelIs("intent", known, threshold)]


def _scores(key: str, item: Item, context: ConditionContext) -> list[Condition]:
    """Read `jailbreak` or `pii`: true for any label, a list of labels, or a section with labels and threshold."""
    known = context.capabilities.attacks[1:] if key == "jailbreak" else context.capabilities.kinds
    if not known:
        item.problem("the model of signals.encoder.model_path does not tell this, or signals.encoder is switched off")
        return []
    labels, threshold = _labels(item, ScoreKeys(threshold=float(context.capabilities.thresholds.get(key, 0.5))))
    if labels is None or labels.value is True:
        return [LabelIs(key, frozenset(known), threshold)]
    if labels.value is not None:
        item.problem(f"true, or a list such as [{known[0]}], was expected")
        return []
    return [LabelIs(key, _known(labels, known, "labels", "label"), threshold)]


def _custom(key: str, item: Item, context: ConditionContext) -> list[Condition]:
    """Read `signal`: one of the operator's own signals has one of these labels."""
    section = item.section()
    name = section.item("name")
    signal = context.custom.get(str(name.value)) if name else None
    keys = read(section, SignalKeys, SignalKeys(threshold=signal.threshold if signal else 0.5))
    if keys.name and signal is None:
        section.problem("name", f"there is no signal '{keys.name}' in signals.custom{suggest(keys.name, context.custom)}")
    listed = section.item("labels")
    labels = _known(listed, signal.labels if signal else (), "labels", "label") if listed else frozenset()
    return [LabelIs(keys.name, labels, keys.threshold)]


def _text_matches(key: str, item: Item, context: ConditionContext) -> list[Condition]:
    name = item.text("the name of a keyword set")
    if name in context.keywords:
        return [context.keywords[name]]
    if name:
        item.problem(f"there is no keyword set '{name}' in signals.keywords{suggest(name, context.keywords)}")
    return []


def _tokens_within(key: str, item: Item, context: ConditionContext) -> list[Condition]:
    section = item.section()
    keys = read(section, TokensKeys)
    has_min, has_max = section.has("min"), section.has("max")
    if not has_min and not has_max:
        item.problem("'min', 'max' or both were expected")
    if has_max and keys.max < keys.min:
        section.problem("max", f"is below min ({keys.min}), so this could never hold")
    if has_min and not has_max and not keys.min:
        section.problem("min", "0 holds for every request; raise it, or remove the condition")
    return [TokensWithin(keys.min, keys.max if has_max else None)]


def _by_kind(key: str, item: Item, context: ConditionContext) -> list[Condition]:
    """A flag is a property of the request that has the key's name. A list of labels is of the signal that has its name."""
    if not isinstance(_KINDS[key], Texts):
        return [FlagIs(key, _value(key, item, fallback=False) is True)]
    if not context.has_encoder:
        item.problem("signals are switched off (signals.encoder.enabled), so this could never hold")
    return [LabelIs(key, frozenset(cast("tuple[str, ...]", _value(key, item, ()))), USUAL_THRESHOLD)]


def _value(key: str, item: Item, fallback: object) -> object:
    """What the operator wrote, checked by the kind of the key, which needs nothing else to be read."""
    return cast("ValueKind", _KINDS[key]).read(item, fallback)


def _header_matches(key: str, item: Item, context: ConditionContext) -> list[Condition]:
    section = item.section()
    keys = read(section, HeaderKeys)
    tests = [test for test in ("equals", "regex", "present") if section.has(test)]
    pattern: Pattern | None = re.compile(re.escape(keys.equals))
    if len(tests) != 1:
        item.problem("exactly one of 'equals', 'regex' and 'present' was expected")
    elif tests == ["regex"] and (regex := section.item("regex")):
        pattern = compile_regex(regex, is_case_sensitive=True)
    elif tests == ["present"]:
        if not keys.present:
            section.problem("present", "only true makes sense; for an absent header write not: {header: ...}")
        pattern = re.compile(".*", re.DOTALL)
    return [HeaderMatches(keys.name.lower(), pattern)] if pattern else []


_READERS: Mapping[str, Callable[[str, Item, ConditionContext], list[Condition]]] = {
    "all": _tree,
    "any": _tree,
    "not": _not,
    "intent": _intent,
    "jailbreak": _scores,
    "pii": _scores,
    "signal": _custom,
    "keywords": _text_matches,
    "prompt_tokens": _tokens_within,
    "header": _header_matches,
}
"""By key of `When`. A key that is not here is a flag of the request, or lists labels of the signal that has its name."""
_KINDS = {each.name: each.kind for each in keys_of(When)}


def _names_signal(key: str) -> bool:
    """Whether a key of `When` is the name of a signal, whose labels it lists."""
    return isinstance(_KINDS[key], _Labels) or (isinstance(_KINDS[key], Texts) and key not in _READERS)


BUILT_IN_SIGNALS = (QUALITY, *filter(_names_signal, _KINDS))
"""The router's own signals; no signal of an operator may have such a name."""
GUARDED_SIGNALS = ("jailbreak", "pii")
"""Those of them that have a guard (`GUARDS` in `runtime/build_signals.py`). In a rule that blocks, the guard reads instead."""
