"""Rules and truth: which rule wins, which signals are read, and that no rule fires on what was not measured."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.conditions import (
    AllOf,
    AnyOf,
    Condition,
    FlagIs,
    HeaderMatches,
    LabelIs,
    Not,
    TextMatches,
    TokensWithin,
    Truth,
    parts_of,
    signals_of,
)
from router.core.policy import Default, NeedsSignals, Policy, Rule
from router.core.types import Decision, Missing
from tests.unit.builders import CODER, LARGE, MATH_RULE, SMALL, ask, sure

IS_MATH = LabelIs("intent", frozenset({"math"}), 0.5)
IS_STREAM = FlagIs("is_stream", expected=True)
YES, NO = FlagIs("has_tools", expected=False), FlagIs("has_tools", expected=True)


@pytest.mark.parametrize(
    ("condition", "readings", "truth"),
    [
        (IS_MATH, {"intent": sure("math")}, Truth.YES),
        (IS_MATH, {"intent": sure("law")}, Truth.NO),
        (IS_MATH, {"intent": sure("math", 0.49)}, Truth.UNKNOWN),
        (IS_MATH, {"intent": sure("law", 0.49)}, Truth.UNKNOWN),
        (IS_MATH, {"intent": Missing("deadline")}, Truth.UNKNOWN),
        (IS_MATH, {}, Truth.UNKNOWN),
        (Not(IS_MATH), {"intent": sure("law")}, Truth.YES),
        (Not(IS_MATH), {"intent": sure("law", 0.1)}, Truth.UNKNOWN),
        (Not(IS_MATH), {"intent": Missing("deadline")}, Truth.UNKNOWN),
    ],
)
def test_a_label_counts_only_when_it_was_measured_and_sure(condition: Condition, readings: dict, truth: Truth) -> None:
    """Unsure, unread and missing are all UNKNOWN, and so is their negation."""
    assert condition.judge(ask(), readings) is truth


@pytest.mark.parametrize(
    ("condition", "request_fields", "truth"),
    [
        (TextMatches("k", (re.compile(r"\bsql\b", re.I),)), {"text": "Write SQL now"}, Truth.YES),
        (TextMatches("k", (re.compile("a"), re.compile("b"))), {"text": "xbx"}, Truth.YES),
        (TextMatches("k", (re.compile("a"),)), {"text": ""}, Truth.NO),
        (TokensWithin(10, 20), {"prompt_tokens": 10}, Truth.YES),
        (TokensWithin(10, 20), {"prompt_tokens": 20}, Truth.YES),
        (TokensWithin(10, 20), {"prompt_tokens": 21}, Truth.NO),
        (TokensWithin(10, None), {"prompt_tokens": 9}, Truth.NO),
        (TokensWithin(10, None), {"prompt_tokens": 10**9}, Truth.YES),
        (IS_STREAM, {"is_stream": True}, Truth.YES),
        (IS_STREAM, {"is_stream": False}, Truth.NO),
        (FlagIs("has_images", expected=False), {"has_images": True}, Truth.NO),
        (HeaderMatches("x-team", re.compile("a|b")), {"headers": {"x-team": "b"}}, Truth.YES),
        (HeaderMatches("x-team", re.compile("a|b")), {"headers": {"x-team": "bc"}}, Truth.NO),
        (HeaderMatches("x-team", re.compile(".*")), {}, Truth.NO),
    ],
)
def test_each_condition_reads_its_own_part_of_the_request(condition: Condition, request_fields: dict, truth: Truth) -> None:
    """What is visible in the request is YES or NO, never UNKNOWN."""
    assert condition.judge(ask(**request_fields), {}) is truth


@pytest.mark.parametrize("parts", list(itertools.product([YES, NO, IS_MATH], repeat=3)))
def test_trees_follow_three_valued_logic(parts: tuple[Condition, ...]) -> None:
    """One NO makes `all` NO, and one YES makes `any` YES. Otherwise one UNKNOWN makes them UNKNOWN."""
    truths = [part.judge(ask(), {}) for part in parts]
    expected_all = Truth.NO if Truth.NO in truths else Truth.UNKNOWN if Truth.UNKNOWN in truths else Truth.YES
    expected_any = Truth.YES if Truth.YES in truths else Truth.UNKNOWN if Truth.UNKNOWN in truths else Truth.NO
    assert AllOf(parts).judge(ask(), {}) is expected_all
    assert AnyOf(parts).judge(ask(), {}) is expected_any


@given(
    st.recursive(
        st.sampled_from([YES, NO, IS_MATH, IS_STREAM]),
        lambda inner: (
            st.builds(Not, inner)
            | st.builds(AllOf, st.lists(inner, min_size=1, max_size=3).map(tuple))
            | st.builds(AnyOf, st.lists(inner, min_size=1, max_size=3).map(tuple))
        ),
    )
)
def test_what_is_known_before_a_reading_stays_true_after_it(condition: Condition) -> None:
    """A decision without signals is never contradicted by their readings."""
    before = condition.judge(ask(), {})
    for reading in (sure("math"), sure("law"), Missing("deadline")):
        if before is not Truth.UNKNOWN:
            assert condition.judge(ask(), {"intent": reading}) is before


def test_the_highest_priority_that_holds_wins() -> None:
    """Rules are ordered by priority, then by place in the file."""
    rules = (
        Rule("low", YES, SMALL, 1),
        Rule("first", YES, LARGE, 5),
        Rule("second", YES, CODER, 5),
        Rule("no", NO, CODER, 9),
    )
    decision = Policy.of(rules, Default(SMALL), 0.5).decide(ask(), {})
    assert isinstance(decision, Decision)
    assert (decision.name, decision.model, decision.reason) == ("first", LARGE, "matched")


def test_a_rule_that_needs_no_signal_spares_the_reading_of_lower_rules() -> None:
    """Inference does not run when a rule above settles the matter."""
    rules = (Rule("stream", IS_STREAM, CODER, 20), MATH_RULE)
    policy = Policy.of(rules, Default(SMALL), 0.5)
    assert isinstance(policy.decide(ask(is_stream=True), {}), Decision)
    assert policy.decide(ask(), {}) == NeedsSignals(frozenset({"intent"}))


def test_a_condition_that_is_settled_without_its_signal_is_not_read() -> None:
    """`all` with a NO in it needs no reading."""
    policy = Policy.of((Rule("both", AllOf((IS_MATH, NO)), LARGE),), Default(SMALL), 0.5)
    decision = policy.decide(ask(), {})
    assert isinstance(decision, Decision)
    assert decision.reason == "no_match"


@pytest.mark.parametrize(
    ("reading", "reason"),
    [(sure("law"), "no_match"), (sure("math", 0.3), "below_threshold"), (Missing("deadline"), "intent_missing")],
)
def test_the_default_says_why_no_rule_fired(reading: object, reason: str) -> None:
    """If the intent is unsure or missing, the default serves and gives the reason."""
    decision = Policy.of((MATH_RULE,), Default(SMALL), 0.5).decide(ask(), {"intent": reading})
    assert isinstance(decision, Decision)
    assert (decision.name, decision.reason, decision.model) == ("default", reason, SMALL)


def test_signals_and_parts_are_found_at_any_depth() -> None:
    """`NeedsSignals` names every signal inside a tree."""
    tree = AllOf((Not(AnyOf((IS_STREAM, LabelIs("safety", frozenset({"bad"}), 0.9)))), IS_MATH))
    assert signals_of(tree) == {"intent", "safety"}
    assert parts_of(Not(IS_STREAM)) == (IS_STREAM,)
