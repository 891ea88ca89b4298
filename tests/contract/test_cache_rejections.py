"""A wrong answer that is rejected is forgotten and its questions are not paired again: any store and replica, after a restart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from router.cache.cache import Cache
from router.cache.entries import Entry, EntryFilter
from router.cache.operations import CacheOperations
from router.cache.settings import CacheLimits
from router.cache.stores.sync import StoreSync
from router.cache.tiers import PendingLookup
from router.cache.verifier import Verifier
from router.config.cache import CacheConfig
from router.core.cache_policy import ScopePlan
from router.core.lookup import CacheQuery, Hit, Miss
from router.core.snapshot import Snapshot
from router.inference.encoder import Encoder
from router.runtime.build_cache import Caching
from router.runtime.process import _open_cache as open_cache
from tests.contract.test_cache import (  # noqa: F401 - fixtures
    ANSWER,
    CAPITAL,
    POLICY,
    SAME,
    Site,
    ask,
    encoder,
    needs_server,
    query,
    server,
    settings_of,
    site,
    store,
    until,
    written,
)


async def wrong_hit(cache: Cache) -> Hit:
    """SAME got the answer of CAPITAL."""
    await store(cache)
    hit = await ask(cache, SAME)
    assert isinstance(hit, Hit)
    assert hit.tier == "semantic"
    return hit


async def assert_not_paired(site: Site, cache: Cache) -> None:  # noqa: F811
    """Neither question gets the other's answer, though both are stored anew and each is found by its own text."""
    for stored, asked in ((CAPITAL, SAME), (SAME, CAPITAL)):
        namespace = f"of its own {stored} {time.time()}"
        site.clock.ahead_s += 1
        await store(cache, stored, namespace)
        assert isinstance(await ask(cache, stored, namespace), Hit)
        assert await ask(cache, asked, namespace) == Miss("rejected")


async def test_both_directions(site: Site) -> None:  # noqa: F811
    """No other pair is affected: another wording is still served."""
    cache = await site.open()
    hit = await wrong_hit(cache)
    assert cache.reject(hit.entry_id) == hit.entry_id
    assert isinstance(await ask(cache), Miss)
    await assert_not_paired(site, cache)
    await store(cache, CAPITAL, "again")
    assert isinstance(await ask(cache, "Please, what is the capital of France?", "again"), Hit)


async def test_after_a_restart(site: Site) -> None:  # noqa: F811
    """This covers rejections made before the restart, and later ones of hits from before it."""
    cache = await site.open()
    hit = await wrong_hit(cache)
    cache.reject(hit.entry_id)
    await until(lambda: written(cache))
    await site.close(cache)
    again = await site.open()
    assert isinstance(await ask(again), Miss)
    await assert_not_paired(site, again)


async def test_what_was_given_before_a_restart_is_rejected_after_it(site: Site) -> None:  # noqa: F811
    """The hit's reference says all that is needed. Nobody has to remember the hit or hold the entry."""
    cache = await site.open()
    hit = await wrong_hit(cache)
    await until(lambda: written(cache))
    await site.close(cache)
    again = await site.open()
    assert again.reject(hit.entry_id) == hit.entry_id
    assert isinstance(await ask(again), Miss)
    await assert_not_paired(site, again)


async def test_a_rejection_by_entry_id_alone_takes_its_question_out_of_pairing(site: Site) -> None:  # noqa: F811
    """It is not known who got the answer, so the question is paired with none, either way. Its own text still finds it."""
    cache = await site.open()
    hit = await wrong_hit(cache)
    full = cache.reject(hit.entry_id.partition("-")[0])
    assert full.partition("-")[0] == hit.entry_id.partition("-")[0]
    assert full != hit.entry_id
    await assert_not_paired(site, cache)
    assert cache.reject("0" * 32) == ""
    assert cache.reject("no reference") == ""


async def test_a_rejected_exact_hit_is_removed_and_no_pair_is_separated(site: Site) -> None:  # noqa: F811
    """The answer was wrong, not the pairing."""
    cache = await site.open()
    await store(cache)
    hit = await ask(cache)
    assert isinstance(hit, Hit)
    assert cache.reject(hit.entry_id) == hit.entry_id
    assert isinstance(await ask(cache), Miss)
    site.clock.ahead_s += 1
    await store(cache)
    assert isinstance(await ask(cache, SAME), Hit)


async def test_a_rejected_pair_does_not_share_an_answer_under_way_either(encoder: Encoder) -> None:  # noqa: F811
    """Single flight pairs questions as well."""
    cache = await Site(encoder, None).open()
    hit = await wrong_hit(cache)
    cache.reject(hit.entry_id)
    waiting = replace(POLICY, coalesce_timeout_s=5.0)
    _, pending = await cache.look_up(query(CAPITAL, "under way"), waiting)
    async with asyncio.timeout(2):
        found, other = await cache.look_up(query(SAME, "under way"), waiting)
    assert isinstance(found, Miss)
    cache.complete(pending, None)
    cache.complete(other, None)


async def test_a_million_hits_leave_no_trace_in_memory(encoder: Encoder) -> None:  # noqa: F811
    """No list of who got an entry is kept, so no client can make it grow, and a hit searches nothing."""
    cache = await Site(encoder, None).open()
    await store(cache)
    entry = cache.entries[0]
    sizes = []
    for rounds in (100, 3000):
        began = time.process_time()
        for number in range(rounds):
            asked = CacheQuery(f"{CAPITAL} {number}", entry.namespace, "k", "alice", "default", "small")
            assert await cache.tiers.hit(entry, PendingLookup(asked, POLICY), "semantic", 0.9)
        sizes.append((time.process_time() - began) / rounds)
    assert sizes[1] < 3 * sizes[0] + 50e-6
    assert sum(len(value) for value in vars(cache.memory).values() if isinstance(value, dict | list | set)) < 20


@needs_server
class TestReplicas:
    @pytest.fixture
    async def replicas(self, encoder: Encoder, server: int) -> AsyncIterator[Site]:  # noqa: F811
        """Replicas on one server."""
        shared = Site(encoder, settings_of(server))
        yield shared
        for cache in list(shared.caches):
            await shared.close(cache)

    async def test_a_rejection_at_one_replica_holds_in_the_others_and_after_a_restart(self, replicas: Site) -> None:
        """One replica gives the hit, a second that never saw it gets the rejection, and a third that starts later respects it."""
        one, other = await replicas.open(), await replicas.open()
        hit = await wrong_hit(one)
        other.reject(hit.entry_id)
        await until(lambda: not len(one))
        await assert_not_paired(replicas, one)
        await assert_not_paired(replicas, other)
        await until(lambda: written(one) and written(other))
        third = await replicas.open()
        await assert_not_paired(replicas, third)

    async def test_a_replica_whose_store_was_away_hears_of_it_when_it_is_back(self, replicas: Site) -> None:
        """The rejection waits in the queue. Others go by the moment when it was written."""
        one, other = await replicas.open(), await replicas.open()
        hit = await wrong_hit(one)
        store_sync: StoreSync | None = one.store_sync
        assert store_sync is not None
        await until(lambda: written(one) and len(other) == 1)
        store_itself = store_sync._store
        publish, store_itself.publish = store_itself.publish, _away  # type: ignore[method-assign]
        one.reject(hit.entry_id)
        replicas.clock.ahead_s += 60  # far beyond what a look goes back
        await until(lambda: store_sync.state.error != "")
        store_itself.publish = publish  # type: ignore[method-assign]
        await until(lambda: not len(other))
        await assert_not_paired(replicas, other)


async def _away(*_: object) -> None:
    from router.errors import BackendError

    raise BackendError("unavailable")


class TestInvalidations:
    """Invalidations in a cache in memory. test_cache_store has what stores add."""

    @pytest.fixture
    async def cache(self, encoder: Encoder) -> Cache:  # noqa: F811
        """An empty cache."""
        return await Site(encoder, None).open()

    async def test_an_answer_under_way_is_not_stored_after_an_invalidation(self, cache: Cache) -> None:
        """It was asked for before, so it may be what had to be removed."""
        _, pending = await cache.look_up(query(), POLICY)
        _, other = await cache.look_up(query(decision="faq"), replace(POLICY, may_look_up=False))
        asked_ms = int(time.time() * 1000)
        await until(lambda: int(time.time() * 1000) > asked_ms)
        cache.invalidate(EntryFilter(decision="default"))
        cache.complete(pending, ANSWER)
        assert len(cache) == 0
        cache.complete(other, ANSWER)
        await store(cache, "asked after it")
        assert {entry.text for entry in cache.entries} == {CAPITAL, "asked after it"}

    async def test_entries_of_a_replica_whose_clock_is_ahead_go_too(self, cache: Cache) -> None:
        """Entries that are stored later stay."""
        await store(cache)
        (entry,) = cache.entries
        ahead_ms = entry.created_ms + 90_000
        cache.admit(replace(entry, id="a" * 32, key="k", created_ms=ahead_ms))
        assert cache.invalidate(EntryFilter()) == 2
        await store(cache)
        assert isinstance(await ask(cache), Hit)

    async def test_no_invalidation_has_a_time_in_the_future(self, cache: Cache) -> None:
        """Nothing would be stored until then."""
        cache.invalidate(EntryFilter(before_ms=2**60))
        await store(cache)
        assert isinstance(await ask(cache), Hit)

    async def test_one_of_a_hundred_thousand_ids_does_not_hold_up_the_requests(self, cache: Cache) -> None:
        """Each id is looked up directly."""
        await store(cache)
        began = time.process_time()
        ids = tuple(f"{number:032x}" for number in range(100_000))
        assert cache.invalidate(EntryFilter(ids=(*ids, cache.entries[0].id))) == 1
        assert time.process_time() - began < 2


class Keys:
    """A store that gives one key after the other, and notes what the cache holds around each."""

    is_shared = False

    def __init__(self, keys: list[bytes], seen: list[bytes]) -> None:
        self.keys, self.seen = keys, seen
        self.reads = self

    def attach(self, cache: Cache) -> None:
        """The cache to look at."""
        self.cache = cache

    async def open(self, take: Any, wait_s: float) -> None:
        """Give the next key."""
        for key in self.keys:
            if not len(self.cache):
                await store(self.cache)
            self.seen.append(f"{len(self.cache)} before".encode())
            take(key)
            self.seen.append(f"{len(self.cache)} after".encode())

    def add(self, entry: Entry) -> None:
        """Store nothing."""

    def forget_waiting(self) -> None:
        """Nothing waits."""


class TestTheKeyOfTheScopes:
    async def test_what_was_stored_under_another_key_is_forgotten(
        self,
        encoder: Encoder,  # noqa: F811
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Until the store gives its key, a key of the process serves. Nobody could find or purge entries under that key. The log
        says how many are forgotten.
        """
        keys: list[bytes] = []
        store_sync = Keys([b"store" * 8, b"store" * 8, b"other" * 8], keys)
        cache = Cache(CacheLimits(), encoder.encode, Verifier(), store_sync)  # type: ignore[arg-type]
        caching = Caching(cache, CacheOperations(cache, "v1"), CacheConfig(enabled=True), "v1")
        processor = SimpleNamespace(snapshot=Snapshot(*[None] * 5))  # type: ignore[arg-type]
        await open_cache(caching, processor)  # type: ignore[arg-type]
        assert keys == [b"1 before", b"0 after", b"1 before", b"1 after", b"1 before", b"0 after"]
        told = "the key that hides scopes has changed; the cache forgets 1 entries, because nobody could find them any more"
        assert caplog.messages == [told] * 2
        scope = caching.control.scope_of("Bearer x")
        assert scope == ScopePlan("authorization", b"other" * 8).of({"authorization": "Bearer x"})
        assert scope == processor.snapshot.cache.scope.of({"authorization": "Bearer x"})
