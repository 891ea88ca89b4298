"""The cache with the real encoder in memory, on Milvus Lite and on a Milvus server: one suite for all, and what each adds."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router.cache.cache import Cache
from router.cache.checks import CHECKS
from router.cache.entries import Entry, EntryFilter
from router.cache.rejections import Rejections
from router.cache.settings import CacheLimits, MilvusSettings, SyncSettings
from router.cache.stores.milvus import MilvusStore
from router.cache.stores.rows import MAX_STORED_BYTES, packed
from router.cache.stores.sync import StoreSync
from router.cache.verifier import Verifier
from router.core.cache_key import digest
from router.core.lookup import CachePolicy, CacheQuery, Found, Hit, Miss, Waiting
from router.errors import ConfigError
from router.inference.bundle import SHIPPED, Bundle
from router.inference.encoder import Encoder
from router.inference.pool import InferencePool
from tests.contract.milvus_server import PROGRAM, Door, shared
from tests.waiting import until

POLICY = CachePolicy(0.8, 3600.0, tuple(CHECKS))
ANSWER = json.dumps({"choices": [{"message": {"content": "Paris.\n"}, "finish_reason": "stop"}]}).encode()
CAPITAL = "What is the capital of France?"
SAME = "What's the capital of France?"
SYNC_SETTINGS = SyncSettings(poll_interval_s=0.1, sweep_s=3600)

needs_server = pytest.mark.skipif(PROGRAM is None, reason="the Milvus server's wheel is not made for this machine")


def query(text: str = CAPITAL, namespace: str = "p", **others: str) -> CacheQuery:
    """A question in the namespace of this short name."""
    hashed = digest(namespace)
    values = {"scope": "alice", "decision": "default", "model": "small", **others}
    return CacheQuery(text, hashed, digest(f"{hashed}\n{text}"), **values)


async def ask(cache: Cache, text: str = CAPITAL, namespace: str = "p", cache_policy: CachePolicy = POLICY) -> Found:
    """Look a question up, as a request that is then abandoned."""
    found, pending = await cache.look_up(query(text, namespace), cache_policy)
    if isinstance(found, Waiting):
        found = await cache.await_leader(pending)
    cache.complete(pending, None)
    return found


async def store(
    cache: Cache,
    text: str = CAPITAL,
    namespace: str = "p",
    cache_policy: CachePolicy = POLICY,
    answer: bytes = ANSWER,
    **others: str,
) -> None:
    """Ask, miss, and store the answer."""
    _, pending = await cache.look_up(query(text, namespace, **others), replace(cache_policy, may_look_up=False))
    cache.complete(pending, answer)


async def vector_of(site: Site, text: str = CAPITAL) -> Any:
    """The vector from the encoder."""
    return (await site.encoder.encode(text)).vector


def written(cache: Cache) -> bool:
    """Wait until the store has all that it was given."""
    return cache.store_sync is None or (cache.store_sync.state.is_up and not cache.store_sync.state.waiting)


class Clock:
    """Real time that the test can advance."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


class Site:
    """Caches of one store: replicas, or successive processes."""

    def __init__(self, encoder: Encoder, settings: MilvusSettings | None, rejections: Path | None = None) -> None:
        self.encoder, self.settings, self.rejections, self.clock = encoder, settings, rejections, Clock()
        self.caches: list[Cache] = []
        self.keys: list[bytes] = []

    async def open(self, versions: str = "v1", **sizes: Any) -> Cache:
        """Open one more cache."""
        store_sync = StoreSync(MilvusStore(self.settings, versions), SYNC_SETTINGS, self.clock) if self.settings else None
        values = {"max_entries": 100, "lookup_timeout_s": 2.0, "store_timeout_s": 1.0, **sizes}
        cache = Cache(CacheLimits(**values), self.encoder.encode, Verifier(), store_sync, self.clock, Rejections(self.rejections))
        if store_sync:
            await store_sync.open(self.keys.append, 60)
        self.caches.append(cache)
        return cache

    async def close(self, cache: Cache) -> None:
        """Close the cache, as a process that ends does."""
        self.caches.remove(cache)
        if cache.store_sync:
            await cache.store_sync.close()


@pytest.fixture(scope="module")
def encoder() -> Iterator[Encoder]:
    """The shipped encoder."""
    passes = InferencePool(2, 1000)
    yield Encoder(Bundle.load(SHIPPED), passes)
    passes.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a Milvus that all tests share. Each uses its own collections."""
    with shared(tmp_path_factory.mktemp("milvus")) as port:
        yield port


def settings_of(server: int, **others: Any) -> MilvusSettings:
    """Settings for a collection of its own on the server."""
    return MilvusSettings(host="127.0.0.1", port=server, collection=f"c{uuid.uuid4().hex[:12]}", timeout_s=20, **others)


@pytest.fixture(params=["memory", "lite", pytest.param("server", marks=needs_server)])
async def site(request: pytest.FixtureRequest, encoder: Encoder, tmp_path: Path) -> AsyncIterator[Site]:
    """A site with each kind of store."""
    rejections = None
    match request.param:
        case "memory":
            settings, rejections = None, tmp_path / "rejected_pairs"
        case "lite":
            settings = MilvusSettings(file=tmp_path / "cache.db")
        case _:
            # One collection for all tests of the class, emptied each time: the server needs seconds to make one.
            settings = replace(settings_of(request.getfixturevalue("server")), collection="every_store")
            await empty(settings)
    site = Site(encoder, settings, rejections)
    yield site
    for cache in list(site.caches):
        await site.close(cache)


async def empty(settings: MilvusSettings) -> None:
    """Delete every entry and every invalidation of a collection, and wait until nobody sees them any more."""
    store = MilvusStore(settings, "v1")
    await store.open()
    await store.remove(EntryFilter())
    await store._milvus.do("delete", f"{settings.collection}_control", filter='kind in ["invalidation", "rejection"]')
    async with asyncio.timeout(20):
        while (await store.changes(1)).entries or (await store.changes(1)).invalidations:
            await asyncio.sleep(0.1)
    await store.close()


class TestEveryStore:
    async def test_the_same_text_is_a_hit_at_once(self, site: Site) -> None:
        """It is a hit before the store has it."""
        cache = await site.open()
        assert await ask(cache) == Miss("empty")
        await store(cache)
        found = await ask(cache)
        assert isinstance(found, Hit)
        assert (found.answer, found.tier, found.similarity) == (ANSWER, "exact", 1.0)
        assert 0 <= found.age_s < 60

    async def test_the_same_question_in_other_words_is_a_hit(self, site: Site) -> None:
        """A similar but different question is a miss, and the verdict names the check."""
        cache = await site.open()
        await store(cache)
        found = await ask(cache, SAME)
        assert isinstance(found, Hit)
        assert found.tier == "semantic"
        assert 0.9 < found.similarity < 1
        assert isinstance(await ask(cache, "What is the capital of Germany?"), Miss)
        await store(cache, "How do I enable dark mode?")
        assert await ask(cache, "How do I disable dark mode?") == Miss("opposites")

    async def test_namespaces_never_meet(self, site: Site) -> None:
        """This holds even for the same text."""
        cache = await site.open()
        await store(cache)
        assert await ask(cache, namespace="other") == Miss("empty")
        assert await ask(cache, SAME, namespace="other") == Miss("empty")

    async def test_below_the_threshold_is_a_near_miss(self, site: Site) -> None:
        """A near miss is counted and not served."""
        cache = await site.open()
        await store(cache)
        assert await ask(cache, SAME, cache_policy=replace(POLICY, similarity_threshold=0.9999)) == Miss("near_miss")

    async def test_an_entry_expires_and_is_swept(self, site: Site) -> None:
        """An expired entry is never read, whether swept or not."""
        cache = await site.open()
        await store(cache, cache_policy=replace(POLICY, ttl_s=600))
        await until(lambda: written(cache))
        site.clock.ahead_s = 500
        assert isinstance(await ask(cache), Hit)
        site.clock.ahead_s = 601
        assert isinstance(await ask(cache), Miss)
        assert isinstance(await ask(cache, SAME), Miss)
        assert len(cache) == 1
        assert cache.sweep() == 1
        assert len(cache) == 0

    async def test_a_client_may_ask_for_a_young_answer(self, site: Site) -> None:
        """`max-age` limits the age of a hit."""
        cache = await site.open()
        await store(cache)
        site.clock.ahead_s = 30
        assert isinstance(await ask(cache, cache_policy=replace(POLICY, max_age_s=20)), Miss)
        assert isinstance(await ask(cache, cache_policy=replace(POLICY, max_age_s=40)), Hit)

    async def test_an_answer_that_must_not_be_stored_is_not(self, site: Site) -> None:
        """This covers `no-store` and failed requests."""
        cache = await site.open()
        await store(cache, cache_policy=replace(POLICY, may_store=False))
        _, pending = await cache.look_up(query(), POLICY)
        cache.complete(pending, None)
        assert len(cache) == 0

    async def test_a_newer_answer_takes_the_place_of_the_older(self, site: Site) -> None:
        """`no-cache` makes this happen."""
        cache = await site.open()
        newer = ANSWER.replace(b"Paris", b"Lyon")
        await store(cache)
        site.clock.ahead_s = 1
        await store(cache, answer=newer)
        found = await ask(cache)
        assert isinstance(found, Hit)
        assert found.answer == newer
        assert len(cache) == 1

    @pytest.mark.parametrize("policy", ["fifo", "lru", "lfu"])
    async def test_it_never_holds_more_than_it_may(self, site: Site, policy: str) -> None:
        """The limit holds here and in the store. The eviction policy chooses what leaves."""
        cache = await site.open(max_entries=3, eviction_policy=policy)
        for name in "abc":
            await store(cache, name)
        for _ in range(2):
            assert isinstance(await ask(cache, "a"), Hit)
        assert isinstance(await ask(cache, "c"), Hit)
        await store(cache, "d")
        assert len(cache) == 3
        assert {entry.text for entry in cache.entries} == ({"b", "c", "d"} if policy == "fifo" else {"a", "c", "d"})
        await until(lambda: written(cache))
        if site.settings:
            await site.close(cache)
            assert {entry.text for entry in (await site.open()).entries} == (
                {"b", "c", "d"} if policy == "fifo" else {"a", "c", "d"}
            )

    async def test_invalidated_entries_are_gone(self, site: Site) -> None:
        """They can be selected by decision, by scope, by id, or all."""
        cache = await site.open()
        await store(cache, "a", decision="faq")
        await store(cache, "b", scope="bob")
        await store(cache, "c")
        await store(cache, "d")
        assert cache.invalidate(EntryFilter(decision="faq")) == 1
        assert cache.invalidate(EntryFilter(scope="bob")) == 1
        assert {entry.text for entry in cache.entries} == {"c", "d"}
        assert cache.invalidate(EntryFilter(ids=(cache.entries[0].id,))) == 1
        assert cache.invalidate(EntryFilter()) == 1
        assert len(cache) == 0
        await until(lambda: written(cache))
        await store(cache, "c")
        assert isinstance(await ask(cache, "c"), Hit)

    async def test_a_wrong_answer_that_is_rejected_is_not_given_again(self, site: Site) -> None:
        """The entry is removed, and the two questions are not paired again, even when the answer is stored anew."""
        cache = await site.open()
        await store(cache)
        wrong = await ask(cache, SAME)
        assert isinstance(wrong, Hit)
        assert cache.reject(wrong.entry_id)
        assert isinstance(await ask(cache), Miss)
        site.clock.ahead_s = 1
        await store(cache)
        assert isinstance(await ask(cache), Hit)
        assert await ask(cache, SAME) == Miss("rejected")

    async def test_text_that_the_encoder_cannot_read_whole_is_found_by_its_key_alone(self, site: Site) -> None:
        """Two long prompts with equal ends need not be the same."""
        cache = await site.open()
        long = "Summarise: " + " ".join(f"word{number}" for number in range(300))
        await store(cache, long)
        assert isinstance(await ask(cache, long), Hit)
        assert await ask(cache, long.replace("word150", "word999")) == Miss("too_long")


class TestSingleFlight:
    """Single flight, whatever the store."""

    @pytest.fixture
    async def cache(self, encoder: Encoder) -> Cache:
        """A cache in memory."""
        return await Site(encoder, None).open()

    WAITING = replace(POLICY, coalesce_timeout_s=5.0)

    async def lead(self, cache: Cache, text: str = CAPITAL) -> Any:
        """A leading question under way."""
        found, pending = await cache.look_up(query(text), self.WAITING)
        assert isinstance(found, Miss)
        return pending

    def waiting(self, cache: Cache) -> list[Any]:
        """A list that grows with each question that waits for another."""
        found, await_leader = list[Any](), cache.await_leader

        def noted(pending: Any) -> Any:
            found.append(pending)
            return await_leader(pending)

        cache.await_leader = noted  # type: ignore[method-assign]
        return found

    async def test_equal_questions_wait_for_the_first(self, cache: Cache) -> None:
        """They may be equal by text or by meaning. All get the leader's answer."""
        pending, waiting = await self.lead(cache), self.waiting(cache)
        others = [asyncio.create_task(ask(cache, text, cache_policy=self.WAITING)) for text in [CAPITAL, SAME] * 100]
        await until(lambda: len(waiting) == 200)
        assert not any(other.done() for other in others)
        cache.complete(pending, ANSWER)
        found = await asyncio.gather(*others)
        assert {(each.tier, each.answer) for each in found if isinstance(each, Hit)} == {("coalesced", ANSWER)}
        assert len(found) == 200
        assert all(isinstance(each, Hit) for each in found)

    async def test_a_failed_leader_releases_them_at_once(self, cache: Cache) -> None:
        """Each of them then asks a model itself."""
        pending, waiting = await self.lead(cache), self.waiting(cache)
        others = [asyncio.create_task(ask(cache, cache_policy=self.WAITING)) for _ in range(5)]
        await until(lambda: len(waiting) == 5)
        cache.complete(pending, None)
        async with asyncio.timeout(1):
            assert await asyncio.gather(*others) == [Miss("leader_failed")] * 5

    async def test_waiting_has_an_end(self, cache: Cache) -> None:
        """The request then asks a model itself."""
        pending = await self.lead(cache)
        assert await ask(cache, cache_policy=replace(self.WAITING, coalesce_timeout_s=0.1)) == Miss("coalesce_timeout")
        cache.complete(pending, None)

    async def test_other_questions_do_not_wait(self, cache: Cache) -> None:
        """Questions of another namespace, and those with waiting switched off, do not wait either."""
        pending = await self.lead(cache)
        async with asyncio.timeout(1):
            assert isinstance(await ask(cache, "What is the capital of Germany?", cache_policy=self.WAITING), Miss)
            assert isinstance(await ask(cache, namespace="other", cache_policy=self.WAITING), Miss)
            assert isinstance(await ask(cache, cache_policy=POLICY), Miss)
            assert isinstance(await ask(cache, cache_policy=replace(self.WAITING, may_look_up=False)), Miss)
        cache.complete(pending, None)

    async def test_a_complete_flight_leaves_nothing_behind(self, cache: Cache) -> None:
        """A later question becomes a new leader."""
        cache.complete(await self.lead(cache), None)
        cache.complete(await self.lead(cache), None)
        assert cache.gauges()["llm_cache_inflight_queries"] == 0


@pytest.fixture(params=["lite", pytest.param("server", marks=needs_server)])
async def stored(request: pytest.FixtureRequest, encoder: Encoder, tmp_path: Path) -> AsyncIterator[Site]:
    """Settings of stores that outlive the process."""
    is_lite = request.param == "lite"
    settings = MilvusSettings(file=tmp_path / "cache.db") if is_lite else settings_of(request.getfixturevalue("server"))
    site = Site(encoder, settings)
    yield site
    for cache in list(site.caches):
        await site.close(cache)


class TestStoresThatLast:
    async def test_a_restarted_router_finds_what_was_stored(self, stored: Site) -> None:
        """Exact and semantic hits work, with the answers. The key that hides scopes is the same."""
        cache = await stored.open()
        await store(cache)
        await stored.close(cache)
        again = await stored.open()
        assert isinstance(await ask(again), Hit)
        found = await ask(again, SAME)
        assert isinstance(found, Hit)
        assert (found.tier, found.answer) == ("semantic", ANSWER)
        assert stored.keys[0] == stored.keys[1]
        assert len(stored.keys[0]) == 32

    async def test_what_was_forgotten_stays_forgotten(self, stored: Site) -> None:
        """This covers expired, invalidated and rejected entries."""
        cache = await stored.open()
        await store(cache, "a", cache_policy=replace(POLICY, ttl_s=1))
        await store(cache, "b", decision="faq")
        await store(cache)
        await store(cache, "d")
        wrong = await ask(cache, SAME)
        assert isinstance(wrong, Hit)
        cache.reject(wrong.entry_id)
        cache.invalidate(EntryFilter(decision="faq"))
        await stored.close(cache)
        stored.clock.ahead_s = 2
        again = await stored.open()
        assert {entry.text for entry in again.entries} == {"d"}
        await store(again)
        assert await ask(again, SAME) == Miss("rejected")

    async def test_answers_that_are_not_held_are_fetched(self, stored: Site) -> None:
        """Memory for answers is limited. The store has them all."""
        cache = await stored.open(max_memory_bytes=1)
        for name in "abc":
            await store(cache, name, answer=ANSWER.replace(b"Paris", name.encode()))
        await until(lambda: written(cache))
        found = [await ask(cache, name) for name in "abc"]
        assert [each.answer for each in found if isinstance(each, Hit)] == [
            ANSWER.replace(b"Paris", name.encode()) for name in "abc"
        ]

    async def test_an_answer_that_does_not_fit_is_served_from_memory_and_not_cut(self, stored: Site) -> None:
        """Milvus takes 65,535 bytes, and our answers are compressed."""
        generator = np.random.default_rng(1)
        large = json.dumps(
            {"choices": [{"message": {"content": generator.bytes(60_000).hex()}, "finish_reason": "stop"}]}
        ).encode()
        text = json.dumps({"choices": [{"message": {"content": "word " * 40_000}, "finish_reason": "stop"}]}).encode()
        assert len(packed(large)) > MAX_STORED_BYTES > len(packed(text))
        cache = await stored.open()
        await store(cache, "large", answer=large)
        await store(cache, "text", answer=text)
        found = await ask(cache, "large")
        assert isinstance(found, Hit)
        assert found.answer == large
        await stored.close(cache)
        again = await stored.open()
        assert isinstance(await ask(again, "large"), Miss)
        found = await ask(again, "text")
        assert isinstance(found, Hit)
        assert found.answer == text

    async def test_what_the_store_cannot_take_does_not_hold_up_the_rest(self, stored: Site) -> None:
        """Half a surrogate pair is valid JSON and invalid UTF-8. Such an entry is served from memory."""
        cache = await stored.open()
        await store(cache, "half \ud800 a pair")
        await store(cache, "after it")
        assert isinstance(await ask(cache, "half \ud800 a pair"), Hit)
        await until(lambda: written(cache))
        await stored.close(cache)
        assert {entry.text for entry in (await stored.open()).entries} == {"after it"}

    async def test_entries_of_another_encoder_are_refused(self, stored: Site) -> None:
        """Their vectors have another meaning. The error says what to do."""
        await stored.close(await stored.open("v1"))
        with pytest.raises(
            ConfigError, match=r"with the encoder v1, not v2; name another collection\.name, or set development\.drop"
        ):
            await stored.open("v2")
        assert stored.settings is not None
        stored.settings = replace(stored.settings, drops_at_start=True)
        assert len(await stored.open("v2")) == 0

    async def test_a_collection_that_something_else_made_is_refused(self, stored: Site) -> None:
        """Its rows are never misread."""
        from pymilvus import MilvusClient

        from router.cache.stores.lite import LiteServer

        assert stored.settings is not None
        lite = LiteServer(stored.settings.file) if stored.settings.file else None
        client = MilvusClient(uri=lite.start() if lite else stored.settings.uri)
        await asyncio.to_thread(client.create_collection, stored.settings.collection, dimension=384)
        client.close()
        if lite:
            await asyncio.to_thread(lite.stop)
        with pytest.raises(ConfigError, match=r"has no column .*: another program made it"):
            await stored.open()

    async def test_a_collection_is_not_made_where_it_must_not_be(self, stored: Site) -> None:
        """`auto_create_collection: false` forbids it."""
        assert stored.settings is not None
        stored.settings = replace(stored.settings, creates_collection=False)
        with pytest.raises(ConfigError, match="auto_create_collection"):
            await stored.open()


@needs_server
class TestReplicas:
    @pytest.fixture
    async def replicas(self, encoder: Encoder, server: int) -> AsyncIterator[Site]:
        """Two replicas on one server."""
        site = Site(encoder, settings_of(server))
        yield site
        for cache in list(site.caches):
            await site.close(cache)

    async def test_a_replica_finds_what_another_stored(self, replicas: Site) -> None:
        """Exact and semantic hits work a moment later."""
        one, other = await replicas.open(), await replicas.open()
        assert replicas.keys[0] == replicas.keys[1]
        await store(one)
        await until(lambda: written(one))
        await until(lambda: len(other) == 1)
        assert isinstance(await ask(other), Hit)
        found = await ask(other, SAME)
        assert isinstance(found, Hit)
        assert found.answer == ANSWER

    async def test_a_replica_asks_the_store_for_entries_that_it_has_not_polled(self, replicas: Site) -> None:
        """The store answers before the replica has polled what others wrote."""
        one, other = await replicas.open(), await replicas.open()
        assert other.store_sync is not None
        followed, await_leader = list[None](), other.store_sync._poll_changes

        async def noted() -> None:
            await await_leader()
            followed.append(None)

        other.store_sync._poll_changes = noted  # type: ignore[method-assign]
        other.store_sync._settings = replace(SYNC_SETTINGS, poll_interval_s=3600)
        other.store_sync._woken.set()
        await until(lambda: bool(followed))  # and not again within this hour
        await store(one)
        await until(lambda: written(one))
        assert len(other) == 0
        async with asyncio.timeout(20):  # the server shows what was written a moment later
            while not isinstance(await ask(other, SAME), Hit):
                await asyncio.sleep(0.02)

    async def test_what_was_invalidated_is_not_served_from_the_store(self, replicas: Site) -> None:
        """The store may show it for a moment longer."""
        cache = await replicas.open()
        await store(cache)
        await until(lambda: written(cache))
        assert cache.store_sync is not None
        store_itself = cache.store_sync._store
        stale = await store_itself.nearest(query().namespace, await vector_of(replicas), 5, 0)
        assert stale
        cache.invalidate(EntryFilter())

        async def nearest(*_: object) -> Any:
            return stale

        store_itself.nearest = nearest  # type: ignore[method-assign]
        assert isinstance(await ask(cache), Miss)
        assert isinstance(await ask(cache, SAME), Miss)

    async def test_an_invalidation_reaches_all_replicas(self, replicas: Site) -> None:
        """The same holds for rejections: entries leave, and pairs stay apart."""
        one, other = await replicas.open(), await replicas.open()
        for text in (CAPITAL, "a", "b"):
            await store(one, text)
        await until(lambda: len(other) == 3)
        wrong = await ask(other, SAME)
        assert isinstance(wrong, Hit)
        other.reject(wrong.entry_id)
        await until(lambda: len(one) == 2)
        other.invalidate(EntryFilter())
        await until(lambda: len(one) == 0)
        replicas.clock.ahead_s = 1
        await store(one)
        assert await ask(one, SAME) == Miss("rejected")


@needs_server
class TestServerTroubles:
    @pytest.fixture
    async def door(self, server: int) -> AsyncIterator[Door]:
        """An open door."""
        door = Door(server)
        await door.open()
        yield door
        door.unblock()
        await door.shut()

    def settings(self, door: Door) -> MilvusSettings:
        """Settings for a collection of its own behind the door."""
        return MilvusSettings(host="127.0.0.1", port=door.port, collection=f"c{uuid.uuid4().hex[:12]}", timeout_s=20)

    async def test_a_dead_server_costs_only_its_hits_and_gets_the_waiting_writes_when_it_is_back(
        self, encoder: Encoder, door: Door
    ) -> None:
        """Requests under load see no error. The state is visible, and no write is lost."""
        site = Site(encoder, self.settings(door))
        cache = await site.open()
        store_sync = cache.store_sync
        assert store_sync is not None
        await store(cache, "before")
        await until(lambda: written(cache))
        running, count = True, 0

        async def load() -> int:
            nonlocal count
            while running:
                await store(cache, f"question {count % 50}")
                assert isinstance(await ask(cache, f"question {count % 50}"), Hit)
                count += 1
                await asyncio.sleep(0.005)
            return count

        loading = asyncio.create_task(load())
        await until(lambda: count > 20)
        await door.shut()
        await until(lambda: not store_sync.state.is_up)
        assert isinstance(await ask(cache, "before"), Hit)
        assert store_sync.state.error
        running = False
        assert await loading > 20
        await door.open()
        await until(lambda: store_sync.state.is_up and not store_sync.state.waiting, 60)
        assert (store_sync.state.dropped, store_sync.state.refused) == (0, 0)
        await site.close(cache)
        again = await site.open()
        assert {entry.text for entry in cache.entries} == {entry.text for entry in again.entries}
        await site.close(again)

    async def test_a_server_that_hangs_costs_a_bounded_wait_and_soon_none(self, encoder: Encoder, door: Door) -> None:
        """After a few late answers, requests stop asking it for a while."""
        site = Site(encoder, self.settings(door))
        cache = await site.open(store_timeout_s=0.2)
        door.block()
        waits = []
        for number in range(10):
            began = time.monotonic()
            assert isinstance(await ask(cache, f"question number {number}"), Miss)
            waits.append(time.monotonic() - began)
        door.unblock()
        assert max(waits) < 1
        assert sorted(waits)[5] < 0.15
        await site.close(cache)


async def test_a_store_that_was_never_there_is_no_obstacle(encoder: Encoder) -> None:
    """The router starts and caches in memory."""
    site = Site(encoder, MilvusSettings(host="127.0.0.1", port=1))
    cache = await site.open()
    assert cache.store_sync is not None
    assert not cache.store_sync.state.is_up
    await store(cache)
    assert isinstance(await ask(cache, SAME), Hit)
    assert cache.store_sync.state.waiting == 1
    await site.close(cache)


async def test_what_does_not_fit_into_the_queue_is_dropped_and_counted(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory stays limited while the store is unavailable. An invalidation is never dropped."""
    monkeypatch.setattr("tests.contract.test_cache.SYNC_SETTINGS", replace(SYNC_SETTINGS, queue=3))
    site = Site(encoder, MilvusSettings(host="127.0.0.1", port=1))
    cache = await site.open()
    assert cache.store_sync is not None
    for number in range(5):
        await store(cache, f"question {number}")
    assert (cache.store_sync.state.waiting, cache.store_sync.state.dropped) == (3, 2)
    cache.invalidate(EntryFilter())
    assert (cache.store_sync.state.waiting, cache.store_sync.state.dropped) == (4, 2)
    await site.close(cache)


def test_an_entry_is_selected_by_all_named_conditions() -> None:
    """Several conditions narrow the selection."""
    entry = Entry("i", "k", "p", "alice", "faq", "small", "t", b"", 100, 200)
    assert EntryFilter().matches(entry)
    assert EntryFilter(decision="faq", scope="alice", before_ms=101).matches(entry)
    assert not EntryFilter(decision="faq", scope="bob").matches(entry)
    assert not EntryFilter(before_ms=100).matches(entry)
    assert not EntryFilter(ids=("j",)).matches(entry)
