"""`StoreSync` goes on with a store that refuses some writes, fails, or returns nonsense."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from router.cache.cache import Cache
from router.cache.entries import Entry, EntryFilter, Invalidation
from router.cache.settings import CacheLimits, SyncSettings
from router.cache.stores import queue as queue_module
from router.cache.stores import sync as sync_module
from router.cache.stores.base import REFUSED, Changes, StoreState
from router.cache.stores.queue import WriteQueue
from router.cache.stores.sync import StoreSync
from router.cache.verifier import Verifier
from router.errors import BackendError, ConfigError, Problem
from tests.waiting import until


class Picky:
    """A store that works, and fails when told to."""

    is_shared = True
    candidates = 5

    def __init__(self) -> None:
        self.requests: dict[tuple[str, str], int] = {}
        self.taken: list[str] = []
        self.removed: list[str] = []
        self.invalidations: list[Invalidation] = []
        self.writes = 0
        self.read = 0
        self.opened = 0
        self.fails_entry: Exception | None = None
        self.fails_notice: Exception | None = None
        self.hangs = False
        self.fails_open: list[Exception] = []
        self.fails_changes: list[Exception] = []
        self.others: list[Invalidation] = []

    async def open(self) -> bytes:
        """Return a key."""
        self.opened += 1
        if self.fails_open:
            raise self.fails_open.pop(0)
        return b"k"

    async def load(self, now_ms: int) -> AsyncIterator[Sequence[Entry]]:
        """There is nothing to load."""
        return
        yield []

    async def changes(self, since_ms: int) -> Changes:
        """What others wrote."""
        if self.fails_changes and self.taken:
            raise self.fails_changes.pop(0)
        self.read += 1
        return Changes([], list(self.others))

    async def add(self, entries: Sequence[Entry]) -> None:
        """Write all, or none."""
        self.writes += 1
        if self.fails_entry and any(entry.text == "poison" for entry in entries):
            raise self.fails_entry
        self.taken += [entry.text for entry in entries]

    async def remove(self, entry_filter: EntryFilter) -> None:
        """Accept any removal."""
        self.writes += 1
        self.removed += entry_filter.ids or ()

    async def publish(self, invalidation: Invalidation) -> None:
        """Keep the invalidation."""
        if self.fails_notice:
            raise self.fails_notice
        self.invalidations.append(invalidation)

    async def answer(self, entry_id: str) -> bytes | None:
        """There is no answer."""
        if self.hangs:
            await asyncio.Event().wait()
        return None

    async def sweep(self, now_ms: int) -> None:
        """There is nothing to do."""

    async def close(self) -> None:
        """There is nothing to do."""


def entry(text: str, answer: bytes = b"{}", created_ms: int = 0) -> Entry:
    """An entry to keep."""
    return Entry(text, text, "p", "s", "d", "m", text, answer, created_ms, 2**62)


async def no_encoder(text: str) -> Any:
    """Not called in these tests."""
    raise AssertionError(text)


class Rig:
    """A cache and the sync of a picky store."""

    def __init__(self, now: Callable[[], float] = time.time, **settings: Any) -> None:
        self.store = Picky()
        self.store_sync = StoreSync(self.store, SyncSettings(**{"poll_interval_s": 0.01, **settings}), now)
        self.cache = Cache(CacheLimits(), no_encoder, Verifier(), self.store_sync, now)

    async def open(self) -> StoreSync:
        """The sync, connected."""
        await self.store_sync.open(lambda key: None, 5)
        return self.store_sync

    def is_done(self) -> bool:
        """Whether everything is written."""
        return not self.store_sync.state.waiting and self.store_sync.state.is_up


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten pauses to milliseconds."""
    monkeypatch.setattr(sync_module, "_FIRST_PAUSE_S", 0.002)
    monkeypatch.setattr(sync_module, "_MAX_PAUSE_S", 0.004)
    monkeypatch.setattr(queue_module, "_ASIDE_S", 0.05)
    monkeypatch.setattr(queue_module, "_MAX_ASIDE_S", 0.5)


@pytest.mark.parametrize("word", [REFUSED, "unavailable", "slow"])
@pytest.mark.parametrize("place", [0, 1, 20, 31])
async def test_an_entry_that_the_store_cannot_take_holds_up_nothing_wherever_it_stands(
    word: str, place: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Entries in the same write, and invalidations behind it, are written. The log says so without the entry's text. Only a
    refused entry is left out; one that fails in another way is tried again until the store takes it.
    """
    rig = Rig()
    rig.store.fails_entry = BackendError(word)
    texts = [f"t{number}" for number in range(32)]
    texts[place] = "poison"
    for text in texts:
        rig.store_sync.add(entry(text, created_ms=2**61))
    rig.cache.invalidate(EntryFilter(decision="x"))
    await rig.open()
    await until(lambda: rig.is_done() and bool(rig.store.invalidations))
    assert sorted(rig.store.taken) == sorted(set(texts) - {"poison"})
    is_refused = word == REFUSED
    assert (rig.store_sync.state.refused, rig.store_sync.state.dropped) == (int(is_refused), 0)
    assert ("refuses a write (Entry)" in caplog.text) is is_refused
    assert (f"does not take a write (Entry: {word}); it is tried again" in caplog.text) is not is_refused
    assert "poison" not in caplog.text
    rig.store.fails_entry = None
    await until(lambda: is_refused or "poison" in rig.store.taken)
    assert len(rig.store.taken) == len(texts) - is_refused
    await rig.store_sync.close()


async def test_a_slow_store_loses_and_refuses_nothing() -> None:
    """Whatever is slow is written when the store is fast again, also what was set aside meanwhile. It counts as pending."""
    rig = Rig()
    rig.store.fails_entry = BackendError("slow")
    for number in range(4):
        rig.store_sync.add(replace(entry("poison", created_ms=2**61), id=f"{number}"))
    await rig.open()
    await until(lambda: rig.store_sync.state.aside)
    assert rig.cache.gauges()["llm_cache_store_pending_writes"] == 4
    rig.store_sync.add(entry("behind", created_ms=2**61))
    await until(lambda: "behind" in rig.store.taken)
    rig.store.fails_entry = None
    await until(lambda: rig.store.taken.count("poison") == 4)
    state = rig.store_sync.state
    await until(lambda: (state.waiting, state.aside, state.refused, state.dropped) == (0, 0, 0, 0))
    await rig.store_sync.close()


def test_what_was_set_aside_is_tried_once_each_time_and_after_growing_pauses() -> None:
    """It must not hold up the other writes for long."""
    queue = WriteQueue(SyncSettings(), StoreState())
    slow, now_s = BackendError("slow"), 0.0
    queue.put(entry("a"))
    for _ in range(3):
        assert not queue.failed(queue.next_batch(), slow, now_s)
    for pause_s in (0.05, 0.1, 0.2, 0.4, 0.5, 0.5):
        queue.retry_aside(now_s + pause_s - 0.01)
        assert not queue
        now_s += pause_s + 0.01
        queue.retry_aside(now_s)
        assert len(queue) == 1
        assert not queue.failed(queue.next_batch(), slow, now_s)


def test_what_is_set_aside_still_takes_room_and_is_forgotten_with_the_rest() -> None:
    """Memory stays bounded while the store is slow."""
    state = StoreState()
    queue = WriteQueue(SyncSettings(queue=2), state)
    queue.put(entry("a"))
    for _ in range(3):
        queue.failed(queue.next_batch(), BackendError("slow"), 0.0)
    assert [queue.put(entry(text)) for text in "bc"] == [True, False]
    queue.forget_entries()
    queue.retry_aside(1e9)
    assert (len(queue), state.aside, state.dropped) == (0, 0, 1)


def test_what_expired_while_it_was_aside_is_not_tried_again() -> None:
    """Nobody could find it. So no entry is tried for ever."""
    queue = WriteQueue(SyncSettings(queue_bytes=3000), StoreState())
    queue.put(replace(entry("a"), expires_ms=9_000))
    for _ in range(3):
        queue.failed(queue.next_batch(), BackendError("slow"), 0.0)
    queue.retry_aside(8.0)
    assert len(queue) == 1
    queue.failed(queue.next_batch(), BackendError("slow"), 8.0)
    queue.retry_aside(9.0)
    assert (len(queue), queue.put(entry("b"))) == (0, True)


async def test_a_write_that_fails_in_an_unforeseen_way_is_not_lost() -> None:
    """Nor are the writes of the same batch."""
    rig = Rig()
    rig.store.fails_entry = KeyError("secret")
    for text in ("a", "poison", "b"):
        rig.store_sync.add(entry(text, created_ms=2**61))
    await rig.open()
    await until(lambda: len(rig.store.taken) == 2)
    rig.store.fails_entry = None
    await until(lambda: sorted(rig.store.taken) == ["a", "b", "poison"])
    await rig.store_sync.close()


async def test_a_refused_entry_does_not_cut_the_store_off() -> None:
    """It is found by halving in a few requests, without a new connection."""
    rig = Rig()
    rig.store.fails_entry = BackendError(REFUSED)
    for number in range(1000):
        rig.store_sync.add(entry("poison" if number == 777 else f"t{number}"))
    await rig.open()
    await until(rig.is_done)
    assert len(rig.store.taken) == 999
    assert rig.store.opened == 1
    assert rig.store.writes < 40
    await rig.store_sync.close()


async def test_an_invalidation_of_any_size_is_written_in_pieces() -> None:
    """All of it is written, and so is what follows."""
    rig = Rig()
    ids = [f"{number:032x}" for number in range(5000)]
    await rig.open()
    rig.cache.invalidate(EntryFilter(ids=tuple(ids)))
    rig.store_sync.add(entry("behind", created_ms=2**61))
    await until(lambda: rig.store.taken == ["behind"])
    written = [
        one
        for invalidation in rig.store.invalidations
        for one in (invalidation.entry_filter and invalidation.entry_filter.ids) or ()
    ]
    assert written == ids
    assert len(rig.store.invalidations) > 3
    assert len({invalidation.id for invalidation in rig.store.invalidations}) == len(rig.store.invalidations)
    await rig.store_sync.close()


@pytest.mark.parametrize("word", [REFUSED, "unavailable"])
async def test_an_invalidation_that_the_store_does_not_take_holds_up_nothing_and_is_not_lost(word: str) -> None:
    """It is retried until the store takes it."""
    rig = Rig()
    await rig.open()
    rig.store.fails_notice = BackendError(word)
    rig.cache.invalidate(EntryFilter(decision="x"))
    rig.store_sync.add(entry("behind", created_ms=2**61))
    await until(lambda: rig.store.taken == ["behind"])
    assert bool(rig.store_sync.state.refused) is (word == REFUSED)
    assert not await rig.store_sync.flushed(0.01)
    rig.store.fails_notice = None
    await until(lambda: len(rig.store.invalidations) == 1)
    assert await rig.store_sync.flushed(5)
    await rig.store_sync.close()


async def test_an_invalidation_that_was_never_written_is_told_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """Other replicas do not know of it, and neither will this one after a restart."""
    rig = Rig(drain_s=0.2)
    await rig.open()
    rig.store.fails_notice = BackendError("unavailable")
    rig.cache.invalidate(EntryFilter(decision="x"))
    await rig.store_sync.close()
    assert "1 invalidations were never written" in caplog.text


async def test_an_invalidation_is_stamped_when_it_is_written() -> None:
    """Readers must find it among what is new, however long it waited. Its meaning does not change."""
    clock = [1000.0]
    rig = Rig(lambda: clock[0])
    rig.cache.invalidate(EntryFilter(decision="x"))
    clock[0] = 5000.0
    await rig.open()
    await until(lambda: bool(rig.store.invalidations))
    (invalidation,) = rig.store.invalidations
    assert invalidation.created_ms == 5_000_000
    assert invalidation.entry_filter == EntryFilter(decision="x", before_ms=1_000_001)
    await rig.store_sync.close()


async def test_what_is_invalidated_while_it_waits_is_not_written() -> None:
    """It would return at the next start."""
    rig = Rig()
    rig.store_sync.add(entry("old"))
    rig.cache.invalidate(EntryFilter(decision="d"))
    rig.store_sync.add(entry("new", created_ms=2**61))
    await rig.open()
    await until(rig.is_done)
    assert rig.store.taken == ["new"]
    await rig.store_sync.close()


async def test_evictions_do_not_cost_a_request_each() -> None:
    """A full cache evicts with every entry. The entry and the eviction go in one write."""
    rig = Rig()
    for number in range(500):
        rig.store_sync.add(entry(f"t{number}"))
        rig.store_sync.remove(EntryFilter(ids=(f"old{number}",)))
    rig.store_sync.add(entry("gone again"))
    rig.store_sync.remove(EntryFilter(ids=("gone again",)))
    await rig.open()
    await until(rig.is_done)
    assert len(rig.store.taken) == 500
    assert "gone again" not in rig.store.taken
    assert len(rig.store.removed) == 501
    assert rig.store.writes < 10
    await rig.store_sync.close()


async def test_what_waits_is_bounded_in_bytes_too() -> None:
    """Ten thousand large answers would be gigabytes."""
    rig = Rig(queue_bytes=10_000)
    for _ in range(20):
        rig.store_sync.add(entry("t", bytes(1000)))
    assert rig.store_sync.state.waiting == 3
    assert rig.store_sync.state.dropped == 17
    rig.cache.invalidate(EntryFilter(decision="x"))
    assert rig.store_sync.state.waiting == 4
    await rig.open()
    await until(rig.is_done)
    rig.store_sync.add(entry("later", bytes(5000)))
    await until(lambda: "later" in rig.store.taken)
    await rig.store_sync.close()


@pytest.mark.parametrize("error", [KeyError("secret"), RecursionError(), AttributeError("secret"), ValueError("secret")])
async def test_no_error_of_whatever_kind_ends_the_stores_task(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """The log has its place and not its message, and the store is tried again."""
    rig = Rig()
    rig.store.fails_open = [error]
    rig.store.fails_changes = [error]
    await rig.open()
    rig.store_sync.add(entry("a"))
    await until(lambda: rig.store.taken == ["a"] and not rig.store.fails_changes)
    rig.store_sync.add(entry("b"))
    await until(lambda: rig.store.taken == ["a", "b"])
    assert f"{type(error).__name__} at test_store_sync.py:" in caplog.text
    assert "secret" not in caplog.text
    await rig.store_sync.close()


async def test_a_store_that_is_refused_later_is_used_again_when_it_may_be() -> None:
    """At the start a refusal stops the router. Later it only pauses the store."""
    refusal = ConfigError([Problem("milvus", 0, "collection.name", "another encoder")])
    rig = Rig()
    rig.store.fails_open = [refusal]
    with pytest.raises(ConfigError, match="another encoder"):
        await rig.open()
    rig = Rig()
    rig.store.fails_changes = [BackendError("unavailable")]
    await rig.open()
    rig.store.fails_open = [refusal] * 10_000
    rig.store_sync.add(entry("a"))
    await until(lambda: rig.store_sync.state.is_refused)
    rig.store.fails_open.clear()
    rig.store_sync.add(entry("b"))
    await until(lambda: rig.store.taken == ["a", "b"])
    assert not rig.store_sync.state.is_refused
    await rig.store_sync.close()


async def test_why_the_store_is_away_is_told_once_and_again_when_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    """The reason is not logged at every attempt. The log also says when the store is back."""
    rig = Rig()
    refused, slow = BackendError("Milvus at db:19530 does not answer: Connection refused"), BackendError("slow")
    rig.store.fails_open = [refused, refused, refused, slow, slow]
    with caplog.at_level("INFO"):
        await rig.open()
        await until(lambda: rig.store_sync.state.is_up)
    told = [record.getMessage() for record in caplog.records if record.name == "router.cache.stores.sync"]
    assert [line.split(" (")[1].split(")")[0] for line in told[:2]] == [str(refused), "slow"]
    assert told[2:] == ["the cache's store is back"]
    await rig.store_sync.close()


async def test_a_store_that_is_slow_to_read_is_told_once_and_so_is_its_return(caplog: pytest.LogCaptureFixture) -> None:
    """A write that fails next for the same reason is told too, because only then the store counts as away."""
    clock = [1000.0]
    rig = Rig(lambda: clock[0])
    caplog.set_level("INFO", "router.cache.stores.sync")
    await rig.open()
    rig.store.hangs = True
    for _ in range(9):
        clock[0] += 10
        await rig.store_sync.reads.answer("e", 0.001)
    told = "the cache's store is slow; lookups do not read it for a while"
    assert caplog.messages == [told]
    rig.store.hangs = False
    for _ in range(40):
        clock[0] += 10
        await rig.store_sync.reads.answer("e", 0.001)
    assert (caplog.messages, rig.store_sync.state.error) == ([told, "the cache's store is back"], "")
    caplog.clear()
    rig.store.hangs = True
    for _ in range(3):
        await rig.store_sync.reads.answer("e", 0.001)
    rig.store.fails_entry = BackendError("slow")
    rig.store_sync.add(entry("poison"))
    await until(lambda: "the cache's store is unavailable (slow); the cache goes on without it" in caplog.messages)
    assert caplog.messages[0] == told
    await rig.store_sync.close()


async def test_the_same_invalidation_read_again_and_again_costs_nothing() -> None:
    """It is applied once. What is stored after it stays."""
    rig = Rig()
    await rig.open()
    rig.store.others = [Invalidation("n", int(time.time() * 1000), EntryFilter(decision="d", before_ms=int(time.time() * 1000)))]
    await until(lambda: rig.cache.is_gone(entry("old")))
    await until(lambda: int(time.time() * 1000) > rig.store.others[0].created_ms + 1)
    rig.cache.admit(replace(entry("new"), created_ms=int(time.time() * 1000)))
    selected: list[EntryFilter] = []
    rig.cache.memory.select = lambda entry_filter: selected.append(entry_filter) or []  # type: ignore[method-assign,func-returns-value]
    opened = rig.store.writes
    rig.store_sync.add(entry("x", created_ms=2**61))
    await until(lambda: rig.store.writes > opened and rig.is_done())
    read = rig.store.read
    await until(lambda: rig.store.read > read + 2)
    assert selected == []
    assert len(rig.cache) == 1
    await rig.store_sync.close()
