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
    """SAME got CAPITAL's answer."""
    await store(cache)
    hit = await ask(cache, SAME)
    assert isinstance(hit, Hit)
    assert hit.tier == "semantic"
    return hit


async def assert_not_paired(site: Site, cache: Cache) -> None:  # noqa: F811
    """In neither direction, though both are stored anew and found by their own text."""
    for stored, asked in ((CAPITAL, SAME), (SAME, CAPITAL)):
        namespace = f"of its own {stored} {time.time()}"
        site.clock.ahead_s += 1
        await store(cache, stored, namespace)
        assert isinstance(await ask(cache, stored, namespace), Hit)
        assert await ask(cache, asked, namespace) == Miss("rejected")


async def test_both_directions(site: Site) -> None:  # noqa: F811
    """And nothing else: another wording is still served."""
    cache = await site.open()
    hit = await wrong_hit(cache)
    assert cache.reject(hit.entry_id) == hit.entry_id
    assert isinstance(await ask(cache), Miss)
    await assert_not_paired(site, cache)
    await store(cache, CAPITAL, "again")
    assert isinstance(await ask(cache, "Please, what is the capital of France?", "again"), Hit)


async def test_after_a_restart(site: Site) -> None:  # noqa: F811
    """What was rejected before it, and what was given before it and is rejected after it."""
    cache = await site.open()
    hit = await wrong_hit(cache)
    cache.reject(hit.entry_id)
    await until(lambda: written(cache))
    await site.close(cache)
    again = await site.open()
    assert isinstance(await ask(again), Miss)
    await assert_not_paired(site, again)


async def test_what_was_given_before_a_restart_is_rejected_after_it(site: Site) -> None:  # noqa: F811
    """The hit's own name says all that is needed; nobody has to remember it, nor to hold the entry."""
    cache = await site.open()
    hit = await wrong_hit(cache)
    await until(lambda: written(cache))
    await site.close(cache)
    again = await site.open()
    assert again.reject(hit.entry_id) == hit.entry_id
    assert isinstance(await ask(again), Miss)
    await assert_not_paired(site, again)


async def test_an_entrys_id_alone_takes_its_question_out_of_pairing(site: Site) -> None:  # noqa: F811
    """Whom it was given to is not known, so it is matched with none, in both directions; by its own text it is found."""
    cache = await site.open()
    hit = await wrong_hit(cache)
    full = cache.reject(hit.entry_id.partition("-")[0])
    assert full.partition("-")[0] == hit.entry_id.partition("-")[0]
    assert full != hit.entry_id
    await assert_not_paired(site, cache)
    assert cache.reject("0" * 32) == ""
    assert cache.reject("no reference") == ""


async def test_an_answer_to_its_own_question_is_forgotten_and_nothing_is_kept_apart(site: Site) -> None:  # noqa: F811
    """It was the answer that was wrong, not the pairing."""
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
    """What an entry was given to is kept nowhere, so no client can make it grow, and a hit does not search it."""
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
        """On one server."""
        shared = Site(encoder, settings_of(server))
        yield shared
        for cache in list(shared.caches):
            await shared.close(cache)

    async def test_a_rejection_at_one_replica_holds_in_the_others_and_after_a_restart(self, replicas: Site) -> None:
        """The hit was given by one, rejected at a second that never saw it, and holds in a third that starts later."""
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
        """A rejection waits in the queue; the moment that counts for others is when it was written."""
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
    """Of a cache in memory; what stores add is in test_cache_store."""

    @pytest.fixture
    async def cache(self, encoder: Encoder) -> Cache:  # noqa: F811
        """Empty."""
        return await Site(encoder, None).open()

    async def test_an_answer_that_was_under_way_is_not_stored_after_it(self, cache: Cache) -> None:
        """It was asked for before: what it says may be what had to go."""
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
        """And what is stored from then on stays."""
        await store(cache)
        (entry,) = cache.entries
        ahead_ms = entry.created_ms + 90_000
        cache.admit(replace(entry, id="a" * 32, key="k", created_ms=ahead_ms))
        assert cache.invalidate(EntryFilter()) == 2
        await store(cache)
        assert isinstance(await ask(cache), Hit)

    async def test_none_is_of_a_moment_to_come(self, cache: Cache) -> None:
        """Nothing would be kept until then."""
        cache.invalidate(EntryFilter(before_ms=2**60))
        await store(cache)
        assert isinstance(await ask(cache), Hit)

    async def test_one_of_a_hundred_thousand_ids_does_not_hold_up_the_requests(self, cache: Cache) -> None:
        """Each is looked up, not searched for in all that is held."""
        await store(cache)
        began = time.process_time()
        ids = tuple(f"{number:032x}" for number in range(100_000))
        assert cache.invalidate(EntryFilter(ids=(*ids, cache.entries[0].id))) == 1
        assert time.process_time() - began < 2


class Keys:
    """Of a store that gives one key after the other; notes what the cache holds around each."""

    is_shared = False

    def __init__(self, keys: list[bytes], seen: list[bytes]) -> None:
        self.keys, self.seen = keys, seen
        self.reads = self

    def attach(self, cache: Cache) -> None:
        """The cache to look at."""
        self.cache = cache

    async def open(self, take: Any, wait_s: float) -> None:
        """Give the keys."""
        for key in self.keys:
            if not len(self.cache):
                await store(self.cache)
            self.seen.append(f"{len(self.cache)} before".encode())
            take(key)
            self.seen.append(f"{len(self.cache)} after".encode())

    def add(self, entry: Entry) -> None:
        """Nowhere."""

    def forget_waiting(self) -> None:
        """Nothing waits."""


class TestTheKeyOfTheScopes:
    async def test_what_was_stored_under_another_key_is_forgotten(self, encoder: Encoder) -> None:  # noqa: F811
        """Until the store has given its key one of our own serves; nobody could find those entries, nor purge them."""
        keys: list[bytes] = []
        store_sync = Keys([b"store" * 8, b"store" * 8, b"other" * 8], keys)
        cache = Cache(CacheLimits(), encoder.encode, Verifier(), store_sync)  # type: ignore[arg-type]
        caching = Caching(cache, CacheOperations(cache, "v1"), CacheConfig(enabled=True), "v1")
        processor = SimpleNamespace(snapshot=Snapshot(*[None] * 5))  # type: ignore[arg-type]
        await open_cache(caching, processor)  # type: ignore[arg-type]
        assert keys == [b"1 before", b"0 after", b"1 before", b"1 after", b"1 before", b"0 after"]
        scope = caching.control.scope_of("Bearer x")
        assert scope == ScopePlan("authorization", b"other" * 8).of({"authorization": "Bearer x"})
        assert scope == processor.snapshot.cache.scope.of({"authorization": "Bearer x"})
