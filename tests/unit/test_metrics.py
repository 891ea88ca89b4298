"""Counters count what their names say: for every way an exchange can go and end, every series."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from router.core.cache_key import Eligibility
from router.core.cache_policy import CachePlan, ScopePlan
from router.core.conditions import LabelIs
from router.core.events import LookedUp, ReadSignals, RequestBody, ResponseBody, ResponseHeaders
from router.core.exchange import Exchange
from router.core.exchange_record import ExchangeRecord
from router.core.lookup import CachePolicy, Hit, Miss
from router.core.policy import Rule
from router.core.snapshot import Snapshot
from router.core.types import Block, Missing
from router.telemetry.metrics import Metrics
from tests.unit.builders import MATH_RULE, SMALL, chat_body, request_headers, send, snapshot, sure
from tests.unit.test_exchange_cache import HIT, WHOLE

GUARD = Rule("no-attacks", LabelIs("jailbreak", frozenset({"jailbreak"}), 0.5), SMALL, block=Block("no", fails_closed=True))
RULES = snapshot(MATH_RULE)
RECORDING = snapshot(MATH_RULE, records_usage=True)
GUARDED = snapshot(GUARD, MATH_RULE)
MATH = {"intent": sure("math")}


def caching(shadow: bool = False) -> Snapshot:
    """A configuration with only a default, whose answers are cached."""
    plan = CachePlan(ScopePlan(""), Eligibility(), {"default": CachePolicy(0.8, 60.0, (), shadow=shadow)}, "v1")
    return replace(snapshot(), cache=plan)


def ended(exchange: Exchange, ending: str = "") -> ExchangeRecord:
    """The record of an exchange. A routed one has a time, which the shell adds."""
    record = exchange.record(ending or exchange.ending)
    return replace(record, routing_s=0.01 if record.response_path == "upstream" else 0.0, duration_s=1.0)


def asked(shot: Snapshot, body: bytes, readings: dict | None = None, ending: str = "", **headers: str) -> ExchangeRecord:
    """An exchange up to the answer to its request."""
    exchange = Exchange(shot)
    send(exchange, body, readings, **headers)
    return ended(exchange, ending)


def looked_up(shot: Snapshot, found: Hit | Miss, ending: str = "", **headers: str) -> ExchangeRecord:
    """An exchange that asked the cache and got this answer."""
    exchange = Exchange(shot)
    send(exchange, chat_body("What is a monad?"), **headers)
    exchange.receive(LookedUp(found, now_s=7, reply_id="n"))
    return ended(exchange, ending)


def waiting(shot: Snapshot, body: bytes) -> ExchangeRecord:
    """An exchange that was abandoned while the shell read signals, or looked into the cache."""
    exchange = Exchange(shot)
    send(exchange, body) if shot.cache else begin(exchange, body)
    return ended(exchange, "abandoned")


def begin(exchange: Exchange, body: bytes) -> None:
    """Send headers and body, and no readings."""
    exchange.receive(request_headers())
    assert isinstance(exchange.receive(RequestBody(body)), ReadSignals)


def answered(
    status: str = "200", kind: str = "application/json", *, is_stream: bool = False, is_whole: bool = True
) -> ExchangeRecord:
    """An exchange whose answer passes the router."""
    exchange = Exchange(RECORDING)
    send(exchange, chat_body("Prove it.", stream=is_stream), MATH)
    exchange.receive(ResponseHeaders({":status": status, "content-type": kind}, is_end=False))
    if status == "200":
        exchange.receive(ResponseBody(json.dumps(WHOLE).encode(), is_end=is_whole))
    record = ended(exchange, "" if is_whole else "abandoned")
    return replace(record, first_token_s=0.2 if exchange.is_streamed else None)


def passed(path: str = "/v1/audio/speech") -> ExchangeRecord:
    """An exchange on a path that the router does not read."""
    exchange = Exchange(RULES)
    exchange.receive(request_headers(path))
    return ended(exchange)


def listed() -> ExchangeRecord:
    """An exchange that lists the models."""
    exchange = Exchange(RULES)
    exchange.receive(request_headers("/v1/models", "GET"))
    return ended(exchange)


def exchanges(ending: str, endpoint: str = "chat") -> str:
    """What every exchange counts once."""
    return f"exchanges ending={ending} endpoint={endpoint}"


TO_LARGE = {
    "model_requests model=large",
    "routing_reason_codes reason_code=matched model=large",
    "model_routing_modifications source_model=auto target_model=large",
    "reasoning_decisions category=math model=large enabled=true effort=high",
}
TO_SMALL = {
    "model_requests model=small",
    "routing_reason_codes reason_code=no_match model=small",
    "model_routing_modifications source_model=auto target_model=small",
}
NO_MATCH = {"routing_reason_codes reason_code=no_match model=small"}
PROOF = {"decision_matches decision=proofs", "category_classifications category=math"}
USAGE = {"model_prompt_tokens model=large", "model_completion_tokens model=large"}
DEFAULT = {"decision_matches decision=default", "category_classifications category=none"}
BLOCKED = {
    "decision_matches decision=no-attacks",
    "category_classifications category=none",
    "requests_blocked decision=no-attacks reason=matched",
    exchanges("replied"),
}

CASES: dict[str, tuple[Callable[[], ExchangeRecord], set[str]]] = {
    "routed by a rule": (
        lambda: asked(RULES, chat_body("Prove it."), MATH),
        {exchanges("routed"), *PROOF, *TO_LARGE},
    ),
    "routed to the model that the client named": (
        lambda: asked(RULES, chat_body("hi", "small")),
        {
            exchanges("routed"),
            "decision_matches decision=explicit_model",
            "category_classifications category=none",
            "model_requests model=small",
            "routing_reason_codes reason_code=explicit_model model=small",
        },
    ),
    "routed although the intent is missing": (
        lambda: asked(RULES, chat_body("hi"), {"intent": Missing("deadline")}),
        {
            exchanges("routed"),
            "decision_matches decision=default",
            *(TO_SMALL - NO_MATCH),
            "routing_reason_codes reason_code=intent_missing model=small",
            "category_classifications category=unknown",
            "signals_missing signal=intent reason=deadline",
        },
    ),
    "blocked": (
        lambda: asked(GUARDED, chat_body("hi"), {"jailbreak": sure("jailbreak")}),
        {*BLOCKED, "request_errors model=auto reason=blocked"},
    ),
    "not readable for a rule that fails closed": (
        lambda: asked(GUARDED, chat_body("hi"), {"jailbreak": Missing("deadline")}),
        {
            *(BLOCKED - {"requests_blocked decision=no-attacks reason=matched"}),
            "requests_blocked decision=no-attacks reason=deadline",
            "request_errors model=auto reason=unreadable",
            "signals_missing signal=jailbreak reason=deadline",
        },
    ),
    "blocked although the client named a model": (
        lambda: asked(GUARDED, chat_body("hi", "large"), {"jailbreak": sure("jailbreak")}),
        {*BLOCKED, "request_errors model=large reason=blocked"},
    ),
    "refused": (
        lambda: asked(RULES, chat_body("hi", "gpt-9")),
        {exchanges("replied"), "request_errors model=unknown reason=model_not_found"},
    ),
    "unreadable": (
        lambda: asked(RULES, b"{"),
        {exchanges("replied"), "request_errors model=unknown reason=invalid_json"},
    ),
    "the list of models": (listed, {exchanges("replied", "models")}),
    "no path of ours": (passed, {exchanges("passed", "other")}),
    "answered from the cache": (
        lambda: looked_up(caching(), HIT),
        {exchanges("replied"), *DEFAULT, *NO_MATCH, "cache_hits decision=default tier=semantic"},
    ),
    "not in the cache": (
        lambda: looked_up(caching(), Miss("numbers"), "abandoned"),
        {exchanges("abandoned"), *DEFAULT, *TO_SMALL, "cache_misses decision=default reason=numbers"},
    ),
    "not in the cache, and only that was asked for": (
        lambda: looked_up(caching(), Miss("empty"), cache_control="only-if-cached"),
        {
            exchanges("replied"),
            *DEFAULT,
            *NO_MATCH,
            "cache_misses decision=default reason=empty",
            "request_errors model=auto reason=not_cached",
        },
    ),
    "a hit that is counted and not served": (
        lambda: looked_up(caching(shadow=True), HIT, "abandoned"),
        {exchanges("abandoned"), *DEFAULT, *TO_SMALL, "cache_shadow_hits decision=default tier=semantic"},
    ),
    "no question for the cache": (
        lambda: asked(caching(), chat_body("hi", tools=[{"type": "function"}])),
        {exchanges("routed"), *DEFAULT, *TO_SMALL, "cache_skipped decision=default reason=tools"},
    ),
    "given up while it was measured": (lambda: waiting(RULES, chat_body("hi")), {exchanges("abandoned")}),
    "given up while the cache was asked": (
        lambda: waiting(caching(), chat_body("hi")),
        {exchanges("abandoned"), *DEFAULT, *NO_MATCH},
    ),
    "failed before it was decided": (
        lambda: ended(Exchange(RULES), "failed"),
        {exchanges("failed", "other"), "request_errors model=unknown reason=failed"},
    ),
    "failed after a model was asked": (
        lambda: asked(RULES, chat_body("Prove it."), MATH, "failed"),
        {exchanges("failed"), *PROOF, *TO_LARGE, "request_errors model=auto reason=failed"},
    ),
    "a whole answer": (answered, {exchanges("completed"), *PROOF, *TO_LARGE, *USAGE}),
    "a streamed answer": (
        lambda: answered(kind="text/event-stream", is_stream=True),
        {exchanges("completed"), *PROOF, *TO_LARGE},
    ),
    "an answer that was cut off": (lambda: answered(is_whole=False), {exchanges("abandoned"), *PROOF, *TO_LARGE}),
    "a model that answers 500": (lambda: answered("500"), {exchanges("routed"), *PROOF, *TO_LARGE}),
}


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    """A registry of this test alone."""
    counting = Metrics()
    yield counting
    counting.close()


def counted(page: str, kind: str = "counter") -> set[str]:
    """Every series that is not zero: counters with their labels in documented order, histograms by name."""
    found = set()
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if family.type == kind == "counter" and sample.value:
                labels = (f"{name}={value}" for name, value in sample.labels.items() if value)
                found.add(" ".join([family.name, *labels]))
            elif family.type == kind and sample.name.endswith("_count") and sample.value:
                found.add(family.name)
    return found


def normal(series: str) -> frozenset[str]:
    """A series without regard to the order of labels, and without the common prefix."""
    name, *labels = series.removeprefix("llm_").removeprefix("router_").split()
    return frozenset({name, *labels})


@pytest.mark.parametrize("case", CASES)
def test_what_an_exchange_counts(metrics: Metrics, case: str) -> None:
    """Only these series count. A model that was not asked counts no request. A decided request counts its decision."""
    make, expected = CASES[case]
    metrics.begin({}).end(make())
    assert set(map(normal, counted(metrics.render().decode()))) == set(map(normal, expected))


def test_every_ending_and_path_is_in_the_table() -> None:
    """`ExchangeRecord` names them."""
    records = [make() for make, _ in CASES.values()]
    assert {record.ending for record in records} == {"routed", "replied", "completed", "passed", "abandoned", "failed"}
    assert {record.response_path for record in records} == {"upstream", "cache", "models", "error", "bypass"}


@pytest.mark.parametrize(
    ("case", "timed"),
    [
        ("routed by a rule", {"routing_latency"}),
        ("blocked", set()),
        ("answered from the cache", set()),
        ("given up while the cache was asked", set()),
        ("a whole answer", {"routing_latency", "completion_latency"}),
        ("a streamed answer", {"routing_latency", "ttft", "completion_latency"}),
        ("an answer that was cut off", {"routing_latency"}),
        ("a model that answers 500", {"routing_latency"}),
    ],
)
def test_each_time_is_recorded_only_where_it_exists(metrics: Metrics, case: str, timed: set[str]) -> None:
    """Only streams have a first token, and only answers that passed whole have a whole time."""
    make, _ = CASES[case]
    metrics.begin({}).end(make())
    assert counted(metrics.render().decode(), "histogram") == {f"llm_model_{name}_seconds" for name in timed}


def test_endings_are_there_as_zero_before_the_first(metrics: Metrics) -> None:
    """`increase` over a series that begins with 1 is 0, so the alert would miss the first failure."""
    page = metrics.render().decode()
    for endpoint in ("chat", "completions", "embeddings", "models", "other"):
        assert f'llm_router_exchanges_total{{ending="failed",endpoint="{endpoint}"}} 0.0' in page
