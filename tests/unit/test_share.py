"""Answers that one decision stored and another may be served: the key `share`, through the exchange and the cache itself."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from router.cache.cache import Cache
from router.cache.entries import EntryFilter
from router.cache.operations import CacheOperations
from router.cache.settings import CacheLimits
from router.core.cache_key import Eligibility
from router.core.cache_policy import CachePlan, ScopePlan
from router.core.conditions import HeaderMatches
from router.core.events import LookedUp, Lookup, Reply, RequestBody, ResponseBody, ResponseHeaders, Route
from router.core.exchange import Exchange
from router.core.lookup import CachePolicy, Share, Verdict, Waiting
from router.core.models import Model, Reasoning, SystemPrompt
from router.core.policy import Default, Rule
from tests.unit.builders import CODER, LARGE, SMALL, chat_body, request_headers, snapshot

POLICY = CachePolicy(0.8, 60.0, (), others_ttl_s=60.0)
UNIT = np.eye(1, 384, dtype=np.float32)[0]


def rule(name: str, model: Model, **fields: Any) -> Rule:
    """A rule for requests whose header `x-rule` names it."""
    return Rule(name, HeaderMatches("x-rule", re.compile(name)), model, **fields)


RULES = (
    rule("thinking", LARGE, reasoning=Reasoning(enabled=True)),
    rule("prompted", SMALL, system_prompt=SystemPrompt("Be formal.")),
    rule("plain", SMALL),
    rule("coding", CODER),
    rule("off", LARGE),
)


@dataclass
class Desk:
    """A cache, and the exchanges of a router whose rules are chosen by a header. Every question means the same."""

    share: Share = "all"
    policies: Mapping[str, CachePolicy] = field(default_factory=dict)
    """Of decisions that have one of their own."""
    now_s: float = 1000.0

    def __post_init__(self) -> None:
        async def encode(text: str) -> Any:
            return SimpleNamespace(vector=UNIT, is_truncated=False)

        async def verify(asked: str, stored: str, cache_policy: CachePolicy) -> Verdict:
            return Verdict("", 0.97)

        self.cache = Cache(CacheLimits(), encode, verify, None, now=lambda: self.now_s)
        names = ("default", "explicit_model", "thinking", "prompted", "plain", "coding")
        own = {name: replace(POLICY, share=self.share) for name in names} | dict(self.policies)
        plan = CachePlan(ScopePlan("authorization", b"key"), Eligibility(allows_explicit_models=True), own, "v1")
        self.snapshot = replace(snapshot(*RULES, default=Default(SMALL)), cache=plan)

    def begin(self, text: str, rule: str = "", model: str = "auto") -> tuple[Exchange, Any]:
        """An exchange after its request was read, and its action."""
        exchange = Exchange(self.snapshot)
        exchange.receive(request_headers(authorization="Bearer a", **({"x_rule": rule} if rule else {})))
        return exchange, exchange.receive(RequestBody(chat_body(text, model)))

    async def ask(self, text: str, rule: str = "", model: str = "auto") -> tuple[str, str]:
        """Status of the cache, and the model that wrote the answer."""
        exchange, action = self.begin(text, rule, model)
        pending = None
        if isinstance(action, Lookup):
            found, pending = await self.cache.look_up(action.query, action.cache_policy)
            if isinstance(found, Waiting):
                found = await self.cache.await_leader(pending)
            action = exchange.receive(LookedUp(found, 7, "n"))
        if isinstance(action, Reply):
            written = json.loads(action.body)["model"]
            assert action.headers["x-vsr-cache-model"] == written
        else:
            written = self.answer(exchange, action)
        if pending:
            self.cache.complete(pending, exchange.answer(), exchange.backend_ttl_s)
        return f"{exchange.cache.status}:{exchange.cache.reason}", written

    def answer(self, exchange: Exchange, action: Any) -> str:
        """Let the chosen model answer, if the router reads its answer. The model writes its name."""
        assert isinstance(action, Route)
        assert exchange.decision
        name = exchange.decision.model.name
        if not action.is_last:
            choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
            exchange.receive(ResponseHeaders({":status": "200", "content-type": "application/json"}, is_end=False))
            exchange.receive(ResponseBody(json.dumps({"model": name, "choices": [choice]}).encode(), is_end=True))
        return name


async def test_a_paraphrase_that_another_rule_takes_is_served_what_is_stored() -> None:
    """Its headers name the model that wrote the answer."""
    desk = Desk("all")
    assert await desk.ask("What is a monad?", "thinking") == ("miss:empty", "large")
    assert await desk.ask("What's a monad?", "prompted") == ("hit:semantic", "large")
    assert await desk.ask("What is a monad?", "coding") == ("hit:exact", "large")
    assert await desk.ask("What is a monad?") == ("hit:exact", "large")


async def test_a_model_shares_with_itself_when_it_is_asked_alike() -> None:
    """The router's own system prompt makes another question of it."""
    desk = Desk("model")
    assert await desk.ask("What is a monad?", "plain") == ("miss:empty", "small")
    assert await desk.ask("What's a monad?") == ("hit:semantic", "small")
    assert await desk.ask("What is a monad?", "prompted") == ("miss:empty", "small")
    assert await desk.ask("What is a monad?", "coding") == ("miss:empty", "coder")


async def test_a_decision_shares_with_itself() -> None:
    """Rule `plain` and the default ask the same model alike, and share nothing."""
    desk = Desk("decision")
    assert await desk.ask("What is a monad?", "plain") == ("miss:empty", "small")
    assert await desk.ask("What is a monad?") == ("miss:empty", "small")
    assert await desk.ask("What's a monad?", "plain") == ("hit:semantic", "small")


async def test_a_decision_without_the_cache_neither_stores_nor_is_served() -> None:
    """Whatever others stored."""
    desk = Desk("all")
    assert await desk.ask("What is a monad?", "off") == ("skipped:decision", "large")
    assert await desk.ask("What is a monad?") == ("miss:empty", "small")
    assert await desk.ask("What is a monad?", "off") == ("skipped:decision", "large")


async def test_a_rule_may_keep_its_answers_to_itself() -> None:
    """With a `share` of its own, nothing goes in or out."""
    desk = Desk("all", {"prompted": replace(POLICY, share="decision")})
    assert await desk.ask("What is a monad?", "prompted") == ("miss:empty", "small")
    assert await desk.ask("What is a monad?", "plain") == ("miss:empty", "small")
    assert await desk.ask("What's a monad?", "prompted") == ("hit:semantic", "small")


async def test_a_client_that_names_its_model_gets_answers_of_no_other() -> None:
    """And leaves none to requests whose model the rules choose, unless they share by model."""
    desk = Desk("all")
    assert await desk.ask("What is a monad?", "thinking") == ("miss:empty", "large")
    assert await desk.ask("What is a monad?", model="small") == ("miss:empty", "small")
    assert await desk.ask("What is a monad?", model="coder") == ("miss:empty", "coder")
    assert await desk.ask("What's a monad?", model="coder") == ("hit:semantic", "coder")
    assert await desk.ask("What is a monad?", "plain") == ("hit:exact", "large")


async def test_what_is_served_is_bounded_by_the_decision_that_asks() -> None:
    """Its `exact_only`, its `shadow`, its threshold, and its `ttl_seconds` for what others stored."""
    desk = Desk(
        policies={
            "plain": replace(POLICY, exact_only=True),
            "coding": replace(POLICY, shadow=True),
            "thinking": replace(POLICY, ttl_s=5.0, others_ttl_s=5.0),
        }
    )
    assert await desk.ask("What is a monad?") == ("miss:empty", "small")
    assert await desk.ask("What's a monad?", "plain") == ("miss:exact_only", "small")
    assert await desk.ask("What is a monad?", "plain") == ("hit:exact", "small")
    assert await desk.ask("what is a monad?", "coding") == ("shadow:semantic", "coder")
    assert await desk.ask("Tell me what a monad is", "thinking") == ("hit:semantic", "small")
    desk.now_s += 10
    assert (await desk.ask("What is a monad then?", "thinking"))[0].startswith("miss:")


async def test_what_is_stored_lives_as_long_as_the_storing_decision_says() -> None:
    """A longer `ttl_seconds` of the one that asks does not revive it."""
    desk = Desk(policies={"plain": replace(POLICY, ttl_s=5.0, others_ttl_s=5.0)})
    assert await desk.ask("What is a monad?", "plain") == ("miss:empty", "small")
    desk.now_s += 4
    assert await desk.ask("What is a monad?", "thinking") == ("hit:exact", "small")
    desk.now_s += 2
    assert (await desk.ask("What is a monad?", "thinking"))[0].startswith("miss:")


async def test_a_decisions_own_answers_live_as_long_as_the_client_asked() -> None:
    """`x-vsr-cache-ttl` may exceed the rule's own `ttl_seconds`; that bounds only what other decisions stored."""
    desk = Desk()
    exchange, lookup = desk.begin("What is a monad?", "plain")
    _, pending = await desk.cache.look_up(lookup.query, replace(lookup.cache_policy, ttl_s=600.0))
    desk.answer(exchange, exchange.receive(LookedUp((await desk.cache.peek(lookup.query, POLICY))[0], 7, "n")))
    desk.cache.complete(pending, exchange.answer())
    desk.now_s += 100
    assert await desk.ask("What is a monad?", "plain") == ("hit:exact", "small")
    assert (await desk.ask("What is a monad?"))[0].startswith("miss:")


async def test_an_equal_question_of_another_decision_is_waited_for() -> None:
    """One call for both; how long, says the one that waits. Who is not cached waits for nobody."""
    waits = replace(POLICY, coalesce_timeout_s=5.0)
    desk = Desk(policies={"plain": waits})
    exchange, lookup = desk.begin("What is a monad?", "thinking")
    found, pending = await desk.cache.look_up(lookup.query, lookup.cache_policy)
    action = exchange.receive(LookedUp(found, 7, "n"))  # type: ignore[arg-type]
    waiting = asyncio.ensure_future(desk.ask("What's a monad?", "plain"))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not waiting.done()
    assert (await desk.ask("What's a monad?", "coding"))[0].startswith("miss:")
    assert await desk.ask("What is a monad?", "off") == ("skipped:decision", "large")
    desk.answer(exchange, action)
    desk.cache.complete(pending, exchange.answer())
    assert await waiting == ("hit:coalesced", "large")


async def test_entries_are_found_and_deleted_by_what_stored_them() -> None:
    """Whoever was served them since. A purge of the decision that asked deletes nothing."""
    desk = Desk("all")
    await desk.ask("What is a monad?", "thinking")
    await desk.ask("What is a monad?", "plain")
    operations = CacheOperations(desk.cache, "v1")
    (shown,) = (await operations.search({"decision": "thinking"}))["entries"]  # type: ignore[misc]
    assert (shown["decision"], shown["model"]) == ("thinking", "large")
    assert desk.cache.invalidate(EntryFilter(decision="plain")) == 0
    assert desk.cache.invalidate(EntryFilter(model="small")) == 0
    assert desk.cache.invalidate(EntryFilter(model="large")) == 1
    assert await desk.ask("What is a monad?", "plain") == ("miss:empty", "small")
