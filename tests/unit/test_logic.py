"""Statements about conditions hold for every request, and the everyday cases are recognized."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.config.logic import always_holds, follows, never_holds
from router.core.conditions import AllOf, AnyOf, Condition, FlagIs, HeaderMatches, LabelIs, Not, TokensWithin, Truth
from router.core.types import Classification, Missing, Reading, Scores
from tests.unit.builders import ask

labels = st.frozensets(st.sampled_from(["a", "b"]), min_size=1)
leaves = st.one_of(
    st.builds(LabelIs, st.sampled_from(["intent", "pii"]), labels, st.sampled_from([0.3, 0.6])),
    st.builds(FlagIs, st.just("has_tools"), st.booleans()),
    st.builds(TokensWithin, st.sampled_from([0, 5, 9]), st.sampled_from([None, 9, 20])),
    st.builds(HeaderMatches, st.just("x-a"), st.sampled_from(["a", "b", ".*"]).map(re.compile)),
)


def deeper(inner: st.SearchStrategy[Condition]) -> st.SearchStrategy[Condition]:
    """Conditions that contain conditions."""
    parts = st.lists(inner, min_size=1, max_size=3).map(tuple)
    return st.one_of(st.builds(AllOf, parts), st.builds(AnyOf, parts), st.builds(Not, inner))


conditions = st.recursive(leaves, deeper, max_leaves=6)
readings = st.fixed_dictionaries(
    {
        "intent": st.one_of(
            st.builds(Classification, st.sampled_from(["a", "b", "c"]), st.sampled_from([0.2, 0.5, 0.9])),
            st.just(Missing("timeout")),
        ),
        "pii": st.one_of(
            st.builds(Scores, st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from([0.2, 0.5, 0.9]))),
            st.just(Missing("timeout")),
        ),
    }
)
requests = st.builds(
    lambda tokens, tools, header: ask(prompt_tokens=tokens, has_tools=tools, headers={"x-a": header} if header else {}),
    st.sampled_from([0, 5, 7, 9, 30]),
    st.booleans(),
    st.sampled_from(["", "a", "b", "c"]),
)


@given(conditions, conditions, requests, readings)
def test_a_statement_about_conditions_is_true(
    one: Condition, other: Condition, request: object, found: dict[str, Reading]
) -> None:
    """A false statement, about one condition or two, would make `check` refuse a rule that can win."""
    truth, second = one.judge(request, found), other.judge(request, found)
    if follows(one, other) and truth is Truth.YES:
        assert second is Truth.YES
    if always_holds(one):
        assert truth is Truth.YES
    if never_holds(one):
        assert truth is not Truth.YES


MATH, SURE_MATH = LabelIs("intent", frozenset({"math"}), 0.5), LabelIs("intent", frozenset({"math"}), 0.9)
TOOLS, NO_TOOLS = FlagIs("has_tools", True), FlagIs("has_tools", False)


@pytest.mark.parametrize(
    ("narrow", "broad", "expected"),
    [
        (SURE_MATH, MATH, True),
        (MATH, SURE_MATH, False),
        (MATH, AnyOf((TOOLS, MATH)), True),
        (AnyOf((TOOLS, MATH)), MATH, False),
        (AllOf((TOOLS, SURE_MATH)), MATH, True),
        (AllOf((TOOLS, SURE_MATH)), AllOf((MATH, TOOLS)), True),
        (AnyOf((SURE_MATH, MATH)), MATH, True),
        (TokensWithin(10, 20), TokensWithin(5, None), True),
        (TokensWithin(10, None), TokensWithin(5, 20), False),
        (MATH, AnyOf((TOOLS, NO_TOOLS)), True),
        (Not(MATH), Not(SURE_MATH), False),
    ],
)
def test_one_follows_from_the_other(narrow: Condition, broad: Condition, expected: bool) -> None:
    """The last case: if the classifier is not sure enough of mathematics there is no reading, so nothing follows."""
    assert follows(narrow, broad) is expected


def test_what_never_holds_of_a_signal_is_not_always_true_when_negated() -> None:
    """Two intents at once never hold. Below both thresholds nobody knows either, so their negation is unknown, too."""
    impossible = AllOf((LabelIs("intent", frozenset({"a"}), 0.3), LabelIs("intent", frozenset({"b"}), 0.3)))
    assert never_holds(impossible)
    assert not always_holds(Not(impossible))
    assert always_holds(Not(AllOf((TOOLS, NO_TOOLS))))
