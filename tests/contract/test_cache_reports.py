"""A wrong answer that is reported is forgotten and its questions are not paired again: any store and replica, after a restart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from router.cache.keeper import Keeper
from router.cache.tiers import Cache
from router.core.types import Hit, Miss, Question
from router.signals.onnx import Encoder
from tests.contract.milvus_server import MilvusServer
from tests.contract.test_cache import (  # noqa: F401 - fixtures
    CAPITAL,
    SAME,
    TERMS,
    Site,
    ask,
    encoder,
    needs_server,
    question,
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
        partition = f"of its own {stored} {time.time()}"
        site.clock.ahead_s += 1
        await store(cache, stored, partition)
        assert isinstance(await ask(cache, stored, partition), Hit)
        assert await ask(cache, asked, partition) == Miss("reported")


async def test_both_directions(site: Site) -> None:  # noqa: F811
    """And nothing else: another wording is still served."""
    cache = await site.open()
    hit = await wrong_hit(cache)
    assert cache.report(hit.entry_id) == hit.entry_id
    assert isinstance(await ask(cache), Miss)
    await assert_not_paired(site, cache)
    await store(cache, CAPITAL, "again")
    assert isinstance(await ask(cache, "Please, what is the capital of France?", "again"), Hit)


async def test_after_a_restart(site: Site) -> None:  # noqa: F811
    """What was reported before it, and what was given before it and is reported after it."""
    cache = await site.open()
    hit = await wrong_hit(cache)
    cache.report(hit.entry_id)
    await until(lambda: written(cache))
    await site.close(cache)
    again = await site.open()
    assert isinstance(await ask(again), Miss)
    await assert_not_paired(site, again)


async def test_what_was_given_before_a_restart_is_reported_after_it(site: Site) -> None:  # noqa: F811
    """The hit's own name says all that is needed; nobody has to remember it, nor to hold the entry."""
    cache = await site.open()
    hit = await wrong_hit(cache)
    await until(lambda: written(cache))
    await site.close(cache)
    again = await site.open()
    assert again.report(hit.entry_id) == hit.entry_id
    assert isinstance(await ask(again), Miss)
    await assert_not_paired(site, again)


async def test_an_entrys_id_alone_takes_its_question_out_of_pairing(site: Site) -> None:  # noqa: F811
    """Whom it was given to is not known, so it is matched with none, in both directions; by its own text it is found."""
    cache = await site.open()
    hit = await wrong_hit(cache)
    full = cache.report(hit.entry_id.partition("-")[0])
    assert full.partition("-")[0] == hit.entry_id.partition("-")[0]
    assert full != hit.entry_id
    await assert_not_paired(site, cache)
    assert cache.report("0" * 32) == ""
    assert cache.report("no reference") == ""


async def test_a_reported_pair_does_not_share_an_answer_under_way_either(encoder: Encoder) -> None:  # noqa: F811
    """Single flight pairs questions as well."""
    cache = await Site(encoder, None).open()
    hit = await wrong_hit(cache)
    cache.report(hit.entry_id)
    waiting = replace(TERMS, wait_s=5.0)
    _, ticket = await cache.look_up(question(CAPITAL, "under way"), waiting)
    async with asyncio.timeout(2):
        found, other = await cache.look_up(question(SAME, "under way"), waiting)
    assert isinstance(found, Miss)
    cache.settle(ticket, None)
    cache.settle(other, None)


async def test_a_million_hits_leave_no_trace_in_memory(encoder: Encoder) -> None:  # noqa: F811
    """What an entry was given to is kept nowhere, so no client can make it grow, and a hit does not search it."""
    cache = await Site(encoder, None).open()
    await store(cache)
    entry = cache.entries[0]
    sizes = []
    for rounds in (100, 3000):
        began = time.process_time()
        for number in range(rounds):
            asked = Question(f"{CAPITAL} {number}", entry.partition, "k", "alice", "default", "small")
            assert await cache._hit(entry, asked, "semantic", 0.9)
        sizes.append((time.process_time() - began) / rounds)
    assert sizes[1] < 3 * sizes[0] + 50e-6
    assert sum(len(value) for value in vars(cache).values() if isinstance(value, dict | list | set)) < 20


@needs_server
class TestReplicas:
    @pytest.fixture
    async def replicas(self, encoder: Encoder, server: MilvusServer) -> AsyncIterator[Site]:  # noqa: F811
        """On one server."""
        shared = Site(encoder, settings_of(server))
        yield shared
        for cache in list(shared.caches):
            await shared.close(cache)

    async def test_a_report_to_one_replica_holds_in_the_others_and_after_a_restart(self, replicas: Site) -> None:
        """The hit was given by one, reported to a second that never saw it, and holds in a third that starts later."""
        one, other = await replicas.open(), await replicas.open()
        hit = await wrong_hit(one)
        other.report(hit.entry_id)
        await until(lambda: not len(one))
        await assert_not_paired(replicas, one)
        await assert_not_paired(replicas, other)
        await until(lambda: written(one) and written(other))
        third = await replicas.open()
        await assert_not_paired(replicas, third)

    async def test_a_replica_whose_store_was_away_hears_of_it_when_it_is_back(self, replicas: Site) -> None:
        """A report waits in the queue; the moment that counts for others is when it was written."""
        one, other = await replicas.open(), await replicas.open()
        hit = await wrong_hit(one)
        keeper: Keeper | None = one.keeper
        assert keeper is not None
        await until(lambda: written(one) and len(other) == 1)
        store_itself = keeper._store
        publish, store_itself.publish = store_itself.publish, _away  # type: ignore[method-assign]
        one.report(hit.entry_id)
        replicas.clock.ahead_s += 60  # far beyond what a look goes back
        await until(lambda: keeper.state.error != "")
        store_itself.publish = publish  # type: ignore[method-assign]
        await until(lambda: not len(other))
        await assert_not_paired(replicas, other)


async def _away(*_: object) -> None:
    from router.errors import BackendError

    raise BackendError("unavailable")
