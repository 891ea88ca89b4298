"""The cache of one process: lookups from their start until the request is over, and the operations of operators.

Every lookup is bounded in time. `tiers` finds answers, `memory` holds entries, `flights` coalesces requests.
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
from router.core.text.conversation import turns_of
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
        verify_conversations: Verify | None = None,
    ) -> None:
        """`verify_conversations` judges conversations whose earlier turns differ; without it, none of them share an answer."""
        self.limits, self.counts, self.store_sync = limits, Counts(), store_sync
        self._encode, self._now = encode, now
        rejections = rejections if rejections is not None else Rejections()
        self.memory = Memory(limits, self._on_evict, is_only_copy=store_sync is None)
        reads = store_sync.reads if store_sync else None
        self.tiers = Tiers(
            self.memory, limits, encode, verify, rejections, store=reads, now=now, verify_conversations=verify_conversations
        )
        self._flights = Flights()
        self._invalidator = Invalidator(self.memory, rejections, store_sync, now)
        if store_sync:
            store_sync.attach(self)

    # -- lookup --------------------------------------------------------------------------------------------------

    async def look_up(self, query: CacheQuery, cache_policy: CachePolicy) -> tuple[Found | Waiting, PendingLookup]:
        """A hit, a miss with its reason, or `Waiting` when an equal question is under way; then call `await_leader`.

        The caller gives the pending lookup to `complete` when the request is over. A failure is a miss and never raises.
        """
        pending = PendingLookup(query, cache_policy, self._invalidator.stamp_ms())
        found = await self._find(pending)
        if pending.leader:
            return Waiting(cache_policy.coalesce_timeout_s), pending
        if isinstance(found, Miss) and cache_policy.may_store:
            pending.leads = self._flights.register_leader(query, pending.vector)
        return self._counted(found), pending

    def look_ahead(self, query: CacheQuery, cache_policy: CachePolicy, *, peeks: bool = False) -> Found:
        """A hit with the same text, or a miss that is not counted: a lookup of its own follows. With `peeks`, as `peek` does."""
        hit = self.tiers.exact(PendingLookup(query, cache_policy, weighed=[] if peeks else None))
        if hit is None:
            return Miss("empty")
        return hit if peeks else self._counted(hit)

    async def peek(self, query: CacheQuery, cache_policy: CachePolicy) -> tuple[Found, PendingLookup]:
        """What `look_up` would find now. The pending lookup holds the candidates and the leader that it would wait for.

        Changes no entry, no eviction order and no count. Nobody waits for this lookup, and it must not be completed. Only the
        state of the store may change, when the store fails or is late.
        """
        pending = PendingLookup(query, cache_policy, weighed=[])
        return await self._find(pending), pending

    async def _find(self, pending: PendingLookup) -> Found:
        cache_policy = pending.cache_policy
        may_wait = cache_policy.may_store and cache_policy.may_look_up and cache_policy.coalesce_timeout_s > 0
        may_wait = may_wait and not cache_policy.shadow  # the model is asked in any case
        try:
            async with asyncio.timeout(self.limits.lookup_timeout_s):
                found = await self.tiers.find(pending)
                if may_wait and isinstance(found, Miss):
                    pending.leader = await self._leader_of(pending)
        except TimeoutError:
            found = Miss("timeout")
        return _explained(found, pending.query)

    async def _leader_of(self, pending: PendingLookup) -> Leader | None:
        """The leader of an equal question that is under way, if there is one."""
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
        """The answer of the leader, or a miss when the leader fails or takes too long."""
        if pending.leader is None:
            return self._counted(Miss("leader_failed"))
        try:
            entry = await pending.leader.await_answer(pending.cache_policy.coalesce_timeout_s)
        except TimeoutError:
            return self._counted(Miss("coalesce_timeout"))
        if entry is None or not self.tiers.is_fresh(entry, pending):
            return self._counted(Miss("leader_failed"))
        similarity = _similarity(pending.vector, entry.vector)
        return self._counted(await self.tiers.hit(entry, pending, "coalesced", similarity) or Miss("leader_failed"))

    def _counted(self, found: Found) -> Found:
        self.counts.count(found)
        return found

    # -- storing -------------------------------------------------------------------------------------------------

    def complete(self, pending: PendingLookup, answer: bytes | None, max_ttl_s: float | None = None) -> None:
        """End a request: store its answer, if there is one that may be stored, and give it to the followers.

        `max_ttl_s` is how long the backend allows the answer to be stored; None for no bound. Called exactly once for each
        lookup. Returns at once, because the store is written later.
        """
        entry = self._entry_of(pending, answer, max_ttl_s) if answer and pending.cache_policy.may_store else None
        if entry and self.is_gone(replace(entry, created_ms=pending.asked_ms)):
            entry = None  # an invalidation that covers the entry came after the request was asked
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
        """Hold an entry in memory: a new one, or one from the store. See `Sink`."""
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
        """All entries in memory, without vector and answer, the oldest first."""
        return self.memory.entries

    async def get(self, entry_id: str) -> Entry | None:
        """An entry with its answer; None when it is not in memory."""
        entry = self.memory.find(entry_id)
        if entry is None:
            return None
        return replace(entry, answer=self.memory.answer(entry_id) or await self.tiers.fetch(entry_id) or b"")

    async def similar(self, text: str, count: int) -> dict[str, float]:
        """Ids and similarities of the entries that are nearest to a text, in all namespaces."""
        try:
            vector = (await self._encode(text)).vector
        except BackendError:
            return {}
        return self.memory.nearest_anywhere(vector, count, MAX_CANDIDATES)

    async def import_entry(self, entry: Entry) -> bool:
        """Store an entry of an export as a new entry; false when it has expired or its key is known."""
        if self.memory.find_key(entry.key) or entry.expires_ms <= self._now() * 1000:
            return False
        entry = replace(entry, id=uuid.uuid4().hex, created_ms=self._invalidator.stamp_ms())
        try:
            encoding = await self._encode(entry.text)
            vector = self.tiers.usable(encoding, may_be_conversation=len(turns_of(entry.text)) > 1)
            entry = replace(entry, vector=vector)
        except BackendError:
            pass  # without a vector, only the exact tier finds it
        self._store(entry)
        return True

    def invalidate(self, entry_filter: EntryFilter) -> int:
        """Delete entries, here at once and on other replicas within two seconds. Returns how many were in memory.

        While the store is unavailable, the invalidation waits to be written, and other replicas keep and serve the entries.
        """
        return self._invalidator.invalidate(entry_filter)

    def reject(self, reference: str) -> str:
        """Reject a hit with a wrong answer; see `Invalidator.reject`."""
        return self._invalidator.reject(reference)

    def apply_invalidation(self, invalidation: Invalidation) -> int:
        """Apply an invalidation of another replica. See `Sink`."""
        return self._invalidator.apply(invalidation)

    def select(self, entry_filter: EntryFilter) -> list[str]:
        """Ids of the entries in memory that match."""
        return self.memory.select(entry_filter)

    def forget_scopes(self) -> int:
        """Drop all entries, because the key that hides scopes has changed and nobody can find them any more. Returns how many."""
        count = len(self)
        self.memory.clear()
        if self.store_sync:
            self.store_sync.forget_waiting()
        return count

    def sweep(self) -> int:
        """Delete expired entries. Returns how many there were."""
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
        """Size of the cache and state of its store, by metric name."""
        return gauges_of(self.memory, self._flights, self._store_state)

    def counters(self) -> dict[str, float]:
        """Counts since the process began, by metric name."""
        return counters_of(self.counts, self._store_state)

    def stats(self) -> dict[str, object]:
        """All figures and counts, for operators."""
        return stats_of({**self.gauges(), **self.counters()}, self.counts, self._store_state)

    def __len__(self) -> int:
        return len(self.memory)


def _explained(found: Found, query: CacheQuery) -> Found:
    """What was found. If nothing has the same earlier turns, a miss says why no other conversation was compared."""
    if query.not_compared and isinstance(found, Miss) and found.reason in ("empty", "no_candidate"):
        return Miss(query.not_compared)
    return found


def _similarity(one: Vector | None, other: Vector | None) -> float:
    """Cosine similarity; 1 when a vector is missing, because then the texts are equal."""
    return 1.0 if one is None or other is None else float(one @ other)
