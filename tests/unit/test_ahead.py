"""The answer to the same text, served before any signal is read: when it may be, and when the decision has to come first."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.cache_key import Eligibility
from router.core.cache_policy import CachePlan, ScopePlan
from router.core.conditions import AllOf, HeaderMatches, LabelIs, Not
from router.core.events import Action, LookedUp, Lookup, ReadSignals, Reply, RequestBody, Resumed, Route, SignalsRead
from router.core.exchange import Exchange
from router.core.lookup import CachePolicy, Hit, Miss
from router.core.policy import Default, Rule
from router.core.states import TRANSITIONS
from router.core.types import Block, Missing, Scores
from router.telemetry.metrics import Metrics
from tests.unit.builders import LARGE, MATH_RULE, SMALL, chat_body, request_headers, snapshot, sure
from tests.unit.test_exchange_cache import STORED
from tests.unit.test_share import Desk

POLICY = CachePolicy(0.8, 60.0, (), others_ttl_s=60.0)
NAMES = ("default", "proofs", "tenant", "explicit_model")
PLAN = CachePlan(ScopePlan("authorization", b"key"), Eligibility(allows_explicit_models=True), dict.fromkeys(NAMES, POLICY), "v1")
TENANT = Rule("tenant", HeaderMatches("x-tenant", re.compile("gold")), LARGE, priority=20)
GUARD = Rule("guard", LabelIs("prompt jailbreak", frozenset({"jailbreak"}), 0.6), SMALL, block=Block("no"))
TOLD = Rule("told", HeaderMatches("x-bad", re.compile("yes")), SMALL, block=Block("no"))
HIT = Hit("e" * 32, STORED, "exact", 1.0, 12.7, None, "proofs", "large")


def begin(
    plan: CachePlan | None = PLAN, rules: tuple[Rule, ...] = (TENANT, MATH_RULE), body: bytes | None = None, **headers: str
) -> tuple[Exchange, Action]:
    """An exchange after its request was read, and its action. A rule needs the intent."""
    exchange = Exchange(replace(snapshot(*rules, default=Default(SMALL), max_body_bytes=1 << 20), cache=plan))
    exchange.receive(request_headers(**{"authorization": "Bearer a", **headers}))
    action = exchange.receive(RequestBody(body or chat_body("What is a monad?")))
    while type(exchange.state).__name__ == "Paused":
        action = exchange.receive(Resumed())
    return exchange, action


def test_the_same_text_is_answered_before_a_signal_is_read() -> None:
    """The headers name the decision that stored the answer, with a reason that says so. Nothing was measured."""
    exchange, action = begin()
    assert isinstance(action, Lookup)
    assert action.is_ahead
    reply = exchange.receive(LookedUp(HIT, 7, "n"))
    assert isinstance(reply, Reply)
    assert {name.removeprefix("x-vsr-"): value for name, value in reply.headers.items() if name.startswith("x-vsr-")} == {
        "selected-category": "none",
        "selected-confidence": "0.0000",
        "selected-decision": "proofs",
        "selected-model": "large",
        "selected-reasoning": "on",
        "decision-reason": "cached",
        "response-path": "cache",
        "cache-hit": "true",
        "cache-status": "hit:exact",
        "cache-similarity": "1.0000",
        "cache-entry": "e" * 32,
        "cache-age": "12",
        "cache-decision": "proofs",
        "cache-model": "large",
    }
    record = exchange.record(exchange.ending)
    assert (record.decision, record.reason, record.cache, record.cache_model) == ("proofs", "cached", "hit", "large")


@pytest.mark.parametrize(
    "found",
    [Miss("empty"), replace(HIT, model="gone"), replace(HIT, decision="gone"), replace(HIT, answer=b"{")],
    ids=["miss", "model is gone", "decision is gone", "damaged"],
)
def test_without_one_the_request_goes_on_as_if_nobody_had_asked(found: Hit | Miss) -> None:
    """Signals are read, and the lookup that follows says what became of it. What is no longer configured names no decision."""
    exchange, action = begin()
    assert isinstance(exchange.receive(LookedUp(found, 7, "n")), ReadSignals)
    assert exchange.cache.status == "off"
    action = exchange.receive(SignalsRead({"intent": sure("math")}))
    assert isinstance(action, Lookup)
    assert (action.is_ahead, action.query.decision, action.query.model) == (False, "proofs", "large")
    assert isinstance(exchange.receive(LookedUp(Miss("empty"), 7, "n")), Route)


def test_both_lookups_ask_for_the_same_key() -> None:
    """Whatever the decision turns out to be."""
    exchange, ahead = begin()
    exchange.receive(LookedUp(Miss("empty"), 7, "n"))
    lookup = exchange.receive(SignalsRead({"intent": sure("history")}))
    assert isinstance(ahead, Lookup)
    assert isinstance(lookup, Lookup)
    assert ahead.query == replace(lookup.query, decision="", model="")


def policies(**changed: CachePolicy | None) -> CachePlan:
    """The plan with other policies."""
    return replace(PLAN, policies={name: policy for name, policy in {**PLAN.policies, **changed}.items() if policy})


@pytest.mark.parametrize(
    ("plan", "more"),
    [
        (None, {}),
        (policies(proofs=None), {}),
        (policies(default=None), {}),
        (policies(proofs=replace(POLICY, share="model")), {}),
        (policies(default=replace(POLICY, share="decision")), {}),
        (policies(proofs=replace(POLICY, shadow=True)), {}),
        (PLAN, {"rules": (GUARD, MATH_RULE)}),
        (PLAN, {"rules": (GUARD, MATH_RULE), "body": chat_body("What is a monad?", "small")}),
        (PLAN, {"authorization": ""}),
        (PLAN, {"cache_control": "no-cache"}),
        (PLAN, {"body": chat_body("What is the weather?")}),
        (PLAN, {"body": chat_body("hi", padding="x" * 300_000)}),
    ],
    ids=["off", "a rule is not cached", "the default is not", "a rule shares less", "the default does", "shadow", "a guard",
         "a guard and a named model", "no scope", "no-cache", "no question", "large"],
)  # fmt: skip
def test_where_the_decision_matters_it_comes_first(plan: CachePlan | None, more: dict[str, Any]) -> None:
    """A decision that may not be cached is never passed by, and a rule that blocks always reads."""
    _, action = begin(plan, **more)
    assert isinstance(action, ReadSignals)


@pytest.mark.parametrize(
    ("rules", "headers", "is_ahead"),
    [
        ((TENANT, MATH_RULE), {}, True),
        ((TENANT, MATH_RULE), {"x_tenant": "gold"}, False),
        ((replace(TENANT, priority=0), MATH_RULE), {}, True),
        ((replace(TENANT, priority=0), MATH_RULE), {"x_tenant": "gold"}, False),
        ((TOLD, MATH_RULE), {}, True),
    ],
)
def test_only_decisions_that_are_still_open_count(rules: tuple[Rule, ...], headers: dict[str, str], is_ahead: bool) -> None:
    """A rule that a header already rules out may be cached as it likes. One that would hold counts, also below the open one."""
    plan = policies(tenant=replace(POLICY, share="decision"))
    _, action = begin(plan, rules, **headers)
    assert (isinstance(action, Lookup) and action.is_ahead) == is_ahead


def test_a_rule_that_blocks_without_a_signal_still_blocks() -> None:
    """It is judged before anything is looked up."""
    _, action = begin(PLAN, (TOLD, MATH_RULE), x_bad="yes")
    assert isinstance(action, Reply)
    assert action.http_status == 403


def test_what_is_below_a_rule_that_holds_is_not_open() -> None:
    """The default cannot decide here, so its policy does not count."""
    plan = policies(default=None)
    _, action = begin(plan, (replace(TENANT, priority=0), MATH_RULE), x_tenant="gold")
    assert isinstance(action, Lookup)
    assert action.is_ahead


def test_every_change_of_state_is_in_the_table() -> None:
    """On the way of a hit and on that of a miss."""
    for found in (HIT, Miss("empty")):
        exchange = Exchange(replace(snapshot(MATH_RULE), cache=PLAN))
        for event in (request_headers(authorization="a"), RequestBody(chat_body("What is a monad?")), LookedUp(found, 7, "n")):
            before = type(exchange.state)
            exchange.receive(event)
            assert type(exchange.state) in TRANSITIONS[before][type(event)]


def test_the_oldest_answer_is_one_that_every_open_decision_would_serve() -> None:
    """The shortest `ttl_seconds` of the open decisions bounds it, and the client's `max-age`."""
    _, action = begin(policies(proofs=replace(POLICY, others_ttl_s=5.0)), cache_control="max-age=3")
    assert isinstance(action, Lookup)
    assert (action.cache_policy.others_ttl_s, action.cache_policy.max_age_s) == (5.0, 3.0)


async def test_memory_answers_at_once_or_not_at_all() -> None:
    """A hit counts and keeps its entry from eviction; a miss does not count, because the lookup that follows does."""
    desk = Desk()
    await desk.ask("What is a monad?", "thinking")
    _, lookup = desk.begin("What is a monad?", "plain")
    before = desk.cache.stats()["misses"]
    found = desk.cache.look_ahead(lookup.query, lookup.cache_policy)
    assert isinstance(found, Hit)
    assert (found.tier, found.decision, found.model) == ("exact", "thinking", "large")
    assert desk.cache.stats()["hits"] == {"exact": 1}
    assert desk.cache.look_ahead(replace(lookup.query, key="0" * 32), lookup.cache_policy) == Miss("empty")
    assert desk.cache.look_ahead(lookup.query, replace(lookup.cache_policy, max_age_s=-1.0)) == Miss("empty")
    desk.cache.look_ahead(lookup.query, lookup.cache_policy, peeks=True)
    assert (desk.cache.stats()["hits"], desk.cache.stats()["misses"]) == ({"exact": 1}, before)
    desk.now_s += 61
    assert desk.cache.look_ahead(lookup.query, lookup.cache_policy) == Miss("empty")


def test_metrics_count_the_hit_and_no_decision() -> None:
    """No rule was judged, so none matched, and no category was found."""
    exchange, _ = begin()
    exchange.receive(LookedUp(HIT, 7, "n"))
    metrics = Metrics()
    metrics.begin({})
    metrics.end(exchange.record(exchange.ending))
    page = metrics.render().decode()
    metrics.close()
    assert 'llm_cache_hits_total{decision="proofs",tier="exact"} 1.0' in page
    assert "llm_decision_matches_total{" not in page
    assert "llm_category_classifications_total{" not in page


CONDITIONS = (
    HeaderMatches("x-tenant", re.compile("gold")),
    LabelIs("intent", frozenset({"math"}), 0.5),
    LabelIs("prompt jailbreak", frozenset({"jailbreak"}), 0.6),
    AllOf((HeaderMatches("x-tenant", re.compile("gold")), LabelIs("intent", frozenset({"math"}), 0.5))),
    Not(LabelIs("intent", frozenset({"math"}), 0.5)),
)
POLICIES = (None, POLICY, replace(POLICY, share="model"), replace(POLICY, shadow=True), replace(POLICY, others_ttl_s=5.0))
READINGS = (sure("math"), sure("history"), Missing("deadline"))


@given(
    st.lists(st.tuples(st.sampled_from(CONDITIONS), st.sampled_from(POLICIES), st.sampled_from([None, False, True])), max_size=4),
    st.sampled_from(POLICIES),
    st.sampled_from(READINGS),
    st.booleans(),
    st.booleans(),
)
def test_whatever_is_served_ahead_would_be_served_after_the_rules_were_judged(
    made: list[tuple[Any, CachePolicy | None, bool | None]], default: CachePolicy | None, intent: Any, attack: bool, gold: bool
) -> None:
    """Whatever the signals turn out to say: no rule blocks, and the one that decides shares, serves and bounds no less."""
    rules, plans = [], {"default": default}
    for number, (condition, policy, closed) in enumerate(made):
        block = None if closed is None else Block("no", fails_closed=closed)
        rules.append(Rule(f"r{number}", condition, LARGE, priority=-number, block=block))
        plans[f"r{number}"] = None if block else policy
    plan = replace(PLAN, policies={name: policy for name, policy in plans.items() if policy})
    exchange, ahead = begin(plan, tuple(rules), **({"x_tenant": "gold"} if gold else {}))
    if not isinstance(ahead, Lookup) or not ahead.is_ahead:
        return
    action = exchange.receive(LookedUp(Miss("empty"), 7, "n"))
    while isinstance(action, ReadSignals):
        scores = Scores({"jailbreak": 0.9 if attack else 0.1})
        action = exchange.receive(SignalsRead({name: intent if name == "intent" else scores for name in action.wanted}))
    assert isinstance(action, Lookup)
    assert (action.query.key, action.cache_policy.share, action.cache_policy.shadow) == (ahead.query.key, "all", False)
    assert action.cache_policy.may_look_up
    assert (ahead.cache_policy.others_ttl_s or 0) <= (action.cache_policy.others_ttl_s or 0)
