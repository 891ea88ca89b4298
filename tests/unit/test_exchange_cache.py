"""An exchange whose answer may be cached: looked up, replayed, recorded, or bypassed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from router.core.cache_key import Eligibility
from router.core.cache_policy import CachePlan, ScopePlan
from router.core.events import Action, Continue, LookedUp, Lookup, Reply, RequestBody, ResponseBody, ResponseHeaders, Route
from router.core.exchange import Exchange
from router.core.lookup import CachePolicy, Found, Hit, Miss, MissReason
from router.core.models import Reasoning, ReasoningFamily
from router.core.policy import Default
from router.core.states import Answering
from tests.unit.builders import SMALL, chat_body, request_headers, snapshot

POLICY = CachePolicy(0.8, 60.0, ())
PLAN = CachePlan(ScopePlan("authorization", b"key"), Eligibility(), {"default": POLICY}, "v1")
CHOICE = {"index": 0, "message": {"role": "assistant", "content": "Hi\n  there"}, "finish_reason": "stop"}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2}
WHOLE = {"id": "x", "object": "chat.completion", "model": "m", "choices": [CHOICE], "usage": USAGE}
STORED = json.dumps({key: value for key, value in WHOLE.items() if key not in ("id", "object")}).encode()
HIT = Hit("e" * 32, STORED, "semantic", 0.93, 12.7, None, "proofs", "large")


def ask(plan: CachePlan | None = PLAN, body: bytes | None = None, **headers: str) -> tuple[Exchange, Action]:
    """An exchange that has read its request, which names a principal unless told otherwise."""
    exchange = Exchange(replace(snapshot(default=Default(SMALL)), cache=plan))
    exchange.receive(request_headers(**{"authorization": "Bearer a", **headers}))
    return exchange, exchange.receive(RequestBody(body or chat_body("What is a monad?")))


def found(exchange: Exchange, result: Found) -> Action:
    """The shell's answer to a lookup."""
    return exchange.receive(LookedUp(result, now_s=7, reply_id="n"))


def answer_with(exchange: Exchange, body: bytes, status: str = "200", kind: str = "application/json", **headers: str) -> None:
    """Pass the whole answer through the exchange."""
    exchange.receive(ResponseHeaders({":status": status, "content-type": kind, **headers}, is_end=False))
    if isinstance(exchange.state, Answering):
        exchange.receive(ResponseBody(body, is_end=True))


def test_a_question_is_looked_up_before_it_is_routed() -> None:
    """The lookup carries the namespace, the hidden scope and the decision."""
    _, action = ask()
    assert isinstance(action, Lookup)
    assert action.query.text == "What is a monad?"
    assert (action.query.decision, action.query.model) == ("default", "small")
    assert action.query.scope != "Bearer a"
    assert action.cache_policy == POLICY


def test_answers_made_under_another_reasoning_family_are_out_of_reach() -> None:
    """The store outlives the configuration. If a family is defined anew, the same question makes another request."""
    plan = replace(PLAN, policies={"default": replace(POLICY, share="model")})
    namespaces = set()
    for level in ("low", "high"):
        family = ReasoningFamily("reasoning_effort", "reasoning_effort", default_effort=level)
        default = Default(replace(SMALL, reasoning_family="mine"), Reasoning(enabled=True))
        exchange = Exchange(replace(snapshot(default=default), cache=plan, families={"mine": family}))
        exchange.receive(request_headers(authorization="Bearer a"))
        action = exchange.receive(RequestBody(chat_body("What is a monad?")))
        assert isinstance(action, Lookup)
        namespaces.add(action.query.namespace)
    assert len(namespaces) == 2


def test_a_hit_is_the_answer() -> None:
    """It carries its own headers, which name who wrote the answer, and the decision's. The cluster header stays here."""
    exchange, _ = ask()
    reply = found(exchange, HIT)
    assert isinstance(reply, Reply)
    assert json.loads(reply.body) == {**WHOLE, "id": "chatcmpl-n", "created": 7}
    assert {name: value for name, value in reply.headers.items() if "cache" in name or name == "x-vsr-response-path"} == {
        "x-vsr-cache-hit": "true",
        "x-vsr-cache-status": "hit:semantic",
        "cache-status": "semantic-router; hit; detail=semantic",
        "x-vsr-cache-similarity": "0.9300",
        "x-vsr-cache-entry": "e" * 32,
        "x-vsr-cache-age": "12",
        "x-vsr-cache-decision": "proofs",
        "x-vsr-cache-model": "large",
        "x-vsr-response-path": "cache",
    }
    assert (reply.headers["x-vsr-selected-decision"], reply.headers["x-vsr-selected-model"]) == ("default", "small")
    assert "x-upstream-cluster" not in reply.headers
    record = exchange.record(exchange.ending)
    assert (record.decision, record.model, record.cache_model, record.answering_model) == ("default", "small", "large", "large")
    assert (record.ending, record.response_path) == ("replied", "cache")
    assert (record.cache, record.cache_reason, record.cache_similarity) == ("hit", "semantic", 0.93)


@pytest.mark.parametrize("reason", ["near_miss", "numbers", "verifier"])
def test_the_record_of_a_miss_says_which_entry_was_not_served_and_no_header_does(reason: MissReason) -> None:
    """The operator investigates with it. The client learns what it learns of any miss."""
    headers, records = [], []
    for miss in (Miss(reason), Miss(reason, 0.83, "e" * 32)):
        exchange, _ = ask()
        route = found(exchange, miss)
        assert isinstance(route, Route)
        headers.append(route.set_headers)
        records.append(exchange.record(exchange.ending))
    assert headers[0] == headers[1]
    assert [(record.cache, record.cache_reason) for record in records] == [("miss", reason)] * 2
    assert [(record.cache_similarity, record.cache_entry) for record in records] == [(0.0, ""), (0.83, "e" * 32)]


def test_an_answer_that_cannot_be_read_is_named_in_the_record() -> None:
    """Its entry is the one to delete."""
    exchange, _ = ask()
    found(exchange, replace(HIT, answer=b"{"))
    record = exchange.record(exchange.ending)
    assert (record.cache_reason, record.cache_similarity, record.cache_entry) == ("damaged", 0.93, HIT.entry_id)


def test_a_hit_is_a_stream_for_a_client_that_streams() -> None:
    """The entry is the same one that serves JSON."""
    exchange, _ = ask(body=chat_body("What is a monad?", stream=True))
    reply = found(exchange, HIT)
    assert isinstance(reply, Reply)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.body.endswith(b"data: [DONE]\n\n")


def test_a_miss_is_routed_and_its_answer_recorded() -> None:
    """The answer is requested uncompressed, and a header gives the reason for the miss."""
    exchange, _ = ask()
    route = found(exchange, Miss("numbers"))
    assert isinstance(route, Route)
    assert not route.is_last
    assert "accept-encoding" in route.remove_headers
    assert route.set_headers["x-vsr-cache-hit"] == "false"
    assert route.set_headers["x-vsr-cache-status"] == "miss:numbers"
    answer_with(exchange, json.dumps(WHOLE).encode())
    stored = exchange.answer()
    assert stored is not None
    assert json.loads(stored) == json.loads(STORED)
    record = exchange.record(exchange.ending)
    assert (record.cache, record.cache_reason, record.stored) == ("miss", "numbers", "stored")


@pytest.mark.parametrize(
    ("body", "headers", "why"),
    [
        (b'{"choices": []}', {}, "unreadable"),
        (json.dumps(WHOLE).encode().replace(b'"stop"', b'"length"'), {}, "not_stopped"),
        (json.dumps(WHOLE).encode(), {"status": "500"}, "not_ok"),
        (json.dumps(WHOLE).encode(), {"content_encoding": "gzip"}, "compressed"),
        (json.dumps(WHOLE).encode(), {"cache_control": "no-store"}, "no_store"),
        (json.dumps(WHOLE).encode(), {"cache_control": "private"}, "private"),
        (json.dumps(WHOLE).encode(), {"expires": "Thu, 01 Jan 1970 00:00:07 GMT"}, "expired"),
        (json.dumps(WHOLE).encode(), {"vary": "x-team"}, "vary"),
        (json.dumps(WHOLE).encode(), {"content_type": "text/html"}, "content_type"),
    ],
)
def test_an_exchange_does_not_store_an_answer_that_must_not_be_replayed(body: bytes, headers: dict[str, str], why: str) -> None:
    """The record names the reason."""
    exchange, _ = ask()
    found(exchange, Miss("empty"))
    status = headers.pop("status", "200")
    answer_with(exchange, body, status, **{name.replace("_", "-"): value for name, value in headers.items()})
    assert exchange.answer() is None
    assert exchange.record(exchange.ending).stored == why


def test_an_answer_that_was_cut_off_is_not_stored() -> None:
    """The client or the model disconnected."""
    exchange, _ = ask()
    found(exchange, Miss("empty"))
    exchange.receive(ResponseHeaders({":status": "200", "content-type": "application/json"}, is_end=False))
    exchange.receive(ResponseBody(json.dumps(WHOLE).encode(), is_end=False))
    assert exchange.answer() is None
    assert exchange.record("abandoned").stored == "interrupted"


def test_an_answer_that_never_came_is_interrupted_too() -> None:
    """The client left before the model answered."""
    exchange, _ = ask()
    found(exchange, Miss("empty"))
    assert exchange.answer("abandoned") is None
    assert exchange.record("abandoned").stored == "interrupted"


def test_a_whole_answer_of_an_exchange_that_failed_is_not_stored() -> None:
    """The exchange failed after the answer was complete, so the answer is not trusted."""
    exchange, _ = ask()
    found(exchange, Miss("empty"))
    answer_with(exchange, json.dumps(WHOLE).encode())
    assert exchange.answer("failed") is None
    assert exchange.record("failed").stored == "interrupted"


@pytest.mark.parametrize(
    "headers",
    [{"cache-control": "max-age=5", "vary": "authorization"}, {"expires": "Thu, 01 Jan 1970 00:00:12 GMT"}],
    ids=json.dumps,
)
def test_the_backend_bounds_how_long_its_answer_is_kept(headers: dict[str, str]) -> None:
    """`max-age` counts, or `Expires` from the time of the lookup. The answer may vary by the scope's own header."""
    exchange, _ = ask()
    found(exchange, Miss("empty"))
    answer_with(exchange, json.dumps(WHOLE).encode(), **headers)
    assert exchange.answer() is not None
    assert exchange.backend_ttl_s == 5


def test_shadow_routes_what_would_have_been_a_hit() -> None:
    """The answer says so."""
    exchange, _ = ask(replace(PLAN, policies={"default": replace(POLICY, shadow=True)}))
    route = found(exchange, HIT)
    assert isinstance(route, Route)
    assert route.set_headers["x-vsr-cache-status"] == "shadow:semantic"
    assert route.set_headers["cache-status"] == "semantic-router; fwd=miss; detail=shadow:semantic"
    assert route.set_headers["x-vsr-cache-hit"] == "false"


def test_a_damaged_entry_is_a_miss() -> None:
    """This holds for any damage in the store."""
    exchange, _ = ask()
    route = found(exchange, replace(HIT, answer=b"\x00"))
    assert isinstance(route, Route)
    assert route.set_headers["x-vsr-cache-status"] == "miss:damaged"


@pytest.mark.parametrize(
    ("plan", "headers", "status"),
    [
        (PLAN, {"authorization": ""}, "skipped:no_scope"),
        (replace(PLAN, policies={}), {}, "skipped:decision"),
        (PLAN, {"cache_control": "no-cache, no-store"}, "skipped:client"),
        (replace(PLAN, eligibility=Eligibility(max_text_chars=3)), {}, "skipped:too_long"),
    ],
)
def test_what_is_no_question_is_routed_at_once_and_not_recorded(plan: CachePlan, headers: dict[str, str], status: str) -> None:
    """A header gives the reason, and the router leaves the exchange."""
    exchange, action = ask(plan, **headers)
    assert isinstance(action, Route)
    assert action.is_last
    assert action.set_headers["x-vsr-cache-status"] == status
    assert action.set_headers["cache-status"] == f"semantic-router; fwd=bypass; detail={status.partition(':')[2]}"
    assert exchange.answer() is None


def test_a_request_that_names_its_model_is_skipped_for_that_reason() -> None:
    """No policy is looked up for it unless `eligibility.explicit_models` is true; that is no rule's `enabled: false`."""
    _, action = ask(replace(PLAN, policies={}), chat_body("What is a monad?", model="small"))
    assert isinstance(action, Route)
    assert action.set_headers["x-vsr-cache-status"] == "skipped:explicit_model"


@pytest.mark.parametrize(("reason", "forwarded"), [("near_miss", "miss"), ("empty", "miss"), ("no_cache", "request")])
def test_a_miss_is_told_in_the_words_of_every_cache(reason: MissReason, forwarded: str) -> None:
    """`Cache-Status` says why the request was forwarded, in the terms of RFC 9211, with our own reason as the detail."""
    exchange, _ = ask()
    route = found(exchange, Miss(reason))
    assert isinstance(route, Route)
    assert route.set_headers["cache-status"] == f"semantic-router; fwd={forwarded}; detail={reason}"


def test_without_a_cache_nothing_is_said_of_one() -> None:
    """There is no cache header and no cache field in the record."""
    exchange, action = ask(None)
    assert isinstance(action, Route)
    assert not any("cache" in name for name in action.set_headers)
    assert exchange.record(exchange.ending).cache == "off"


@pytest.mark.parametrize(
    ("plan", "headers"),
    [
        (PLAN, {}),
        (PLAN, {"authorization": ""}),
        (replace(PLAN, policies={}), {}),
        (replace(PLAN, eligibility=Eligibility(max_text_chars=3)), {}),
    ],
    ids=["looked_up", "no_scope", "decision", "too_long"],
)
def test_only_if_cached_asks_no_model(plan: CachePlan, headers: dict[str, str]) -> None:
    """The answer is 504, as HTTP defines it, whether a lookup was possible or not."""
    exchange, action = ask(plan, cache_control="only-if-cached", **headers)
    if isinstance(action, Lookup):
        action = found(exchange, Miss("empty"))
    assert isinstance(action, Reply)
    assert action.http_status == 504
    assert json.loads(action.body)["error"]["code"] == "not_cached"
    status = f"{exchange.cache.status}:{exchange.cache.reason}"
    assert status.startswith(("miss:", "skipped:"))
    assert (action.headers["x-vsr-cache-hit"], action.headers["x-vsr-cache-status"]) == ("false", status)
    assert action.headers["cache-status"].endswith(f"detail={exchange.cache.reason}")


def test_only_if_cached_does_nothing_unless_the_operator_allows_it() -> None:
    """The model is asked."""
    exchange, action = ask(replace(PLAN, controls=frozenset()), cache_control="only-if-cached")
    assert isinstance(action, Lookup)
    assert isinstance(found(exchange, Miss("empty")), Route)


def test_no_store_is_looked_up_and_not_recorded() -> None:
    """Nothing then delays the response."""
    exchange, action = ask(cache_control="no-store")
    assert isinstance(action, Lookup)
    route = found(exchange, Miss("empty"))
    assert isinstance(route, Route)
    assert route.is_last


def test_usage_that_was_fetched_for_the_cache_is_not_shown() -> None:
    """The client did not ask for the stream's extra chunk."""
    exchange, _ = ask(body=chat_body("What is a monad?", stream=True))
    route = found(exchange, Miss("empty"))
    assert isinstance(route, Route)
    assert route.body is not None
    assert json.loads(route.body)["stream_options"] == {"include_usage": True}
    exchange.receive(ResponseHeaders({":status": "200", "content-type": "text/event-stream"}, is_end=False))
    parts: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}]}
    ]
    data = b"".join(b"data: %s\n\n" % json.dumps(part).encode() for part in parts)
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n'
    assert exchange.receive(ResponseBody(data, is_end=False)) == Continue()
    shown = exchange.receive(ResponseBody(usage + b"data: [DONE]\n\n", is_end=True))
    assert getattr(shown, "data", b"") == b"data: [DONE]\n\n"
    stored = exchange.answer()
    assert stored is not None
    assert json.loads(stored)["usage"]["completion_tokens"] == 1
