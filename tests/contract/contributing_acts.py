"""What CONTRIBUTING.md adds acts. Run by `test_contributing.py`, in a copy that has it: here nothing of it is known."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest

from router.cache.cache import Cache
from router.cache.settings import CacheLimits
from router.cache.verifier import Verifier
from router.config.load import Config, parse
from router.core.events import ReadSignals, RequestBody, Route, SignalsRead
from router.core.exchange import Exchange
from router.core.headers import CLUSTER_HEADER
from router.core.lookup import CacheQuery, Found, Hit
from router.core.types import Decision, Endpoint, Scores
from router.errors import BackendError, ConfigError
from router.runtime.build import Runtime, build
from tests.contract.stores import ANSWER
from tests.unit.builders import ask, chat_body, request_headers

CONFIG = """
version: 1
models:
  small: { cluster: vllm-small, quality_profile: Meta-Llama-3_1-8B-Instruct, cost_per_million_tokens: 0.2 }
  large: { cluster: vllm-large, quality_profile: Meta-Llama-3_1-70B-Instruct, cost_per_million_tokens: 1.0 }
default: { model: small }
"""
QUERY = CacheQuery("What is the capital of France?", "a" * 32, "b" * 32, "s", "default", "small")


def configured(more: str) -> Config:
    """Checked as an operator's is."""
    return parse(CONFIG + more, str(Path("config.yaml").absolute()))


async def restarted(config: Config, answer: bytes | None) -> Found:
    """Of a new process: what is found of the query. The answer is stored as that of its model."""
    caching = build(config).caching
    assert caching
    cache = caching.cache
    assert cache.store_sync
    await cache.store_sync.open(lambda key: None, 10)
    found, pending = await cache.look_up(QUERY, config.cache.policies["default"])
    cache.complete(pending, answer)
    await cache.store_sync.close()
    assert isinstance(found, Found)
    return found


async def test_the_store_keeps_answers_for_the_next_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A miss, then an exact hit. The contract's versions, which came first, are none of the router's."""
    monkeypatch.setattr("router.cache.stores.shelf._WRITERS", [])
    config = configured("semantic_cache: { enabled: true, backend_type: shelf, lookup_timeout_ms: 5000 }")
    assert not isinstance(await restarted(config, ANSWER), Hit)
    found = await restarted(config, None)
    assert isinstance(found, Hit)
    assert (found.answer, found.tier) == (ANSWER, "exact")


async def route(runtime: Runtime, text: str) -> str:
    """The cluster that a question goes to."""
    exchange = Exchange(runtime.snapshot)
    exchange.receive(request_headers())
    action = exchange.receive(RequestBody(chat_body(text)))
    while isinstance(action, ReadSignals):
        action = exchange.receive(SignalsRead(await runtime.signal_reader(action)))
    assert isinstance(action, Route)
    return action.set_headers[CLUSTER_HEADER]


async def test_the_signal_routes_requests() -> None:
    """By what the text is, and by nothing else."""
    rules = "rules: [{ name: slavic, when: { script: [cyrillic] }, model: large }]"
    runtime = build(configured(rules), is_serving=False)
    assert await route(runtime, "Как доказать теорему Пифагора?") == "vllm-large"
    assert await route(runtime, "How do I prove it?") == "vllm-small"


def test_the_selector_takes_the_cheapest_that_is_accurate_enough() -> None:
    """As the operator's key says; a rule that names no bound selects as before."""
    for keys, chosen in (("min_accuracy: 0.6", "small"), ("min_accuracy: 0.7", "large"), ("cost_weight: 0", "large")):
        select = f"{{ candidates: [small, large], {keys} }}"
        policy = configured(f"rules: [{{ name: any, when: {{ is_stream: false }}, model: large, select: {select} }}]").policy
        scores = Scores({"Meta-Llama-3_1-8B-Instruct": 0.6, "Meta-Llama-3_1-70B-Instruct": 0.9})
        decision = policy.decide(ask(), {"quality": scores})
        assert isinstance(decision, Decision)
        assert decision.model.name == chosen


async def test_the_key_of_the_cache_acts_for_the_rule_and_is_inherited() -> None:
    """An answer of 90 seconds is served by the default, which says two minutes, and not by the rule, which says one."""
    config = configured(
        "semantic_cache: { enabled: true, backend_type: memory, verifier: { enabled: false }, max_age_seconds: 120 }\n"
        "rules: [{ name: strict, when: { is_stream: true }, model: small, cache: { max_age_seconds: 60 } }]\n"
    )
    now_s = 1_700_000_000.0
    cache = Cache(CacheLimits(lookup_timeout_s=5), no_encoder, Verifier(), None, now=lambda: now_s)
    _, pending = await cache.look_up(QUERY, config.cache.policies["default"])
    cache.complete(pending, ANSWER)
    now_s += 90
    policies = config.cache.policies
    served = {name: isinstance((await cache.look_up(QUERY, policies[name]))[0], Hit) for name in ("default", "strict")}
    assert served == {"default": True, "strict": False}


async def no_encoder(text: str) -> NoReturn:
    """The exact tier is enough."""
    raise BackendError("no_text")


def test_the_condition_tells_requests_apart() -> None:
    """And a word that is no endpoint is refused, as any key's is."""
    rules = "rules: [{{ name: old, when: {{ endpoint: {} }}, model: large }}]"
    policy = configured(rules.format("completions")).policy
    decisions = [policy.decide(ask(endpoint=endpoint), {}) for endpoint in (Endpoint.COMPLETIONS, Endpoint.CHAT)]
    assert [decision.model.name for decision in decisions if isinstance(decision, Decision)] == ["large", "small"]
    with pytest.raises(ConfigError, match="did you mean 'chat'"):
        configured(rules.format("chats"))
