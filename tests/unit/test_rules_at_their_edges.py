"""Rules where a wrong one would do harm: named models, models without a prediction, conditions that can never hold."""

from __future__ import annotations

import json
import re

import pytest

from router.config.logic import contradiction, in_words, never_holds
from router.core.conditions import AllOf, AnyOf, Condition, FlagIs, HeaderMatches, LabelIs, Not, TextMatches, TokensWithin
from router.core.events import Reply, Route
from router.core.exchange import Exchange
from router.core.openai.request import END_CHARS, excerpt, parse
from router.core.policy import Default, NeedsSignals, Policy, Rule
from router.core.selection import Selection
from router.core.types import Block, Decision, Endpoint, Scores
from tests.unit.builders import LARGE, MATH_RULE, SMALL, ask, chat_body, request_headers, send, snapshot, sure
from tests.unit.test_choice_and_block import CHEAP, DEAR, GUARD
from tests.unit.test_config import SIGNALS, read


@pytest.mark.parametrize("model", ["auto", "large"])
@pytest.mark.parametrize(
    ("condition", "body", "headers"),
    [
        (TextMatches("secrets", (re.compile("project x"),)), {"text": "what is project x?"}, {}),
        (TokensWithin(1000, None), {"text": "x" * 10_000}, {}),
        (FlagIs("has_tools", expected=True), {"text": "hello", "tools": [{"type": "function", "function": {"name": "f"}}]}, {}),
        (HeaderMatches("x-team", re.compile("guests")), {"text": "hello"}, {"x_team": "guests"}),
    ],
    ids=["keywords", "tokens", "tools", "header"],
)
def test_a_rule_blocks_by_what_it_sees_whoever_names_the_model(
    condition: Condition, body: dict, headers: dict, model: str
) -> None:
    """Also where no signal is read: the request itself is judged, and another request passes."""
    guarded = snapshot(Rule("closed", condition, SMALL, block=Block("not here")), max_body_bytes=100_000)
    refused = send(Exchange(guarded), chat_body(model=model, **body), **headers)
    assert isinstance(refused, Reply)
    assert (refused.http_status, json.loads(refused.body)["error"]["code"]) == (403, "blocked")
    assert isinstance(send(Exchange(guarded), chat_body("hello", model)), Route)


def test_a_model_without_a_prediction_counts_as_never_right() -> None:
    """It is not chosen for its accuracy, and the others are weighed as ever."""
    scores = Scores({"llama-70b": 0.1})
    assert [candidate.accuracy for candidate in Selection((CHEAP, DEAR), 0.0).weigh(scores)] == [0.0, 0.1]
    assert Selection((CHEAP, DEAR), 0.0).among(scores) is DEAR


TOOLS, NO_TOOLS = FlagIs("has_tools", expected=True), FlagIs("has_tools", expected=False)
STREAM = FlagIs("is_stream", expected=True)


@pytest.mark.parametrize(
    ("condition", "is_never"),
    [
        (AllOf((TOOLS, NO_TOOLS)), True),
        (AllOf((TOOLS, FlagIs("is_stream", expected=False))), False),
        (AllOf((TOOLS, STREAM)), False),
        (AnyOf((AllOf((TOOLS, NO_TOOLS)), AllOf((TokensWithin(9, None), TokensWithin(0, 5))))), True),
        (AnyOf((AllOf((TOOLS, NO_TOOLS)), STREAM)), False),
        (Not(AnyOf((TOOLS, NO_TOOLS))), True),
    ],
    ids=str,
)
def test_a_rule_that_can_never_hold_is_known_for_that(condition: Condition, is_never: bool) -> None:
    """One flag on and off, all of several ways closed; two different flags exclude nothing."""
    assert never_holds(condition) is is_never


def test_the_two_parts_that_exclude_each_other_are_named() -> None:
    """In the order of the file, though other parts stand between."""
    assert contradiction(AllOf((TOOLS, STREAM, NO_TOOLS))) == (TOOLS, NO_TOOLS)


def test_a_condition_is_said_in_words_to_its_last_part() -> None:
    """On one line, with what holds its parts together."""
    inner = AnyOf((STREAM, AllOf((TOOLS, Not(FlagIs("has_images", expected=True))))))
    assert in_words(inner) == "(is_stream or (has_tools and not has_images))"


@pytest.mark.parametrize("calls", [[{"id": "c", "type": "function", "function": {"name": "f"}}], None])
def test_a_conversation_with_calls_has_tools_though_it_offers_none(calls: object) -> None:
    """The model must be able to read them; an empty list of calls is none."""
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": None, "tool_calls": calls}]
    request, _ = parse(Endpoint.CHAT, json.dumps({"model": "auto", "messages": messages}).encode(), {})
    assert request.has_tools is bool(calls)


def test_a_text_is_cut_from_the_first_character_too_many_on() -> None:
    """Its two ends are classified; a text that just fits is read as it is."""
    fits = "a" * END_CHARS + "b" * END_CHARS
    assert excerpt(fits) == fits
    assert excerpt(f"{fits}c") == f"{'a' * END_CHARS}\n{'b' * (END_CHARS - 1)}c"


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "param"),
    [
        ("/v1/chat/completions", None, 400, "invalid_json", None),
        ("/v1/chat/completions", {"model": "auto", "messages": []}, 400, "empty_array", "messages"),
        ("/v1/embeddings", {"model": "auto", "input": "x"}, 400, "model_not_supported", "model"),
    ],
)
def test_a_refusal_has_a_code_that_programs_can_go_by(path: str, body: object, status: int, code: str, param: str | None) -> None:
    """As the OpenAI client hands it on, with the field at fault."""
    exchange = Exchange(snapshot())
    if body is None:
        reply = exchange.receive(request_headers(path, is_end=True))
    else:
        reply = send(exchange, json.dumps(body).encode(), path=path)
    assert isinstance(reply, Reply)
    error = json.loads(reply.body)["error"]
    assert (reply.http_status, error["code"], error["param"]) == (status, code, param)


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/coder"])
def test_a_list_of_models_says_that_it_is_the_routers_own(path: str) -> None:
    """To the client in a header, and to whoever reads Envoy's log."""
    exchange = Exchange(snapshot())
    reply = exchange.receive(request_headers(path, "GET", is_end=True))
    assert isinstance(reply, Reply)
    assert (reply.headers["x-vsr-response-path"], reply.details) == ("models", "sr_models")
    assert exchange.record("replied").response_path == "models"


@pytest.mark.parametrize(("text", "needed"), [("what is sql?", {"jailbreak", "pii"}), ("what is it?", {"jailbreak"})])
def test_of_the_guards_only_those_are_read_that_the_request_leaves_open(text: str, needed: set[str]) -> None:
    """All in one go; a guard for texts about SQL costs nothing where there is none."""
    leak = LabelIs("pii", frozenset({"email"}), 0.5)
    about_sql = Rule("no-leaks", AllOf((TextMatches("sql", (re.compile("sql"),)), leak)), SMALL, block=Block("not here"))
    policy = Policy.of((GUARD, about_sql), Default(SMALL), 0.5)
    assert policy.decide(ask(text), {}) == NeedsSignals(frozenset(needed))


def test_all_that_a_rule_says_is_in_its_decision() -> None:
    """Model, reasoning and system prompt: what the request is rewritten by."""
    policy = Policy.of((MATH_RULE,), Default(SMALL), 0.5)
    assert policy.decide(ask(), {"intent": sure("math")}) == Decision(
        "proofs", LARGE, "matched", MATH_RULE.reasoning, MATH_RULE.system_prompt
    )


@pytest.mark.parametrize(("confidence", "reason"), [(0.49, "below_threshold"), (0.5, "no_match")])
def test_an_intent_is_known_from_its_threshold_on(confidence: float, reason: str) -> None:
    """The default says which of the two it was: unsure, or a subject without a rule."""
    decision = Policy.of((MATH_RULE,), Default(SMALL), 0.5).decide(ask(), {"intent": sure("law", confidence)})
    assert isinstance(decision, Decision)
    assert decision.reason == reason


@pytest.mark.parametrize(("written", "threshold"), [("", 0.9), (", threshold: 0.3", 0.3)])
def test_a_rule_takes_the_threshold_of_the_operators_own_signal_unless_it_has_one(written: str, threshold: float) -> None:
    """What is written once, at the signal, holds in every rule that asks for it."""
    signals = SIGNALS.replace("../tiny_models/tone", "../tiny_models/tone, threshold: 0.9")
    rule = f"rules: [ {{ name: r, model: small, when: {{ signal: {{ name: tone, labels: [rude]{written} }} }} }} ]"
    config = read(f"version: 1\nmodels: {{ small: {{ cluster: small }} }}\n{signals}\n{rule}\ndefault: {{ model: small }}")
    assert config.policy.rules[0].when == LabelIs("tone", frozenset({"rude"}), threshold)
