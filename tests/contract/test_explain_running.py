"""`explain` beside traffic: both share one snapshot, and `explain` leaves no trace in the cache."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from router.admin.server import AdminServer
from router.config.load import load
from router.core.events import Lookup, RequestBody, RequestHeaders
from router.core.exchange import Exchange
from router.core.lookup import Hit, Waiting
from router.extproc.processor import Processor
from router.extproc.server import Server
from router.runtime.build import Runtime, build
from router.runtime.process import _open_cache, _routes
from tests.contract.test_cli import run
from tests.unit.builders import chat_body

CONFIG = """
version: 1
models:
  small: { cluster: small }
semantic_cache: { enabled: true, backend_type: memory, eviction_policy: lru, max_entries: 2, lookup_timeout_ms: 5000 }
default: { model: small }
"""
CHOICE = {"index": 0, "message": {"role": "assistant", "content": "Paris."}, "finish_reason": "stop"}
ANSWER = json.dumps({"choices": [CHOICE]}).encode()
CAPITAL = "What is the capital of France?"
SECRET = "Bearer tell-nobody"


class Router:
    """The parts of a serving process, and its admin port."""

    def __init__(self, runtime: Runtime, processor: Processor, port: int) -> None:
        assert runtime.caching
        self.processor, self.port, self.caching = processor, port, runtime.caching
        self.cache = runtime.caching.cache

    async def store(self, text: str) -> None:
        """Ask, miss and store the answer, as traffic does."""
        action = self._lookup(text)
        _, pending = await self.cache.look_up(action.query, action.cache_policy)
        self.cache.complete(pending, ANSWER)

    async def finds(self, text: str) -> bool:
        """Whether a client's question is a hit."""
        action = self._lookup(text)
        found, pending = await self.cache.look_up(action.query, action.cache_policy)
        self.cache.complete(pending, None)
        return isinstance(found, Hit)

    def _lookup(self, text: str) -> Lookup:
        exchange = Exchange(self.processor.snapshot)
        headers = {":method": "POST", ":path": "/v1/chat/completions", "authorization": SECRET}
        exchange.receive(RequestHeaders(headers, is_end=False))
        action = exchange.receive(RequestBody(chat_body(text)))
        assert isinstance(action, Lookup)
        return action

    async def explain(self, text: str, authorization: str = SECRET) -> dict[str, Any]:
        """Run `explain` over the admin port."""
        document = {"prompt": text, "headers": {"Authorization": authorization}}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://127.0.0.1:{self.port}/explain", json=document) as response,
        ):
            assert response.status == 200, await response.text()
            answer: dict[str, Any] = await response.json()
            return answer


@pytest.fixture
async def router(tmp_path: Path) -> AsyncIterator[Router]:
    """A router with an open cache."""
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    runtime = build(load(path))
    assert runtime.caching
    processor = Processor(runtime.snapshot, runtime.signal_reader, runtime.telemetry, runtime.caching.cache)
    await _open_cache(runtime.caching, processor)
    server = Server("127.0.0.1:0", processor, 1 << 20)
    await server.start()
    admin = AdminServer("127.0.0.1:0", _routes(runtime, processor, server, 0))
    yield Router(runtime, processor, await admin.start())
    await admin.stop()
    await server.drain(0, 0)
    runtime.telemetry.close()


def counts(router: Router) -> Mapping[str, object]:
    """Every count of the cache that operators can see."""
    return json.loads(json.dumps(router.cache.stats()))


async def test_explain_and_traffic_share_one_snapshot(router: Router) -> None:
    """`explain` hits what a client's question hits, for scope, namespace and policy are the same."""
    await router.store(CAPITAL)
    document = await router.explain(CAPITAL)
    assert (document["cache"]["status"], document["cache"]["reason"]) == ("hit", "exact")
    assert document["cache"]["scope"] == next(iter(router.cache.entries)).scope
    assert document["reply"]["status"] == 200
    assert SECRET not in json.dumps(document)
    assert (await router.explain(CAPITAL, "Bearer somebody-else"))["cache"]["reason"] == "empty"


async def test_the_command_line_asks_the_running_router(router: Router) -> None:
    """It prints the answer as text. A refusal is the operator's to fix."""
    await router.store(CAPITAL)
    options = ["explain", "--admin", f"127.0.0.1:{router.port}"]
    done = await asyncio.to_thread(run, *options, "--header", f"Authorization: {SECRET}", CAPITAL)
    assert done.returncode == 0, done.stderr
    assert "cache      hit (exact)" in done.stdout
    assert SECRET not in done.stdout
    done = await asyncio.to_thread(run, *options, stdin='{"prompt": 1}')
    assert (done.returncode, "'prompt' must be a string" in done.stderr) == (2, True)


async def test_a_document_that_makes_no_request_is_refused_by_its_field(router: Router) -> None:
    """The admin port answers 400, as to any other bad request."""
    url = f"http://127.0.0.1:{router.port}/explain"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, json={"prompt": "hi", "headers": {"a b": "1"}}) as response,
    ):
        assert response.status == 400
        assert (await response.json())["error"]["param"] == "headers"


async def test_a_near_question_shows_what_was_held_against_it(router: Router) -> None:
    """The document has its similarity, the check that objects, and the final verdict."""
    await router.store("How many planets are within 10 light years of the sun?")
    document = await router.explain("How many planets are within 20 light years of the sun?")
    (candidate,) = document["cache"]["candidates"]
    assert (document["cache"]["status"], document["cache"]["reason"]) == ("miss", "numbers")
    assert (candidate["verdict"], candidate["tier"]) == ("numbers", "semantic")
    assert "numbers" in candidate["objections"]
    assert candidate["similarity"] > document["cache"]["policy"]["min_similarity"]
    await router.store("How do I sort a list in Python?")
    await router.store("What is the best way to learn to swim?")
    candidates = (await router.explain("How can I learn to swim fast?"))["cache"]["candidates"]
    verified = [one for one in candidates if one["probability"] is not None]
    assert verified
    assert all(one["verdict"] in ("served", "verifier") for one in verified)


async def test_explaining_leaves_no_trace_in_the_cache(router: Router) -> None:
    """Nothing is stored, counted or led, and the eviction order stays."""
    await router.store("Who wrote Faust?")
    await router.store(CAPITAL)
    before = counts(router)
    assert (await router.explain("Who wrote Faust?"))["cache"]["status"] == "hit"
    assert (await router.explain("Who painted the Mona Lisa?"))["cache"]["status"] == "miss"
    assert counts(router) == before
    await router.store("What is a monad?")  # there is room for two
    assert not await router.finds("Who wrote Faust?")
    assert await router.finds(CAPITAL)


async def test_nobody_waits_for_a_question_that_was_only_explained(router: Router) -> None:
    """A question under way is reported without a wait."""
    terms_wait = [cache_policy.coalesce_timeout_s for cache_policy in router.processor.snapshot.cache.policies.values()]  # type: ignore[union-attr]
    document = await router.explain(CAPITAL)
    assert document["cache"]["waits_for_equal_question"] is False
    action = router._lookup(CAPITAL)
    found, pending = await router.cache.look_up(action.query, action.cache_policy)
    assert not isinstance(found, Waiting)
    async with asyncio.timeout(10):
        document = await router.explain(CAPITAL)
    assert document["cache"]["waits_for_equal_question"] is any(terms_wait)
    router.cache.complete(pending, None)
