"""The cache of one process: a lookup from its start until the request is over, and what operators may do. No lookup waits long.

How a stored answer is found stands in `tiers`, what is held in `memory`, who waits for whom in `flights`.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import replace

from router.cache.entries import Entry, EntryFilter, Invalidation
from router.cache.figures import Counts, counters_of, gauges_of, stats_of
from router.cache.flights import Flights, Leader
from router.cache.index import Vector
from router.cache.invalidation import Invalidator
from router.cache.memory import Memory
from router.cache.rejections import Rejections
from router.cache.settings import CacheLimits
from router.cache.stores.base import StoreState
from router.cache.stores.sync import StoreSync
from router.cache.tiers import MAX_CANDIDATES, MAX_VERIFIED, Encode, PendingLookup, Tiers, Verify
from router.core.lookup import CachePolicy, CacheQuery, Found, Miss, Waiting
from router.errors import BackendError


class Cache:
    """One instance serves all requests of a process, and is the `Sink` of its store. Only the event loop touches it."""

    def __init__(
        self,
        limits: CacheLimits,
        encode: Encode,
        verify: Verify,
        store_sync: StoreSync | None,
        now: Callable[[], float] = time.time,
        rejections: Rejections | None = None,
    ) -> None:
        self.limits, self.counts, self.store_sync = limits, Counts(), store_sync
        self._encode, self._now = encode, now
        rejections = rejections if rejections is not None else Rejections()
        self.memory = Memory(limits, self._on_evict, is_only_copy=store_sync is None)
        reads = store_sync.reads if store_sync else None
        self.tiers = Tiers(self.memory, limits, encode, verify, rejections, store=reads, now=now)
        self._flights = Flights()
        self._invalidator = Invalidator(self.memory, rejections, store_sync, now)
        if store_sync:
            store_sync.attach(self)

    # -- lookup --------------------------------------------------------------------------------------------------

    async def look_up(self, query: CacheQuery, cache_policy: CachePolicy) -> tuple[Found | Waiting, PendingLookup]:
        """A hit, a miss with its reason, or word of an equal question under way, to be waited for with `await_leader`.

        The pending lookup has to be given to `complete` when the request is over. Never raises for what fails.
        """
        pending = PendingLookup(query, cache_policy, self._invalidator.stamp_ms())
        found = await self._find(pending)
        if pending.leader:
            return Waiting(cache_policy.coalesce_timeout_s), pending
        if isinstance(found, Miss) and cache_policy.may_store:
            pending.leads = self._flights.register_leader(query, pending.vector)
        return self._counted(found), pending

    async def peek(self, query: CacheQuery, cache_policy: CachePolicy) -> tuple[Found, PendingLookup]:
        """What `look_up` would find now. The candidates, and whom it would wait for, are in the pending lookup.

        Changes neither what is held, nor its order, nor a count; nobody waits for it, and it is not to be completed. Only a store
        that is late or fails counts, as it does for any request.
        """
        pending = PendingLookup(query, cache_policy, weighed=[])
        return await self._find(pending), pending

    async def _find(self, pending: PendingLookup) -> Found:
        cache_policy = pending.cache_policy
        may_wait = cache_policy.may_store and cache_policy.may_look_up and cache_policy.coalesce_timeout_s > 0
        try:
            async with asyncio.timeout(self.limits.lookup_timeout_s):
                found = await self.tiers.find(pending)
                if may_wait and isinstance(found, Miss):
                    pending.leader = await self._leader_of(pending)
        except TimeoutError:
            found = Miss("timeout")
        return found

    async def _leader_of(self, pending: PendingLookup) -> Leader | None:
        """An equal question under way."""
        query, vector = pending.query, pending.vector
        if same := self._flights.leader_of(query.key):
            return same
        if vector is None:
            return None
        for leader in self._flights.nearest(query.namespace, vector, MAX_VERIFIED, pending.cache_policy.similarity_threshold):
            if not (await self.tiers.judge(pending, leader.query.text)).refusal:
                return leader if self._flights.leader_of(leader.query.key) else None
        return None

    async def await_leader(self, pending: PendingLookup) -> Found:
        """The answer of the request that this one waits for, or a miss when that fails or takes too long."""
        if pending.leader is None:
            return self._counted(Miss("leader_failed"))
        try:
            entry = await pending.leader.await_answer(pending.cache_policy.coalesce_timeout_s)
        except TimeoutError:
            return self._counted(Miss("coalesce_timeout"))
        if entry is None or not self.tiers.is_fresh(entry, pending.cache_policy):
            return self._counted(Miss("leader_failed"))
        similarity = _similarity(pending.vector, entry.vector)
        return self._counted(await self.tiers.hit(entry, pending, "coalesced", similarity) or Miss("leader_failed"))

    def _counted(self, found: Found) -> Found:
        self.counts.count(found)
        return found

    # -- storing -------------------------------------------------------------------------------------------------

    def complete(self, pending: PendingLookup, answer: bytes | None, max_ttl_s: float | None = None) -> None:
        """The request is over: keep its answer, if there is one that may be kept, and give it to those who wait for it.

        `max_ttl_s` is how long the backend lets the answer be kept; None for no bound. Called exactly once for each lookup.
        Returns at once: the store is written to later.
        """
        entry = self._entry_of(pending, answer, max_ttl_s) if answer and pending.cache_policy.may_store else None
        if entry and self.is_gone(replace(entry, created_ms=pending.asked_ms)):
            entry = None  # it was asked before an invalidation that means it
        if entry:
            self._store(entry)
            self.counts.stored += 1
        if pending.leads:
            self._flights.complete(pending.leads, entry)

    def _entry_of(self, pending: PendingLookup, answer: bytes, max_ttl_s: float | None) -> Entry:
        query, now_ms, ttl_s = pending.query, self._invalidator.stamp_ms(), pending.cache_policy.ttl_s
        return Entry(
            id=uuid.uuid4().hex,
            key=query.key,
            namespace=query.namespace,
            scope=query.scope,
            decision=query.decision,
            model=query.model,
            text=query.text,
            answer=answer,
            created_ms=now_ms,
            expires_ms=now_ms + int((ttl_s if max_ttl_s is None else min(ttl_s, max_ttl_s)) * 1000),
            vector=pending.vector,
        )

    def _store(self, entry: Entry) -> None:
        self.admit(entry)
        if self.store_sync:
            self.store_sync.add(entry)

    def admit(self, entry: Entry) -> None:
        """Hold an entry in this process: its own, or one that the store has. See `Sink`."""
        self.memory.admit(entry, self._now() * 1000)

    def is_gone(self, entry: Entry) -> bool:
        """Whether an entry was invalidated. See `Sink`."""
        return self.memory.tombstones.covers(entry)

    def _on_evict(self, entry_id: str) -> None:
        self.counts.evicted += 1
        if self.store_sync:
            self.store_sync.remove(EntryFilter(ids=(entry_id,)))

    # -- operators -----------------------------------------------------------------------------------------------

    @property
    def entries(self) -> list[Entry]:
        """Every entry that this process holds, without vector and answer, the oldest first."""
        return self.memory.entries

    async def get(self, entry_id: str) -> Entry | None:
        """An entry with its answer."""
        entry = self.memory.find(entry_id)
        if entry is None:
            return None
        return replace(entry, answer=self.memory.answer(entry_id) or await self.tiers.fetch(entry_id) or b"")

    async def similar(self, text: str, count: int) -> dict[str, float]:
        """The entries, of any namespace, that are nearest to a text, with their similarities."""
        try:
            vector = (await self._encode(text)).vector
        except BackendError:
            return {}
        return self.memory.nearest_anywhere(vector, count, MAX_CANDIDATES)

    async def import_entry(self, entry: Entry) -> bool:
        """Hold and store an entry from elsewhere, as a new one; false when it has expired, or its key is known."""
        if self.memory.find_key(entry.key) or entry.expires_ms <= self._now() * 1000:
            return False
        entry = replace(entry, id=uuid.uuid4().hex, created_ms=self._invalidator.stamp_ms())
        try:
            encoding = await self._encode(entry.text)
            entry = replace(entry, vector=None if encoding.is_truncated else encoding.vector)
        except BackendError:
            pass  # found by its key alone, then
        self._store(entry)
        return True

    def invalidate(self, entry_filter: EntryFilter) -> int:
        """Forget entries, here at once and everywhere within a second or two; how many were held here."""
        return self._invalidator.invalidate(entry_filter)

    def reject(self, reference: str) -> str:
        """A hit was a wrong answer; see `Invalidator.reject`."""
        return self._invalidator.reject(reference)

    def apply_invalidation(self, invalidation: Invalidation) -> int:
        """Carry out what another replica invalidated. See `Sink`."""
        return self._invalidator.apply(invalidation)

    def select(self, entry_filter: EntryFilter) -> list[str]:
        """Ids of the entries in this process that match."""
        return self.memory.select(entry_filter)

    def forget_scopes(self) -> None:
        """The key that hides scopes has changed: nobody can find what was held under the old one."""
        self.memory.clear()
        if self.store_sync:
            self.store_sync.forget_waiting()

    def sweep(self) -> int:
        """Forget the entries that have expired; how many that were."""
        gone = self.memory.expired(self._now() * 1000)
        for entry_id in gone:
            self.memory.forget(entry_id)
        if gone and self.store_sync:
            self.store_sync.remove(EntryFilter(ids=tuple(gone)))
        self.counts.expired += len(gone)
        return len(gone)

    # -- figures -------------------------------------------------------------------------------------------------

    @property
    def _store_state(self) -> StoreState | None:
        return self.store_sync.state if self.store_sync else None

    def gauges(self) -> dict[str, float]:
        """What the cache holds and how its store is, by metric name."""
        return gauges_of(self.memory, self._flights, self._store_state)

    def counters(self) -> dict[str, float]:
        """What was counted since the process began, by metric name."""
        return counters_of(self.counts, self._store_state)

    def stats(self) -> dict[str, object]:
        """The same, and the counts, for operators to read."""
        return stats_of({**self.gauges(), **self.counters()}, self.counts, self._store_state)

    def __len__(self) -> int:
        return len(self.memory)


def _similarity(one: Vector | None, other: Vector | None) -> float:
    """Cosine similarity; 1 where a vector is missing, for then the texts are the same."""
    return 1.0 if one is None or other is None else float(one @ other)
