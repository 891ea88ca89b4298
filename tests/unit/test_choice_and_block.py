"""Selecting a model by predicted accuracy and cost, and rules that refuse a request."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from router.config.rules import SELECTORS, SelectKeys
from router.core.conditions import LabelIs, Not, TextMatches, Truth
from router.core.events import ReadSignals, Reply, RequestBody, Route, SignalsRead
from router.core.exchange import Exchange
from router.core.headers import CLUSTER_HEADER
from router.core.models import Model
from router.core.policy import Default, NeedsSignals, Policy, Rule
from router.core.selection import Selection, Selector
from router.core.types import Block, Decision, Missing, Scores
from tests.unit.builders import CODER, LARGE, MATH_RULE, SMALL, ask, chat_body, request_headers, send, snapshot, sure
from tests.unit.selectors import SelectorContract

CHEAP = replace(SMALL, cost=0.2, quality_profile="llama-8b")
DEAR = replace(LARGE, cost=2.0, quality_profile="llama-70b")
ATTACK = LabelIs("jailbreak", frozenset({"jailbreak", "harmful"}), 0.6)
GUARD = Rule("no-attacks", ATTACK, SMALL, block=Block("not here"))
CLOSED = replace(GUARD, block=Block("not here", fails_closed=True))


def scored(**values: float) -> dict:
    """The reading of the signal `quality`."""
    return {"quality": Scores({name.replace("_", "-"): value for name, value in values.items()})}


@pytest.mark.parametrize(
    ("reading", "truth"),
    [
        (Scores({"jailbreak": 0.6}), Truth.YES),
        (Scores({"jailbreak": 0.1, "harmful": 0.9}), Truth.YES),
        (Scores({"jailbreak": 0.59}), Truth.NO),
        (Scores({"something else": 1.0}), Truth.NO),
        (Scores({}), Truth.NO),
        (Missing("deadline"), Truth.UNKNOWN),
        (None, Truth.UNKNOWN),
    ],
)
def test_scores_hold_from_their_threshold_on(reading: object, truth: Truth) -> None:
    """A score that was not measured is neither true nor false, and so is its negation."""
    readings = {} if reading is None else {"jailbreak": reading}
    assert ATTACK.judge(ask(), readings) is truth
    opposite = {Truth.YES: Truth.NO, Truth.NO: Truth.YES, Truth.UNKNOWN: Truth.UNKNOWN}
    assert Not(ATTACK).judge(ask(), readings) is opposite[truth]


class TestChoice(SelectorContract):
    @pytest.fixture(params=[0.0, 0.1, 1.0])
    @classmethod
    def make(cls, request: pytest.FixtureRequest) -> Callable[[tuple[Model, ...]], Selector]:
        """Whatever its weight, as the configuration makes it."""
        return lambda models: SELECTORS["cost_weight"](models, SelectKeys(cost_weight=request.param))


@pytest.mark.parametrize(
    ("small", "large", "weight", "chosen"),
    [
        (0.50, 0.70, 0.0, "large"),
        (0.50, 0.70, 0.1, "large"),
        (0.50, 0.70, 0.3, "small"),  # gains 20 points for 90% of the highest cost; a weight of 0.3 requires 27
        (0.70, 0.70, 0.0, "small"),
        (0.90, 0.20, 0.0, "small"),
    ],
)
def test_cost_is_weighed_against_predicted_accuracy(small: float, large: float, weight: float, chosen: str) -> None:
    """Of equal scores, the cheaper model wins."""
    choice = Selection((CHEAP, DEAR), weight)
    assert choice.among(Scores({"llama-8b": small, "llama-70b": large})).name == chosen


def test_models_without_costs_are_selected_by_accuracy_alone() -> None:
    """Nothing is divided by zero."""
    choice = Selection((replace(CHEAP, cost=0.0), replace(DEAR, cost=0.0)), 0.5)
    assert choice.among(Scores({"llama-8b": 0.3, "llama-70b": 0.4})).name == "large"


def test_a_rule_that_selects_reads_the_predictions_only_when_it_wins() -> None:
    """Other rules do not pay for the predictions. If they are missing, the rule's own model serves."""
    rule = replace(MATH_RULE, model=DEAR, selection=Selection((CHEAP, DEAR), 0.1))
    policy = Policy.of((rule,), Default(SMALL), 0.5)
    law, math = {"intent": sure("law")}, {"intent": sure("math")}
    assert policy.decide(ask(), law).model is SMALL
    assert policy.decide(ask(), math) == NeedsSignals(frozenset({"quality"}))
    chosen = policy.decide(ask(), math | scored(llama_8b=0.9, llama_70b=0.9))
    assert isinstance(chosen, Decision)
    assert (chosen.model, chosen.reason, chosen.name) == (CHEAP, "selected", "proofs")
    missing = policy.decide(ask(), math | {"quality": Missing("deadline")})
    assert isinstance(missing, Decision)
    assert (missing.model, missing.reason) == (DEAR, "matched")
    assert policy.signals == {"intent", "quality"}


def test_the_default_may_choose_too() -> None:
    """The decision's name keeps the reason."""
    policy = Policy.of((), Default(SMALL, selection=Selection((CHEAP, DEAR), 0.0)), 0.5)
    assert policy.decide(ask(), {}) == NeedsSignals(frozenset({"quality"}))
    decision = policy.decide(ask(), scored(llama_8b=0.1, llama_70b=0.9))
    assert (decision.name, decision.model, decision.reason) == ("default", DEAR, "selected")


def test_an_exchange_reads_signals_twice_when_a_choice_needs_more() -> None:
    """The intent is read first and the predictions second. Both stay with the exchange."""
    rule = replace(MATH_RULE, model=DEAR, selection=Selection((CHEAP, DEAR), 0.0))
    exchange = Exchange(snapshot(rule))
    exchange.receive(request_headers())
    first = exchange.receive(RequestBody(chat_body("Prove it.")))
    assert isinstance(first, ReadSignals)
    assert first.wanted == {"intent"}
    second = exchange.receive(SignalsRead({"intent": sure("math")}))
    assert isinstance(second, ReadSignals)
    assert second.wanted == {"quality"}
    route = exchange.receive(SignalsRead(scored(llama_8b=0.9, llama_70b=0.2)))
    assert isinstance(route, Route)
    assert (route.set_headers[CLUSTER_HEADER], route.set_headers["x-vsr-decision-reason"]) == ("cluster-small", "selected")
    assert route.set_headers["x-vsr-selected-category"] == "math"


@pytest.mark.parametrize("model", ["auto", "large"])
def test_a_blocking_rule_refuses_whoever_asks(model: str) -> None:
    """A client that names a model is refused as well. The answer holds the operator's words and nothing of the prompt."""
    exchange = Exchange(snapshot(GUARD))
    action = send(exchange, chat_body("a secret attack", model), {"jailbreak": Scores({"jailbreak": 0.99})})
    assert isinstance(action, Reply)
    error = json.loads(action.body)["error"]
    assert (action.http_status, error["message"], error["code"], error["param"]) == (403, "not here", "blocked", "messages")
    assert b"secret" not in action.body
    record = exchange.record("replied")
    assert (record.error_code, record.decision, record.response_path) == ("blocked", "no-attacks", "error")
    assert (record.model, record.cluster) == ("", "")


def test_a_block_says_which_rule_it_was_and_why() -> None:
    """It carries the headers of every decision except the model's, for no model was asked."""
    action = send(Exchange(snapshot(GUARD)), chat_body("an attack"), {"jailbreak": Scores({"jailbreak": 0.99})})
    assert isinstance(action, Reply)
    shown = {name: value for name, value in action.headers.items() if name.startswith("x-")}
    assert shown == {
        "x-vsr-selected-category": "none",
        "x-vsr-selected-confidence": "0.0000",
        "x-vsr-selected-decision": "no-attacks",
        "x-vsr-decision-reason": "matched",
        "x-vsr-response-path": "error",
    }
    assert action.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("reason", "status", "kind", "words"),
    [
        ("deadline", 503, "server_error", "in time; try again"),
        ("overloaded", 503, "server_error", "at the moment; try again"),
        ("model_failed", 503, "server_error", "at the moment; try again"),
        ("too_long", 400, "invalid_request_error", "shorten it"),
        ("token_ids", 400, "invalid_request_error", "send text"),
        ("embeddings", 400, "invalid_request_error", "send text"),
        ("chat_template", 400, "invalid_request_error", "leave it out"),
    ],
)
def test_what_could_not_be_read_is_no_attack(reason: str, status: int, kind: str, words: str) -> None:
    """Such an answer differs from the one for attacks. It says what to do, and whether another attempt can help."""
    exchange = Exchange(snapshot(CLOSED))
    action = send(exchange, chat_body("a secret question"), {"jailbreak": Missing(reason)})
    assert isinstance(action, Reply)
    error = json.loads(action.body)["error"]
    assert (action.http_status, error["type"], error["code"]) == (status, kind, "unreadable")
    assert words in error["message"]
    assert "secret" not in error["message"]
    assert (action.headers.get("retry-after") is not None) is (status == 503)
    assert (action.headers["x-vsr-selected-decision"], action.headers["x-vsr-decision-reason"]) == (
        "no-attacks",
        "signal_missing",
    )
    record = exchange.record("replied")
    assert (record.error_code, record.reason, record.missing, record.model) == (
        "unreadable",
        "signal_missing",
        {"jailbreak": reason},
        "",
    )


def test_where_there_is_nothing_to_read_nothing_is_missing() -> None:
    """A picture alone or an empty message is not blocked, even by a rule that fails closed."""
    action = send(Exchange(snapshot(CLOSED)), chat_body(""), {"jailbreak": Missing("no_text")})
    assert isinstance(action, Route)


def test_signals_for_all_blocking_rules_are_read_concurrently() -> None:
    """Most requests pass all of them. One after the other, they would take longer than Envoy waits."""
    private = Rule("private", LabelIs("prompt pii", frozenset({"PERSON"}), 0.5), SMALL, block=Block("no"))
    law = Rule("law", LabelIs("intent", frozenset({"law"}), 0.5), LARGE)
    policy = Policy.of((law, GUARD, private), Default(SMALL), 0.5)
    assert policy.decide(ask(), {}) == NeedsSignals(frozenset({"jailbreak", "prompt pii"}))
    assert policy.decide(ask(), {"jailbreak": Scores({}), "prompt pii": Scores({})}) == NeedsSignals(frozenset({"intent"}))


@pytest.mark.parametrize("fails_closed", [True, False])
def test_what_is_refused_for_its_length_is_not_read_first(fails_closed: bool) -> None:
    """Reading it would be wasted work that anybody could ask for. A rule that fails open still needs what can be read."""
    block = Block("no", fails_closed=fails_closed)
    guard = Rule("g", LabelIs("prompt jailbreak", frozenset({"jailbreak"}), 0.5), SMALL, block=block)
    exchange = Exchange(replace(snapshot(guard, max_body_bytes=1 << 20), max_guard_chars=1000))
    exchange.receive(request_headers())
    action = exchange.receive(RequestBody(chat_body("hello " * 1000)))
    assert isinstance(action, Reply if fails_closed else ReadSignals)
    if isinstance(action, Reply):
        assert json.loads(action.body)["error"]["code"] == "unreadable"


def test_only_a_rule_that_reads_the_prompt_is_given_it() -> None:
    """Other rules do not pay for the work of collecting every text of a request."""
    guard = Rule("g", LabelIs("prompt jailbreak", frozenset({"jailbreak"}), 0.5), SMALL, block=Block("no"))
    body = json.dumps(
        {"model": "auto", "messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]}
    )
    wanted = []
    for rule in (guard, GUARD):
        exchange = Exchange(snapshot(rule))
        exchange.receive(request_headers())
        wanted.append(exchange.receive(RequestBody(body.encode())))
    assert isinstance(wanted[0], ReadSignals)
    assert wanted[0].prompt is not None
    assert [piece.text for piece in wanted[0].prompt.pieces] == ["hi", "be kind"]
    assert isinstance(wanted[1], ReadSignals)
    assert wanted[1].prompt is None


def test_a_harmless_request_is_routed_as_without_the_block() -> None:
    """A model that the client named is kept."""
    exchange = Exchange(snapshot(GUARD))
    action = send(exchange, chat_body("hi", "large"), {"jailbreak": Scores({"jailbreak": 0.01})})
    assert isinstance(action, Route)
    assert action.set_headers["x-vsr-selected-decision"] == "explicit_model"


@pytest.mark.parametrize(("rule", "is_blocked"), [(GUARD, False), (CLOSED, True)])
def test_a_signal_that_fails_blocks_only_where_the_operator_says_so(rule: Rule, is_blocked: bool) -> None:
    """All other parts of the router fail open."""
    exchange = Exchange(snapshot(rule))
    action = send(exchange, chat_body("hi"), {"jailbreak": Missing("deadline")})
    assert isinstance(action, Reply) is is_blocked
    assert exchange.record("x").reason == ("signal_missing" if is_blocked else "no_match")


def test_an_unsure_reading_does_not_count_as_missing() -> None:
    """A rule that fails closed does not block a prompt that was measured and found harmless."""
    decision = Policy.of((CLOSED,), Default(SMALL), 0.5).decide(ask(), {"jailbreak": Scores({"jailbreak": 0.5})})
    assert isinstance(decision, Decision)
    assert decision.name == "default"


def test_blocking_rules_are_asked_before_all_others() -> None:
    """This holds whatever their priority: no routing rule can let an attack through."""
    import re

    keyword = Rule("code", TextMatches("k", (re.compile("python"),)), CODER, priority=1000)
    policy = Policy.of((keyword, replace(GUARD, priority=-5)), Default(SMALL), 0.5)
    decision = policy.decide(ask("python"), {"jailbreak": Scores({"harmful": 0.9})})
    assert isinstance(decision, Decision)
    assert decision.name == "no-attacks"
    assert policy.refuse(ask("python"), {"jailbreak": Scores({"harmful": 0.1})}) is None
