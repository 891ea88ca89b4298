"""The cache of one process: by key, by meaning, then the store. Decides what may be given to whom; waits for nobody for long.

| tier | finds | costs |
|---|---|---|
| key | the same text in the same partition | a dictionary lookup |
| index | a question of the same partition that the verifier takes for the same | the encoder pass, which routing has often paid |
| store | what another replica stored a moment ago | a round trip, bounded by `store_wait_s` |
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Protocol

from router.cache.entries import Entry, EntryFilter, Invalidation
from router.cache.eviction import EvictionPolicy, make_order
from router.cache.index import Vector, VectorIndex
from router.cache.invalidation import NO_PAIR, Rejections, Tombstones, digest_of_question, parse_reference, reference_of
from router.cache.settings import DIMENSION, CacheLimits
from router.cache.stores.sync import StoreSync
from router.core.lookup import CachePolicy, CacheQuery, Found, Hit, Miss, Verdict, Waiting
from router.errors import BackendError

_CANDIDATES = 5  # of 407 questions among 6,407 prompts, the one of the same meaning was among the five nearest for 98.2%
_MOST_VERIFIED = 3  # each costs a pass of the second model, and who asks is waiting
_SKEW_MS = 600_000
"""By how much another replica's clock may be ahead."""


class Encoded(Protocol):
    """What the encoder gives for a text."""

    @property
    def vector(self) -> Vector: ...
    @property
    def is_truncated(self) -> bool: ...


Encode = Callable[[str], Awaitable[Encoded]]
Verify = Callable[[str, str, CachePolicy], Awaitable[Verdict]]
"""Whether the answer to the second question may be given to the first."""


@dataclass(frozen=True, slots=True)
class Weighed:
    """A stored question that was held against the one asked."""

    entry: Entry
    tier: str
    """Where it was found: `exact`, `semantic` or `store`."""
    similarity: float
    verdict: Verdict


@dataclass(eq=False, slots=True)
class PendingLookup:
    """A miss: what the answer will be stored under, and who waits for it."""

    question: CacheQuery
    cache_policy: CachePolicy
    asked_ms: int = 0
    """What is invalidated from then on is not stored."""
    vector: Vector | None = None
    waiting: asyncio.Future[Entry | None] | None = None
    """Set once this request leads others."""
    leader: PendingLookup | None = None
    """Whom this request waits for."""
    weighed: list[Weighed] | None = None
    """Of one that only looks: what was weighed. Such a lookup leaves no trace in the cache."""


@dataclass(slots=True)
class _Held:
    """What this process knows of an entry; the answer is held elsewhere."""

    entry: Entry
    number: int | None


@dataclass(slots=True)
class Counts:
    """Since the process began."""

    hits: dict[str, int] = field(default_factory=dict)
    """By tier."""
    misses: dict[str, int] = field(default_factory=dict)
    """By reason."""
    stored: int = 0
    evicted: int = 0
    expired: int = 0


class Cache:
    """One instance serves all requests of a process. Only the event loop touches it."""

    def __init__(
        self,
        sizes: CacheLimits,
        encode: Encode,
        verify: Verify,
        store_sync: StoreSync | None,
        now: Callable[[], float] = time.time,
        rejections: Rejections | None = None,
    ) -> None:
        self.sizes, self.counts = sizes, Counts()
        self._encode, self._verify, self._now = encode, verify, now
        self.store_sync = store_sync
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._by_key: dict[str, str] = {}
        self._by_number: list[str] = []
        """Ids by the numbers that the index knows them by; empty where a number is free."""
        self._free: list[int] = []
        self._index = VectorIndex(DIMENSION)
        self._order: EvictionPolicy = make_order(sizes.eviction_policy, self._held)
        self._answers: OrderedDict[str, bytes] = OrderedDict()
        self._answers_bytes = 0
        self._leaders: dict[str, PendingLookup] = {}
        self._leading: dict[str, list[PendingLookup]] = {}
        """Lookups under way by partition."""
        self._rejections = rejections if rejections is not None else Rejections()
        self._tombstones = Tombstones()
        self._invalidated_ms = 0
        if store_sync:
            store_sync.attach(self)

    # -- lookup --------------------------------------------------------------------------------------------------

    async def look_up(self, question: CacheQuery, cache_policy: CachePolicy) -> tuple[Found | Waiting, PendingLookup]:
        """A hit, a miss with its reason, or word of an equal question under way, to be waited for with `await_leader`.

        The pending lookup has to be given to `complete` when the request is over. Never raises for what fails.
        """
        pending = PendingLookup(question, cache_policy, max(int(self._now() * 1000), self._invalidated_ms))
        try:
            async with asyncio.timeout(self.sizes.lookup_s):
                found = await self._find(pending)
                if isinstance(found, Miss) and cache_policy.may_store and cache_policy.may_look_up:
                    pending.leader = await self._leader_of(pending)
        except TimeoutError:
            found = Miss("timeout")
        if pending.leader and cache_policy.wait_s > 0:
            return Waiting(cache_policy.wait_s), pending
        if isinstance(found, Miss) and cache_policy.may_store and not pending.leader:
            self._lead(pending)
        return self._counted(found), pending

    async def peek(self, question: CacheQuery, cache_policy: CachePolicy) -> tuple[Found, PendingLookup]:
        """What `look_up` would find now; what was weighed, and whom it would wait for, stand in what is pending.

        Changes nothing: not what is held, nor its order, nor a count; nobody comes to wait for it. It is not completed.
        Only that a store was late or failed counts, as it does of any request.
        """
        pending = PendingLookup(question, cache_policy, weighed=[])
        try:
            async with asyncio.timeout(self.sizes.lookup_s):
                found = await self._find(pending)
                if isinstance(found, Miss) and cache_policy.may_store and cache_policy.may_look_up and cache_policy.wait_s > 0:
                    pending.leader = await self._leader_of(pending)
        except TimeoutError:
            found = Miss("timeout")
        return found, pending

    async def await_leader(self, pending: PendingLookup) -> Found:
        """The answer of the request that this one waits for, or a miss when that fails or takes too long."""
        leader = pending.leader
        if leader is None or leader.waiting is None:
            return self._counted(Miss("leader_failed"))
        try:
            async with asyncio.timeout(pending.cache_policy.wait_s):
                entry = await asyncio.shield(leader.waiting)
        except TimeoutError:
            return self._counted(Miss("coalesce_timeout"))
        if entry is None or not self._is_fresh(entry, pending.cache_policy):
            return self._counted(Miss("leader_failed"))
        similarity = 1.0 if pending.vector is None or entry.vector is None else float(pending.vector @ entry.vector)
        return self._counted(await self._hit(entry, pending, "coalesced", similarity) or Miss("leader_failed"))

    def _counted(self, found: Found) -> Found:
        counts, name = (self.counts.hits, found.tier) if isinstance(found, Hit) else (self.counts.misses, found.reason)
        counts[name] = counts.get(name, 0) + 1
        return found

    async def _find(self, pending: PendingLookup) -> Found:
        question, cache_policy = pending.question, pending.cache_policy
        if not cache_policy.may_look_up:
            await self._sense(pending)
            return Miss("no_cache")
        held = self._held.get(self._by_key.get(question.key, ""))
        if held and self._is_fresh(held.entry, cache_policy):
            hit = await self._hit(held.entry, pending, "exact", 1.0)
            self._note(pending, held.entry, 1.0, Verdict("" if hit else "answer_evicted"), "exact")
            if hit:
                return hit
        reason = await self._sense(pending)
        if reason:
            return await self._ask_store(pending, Miss(reason))
        assert pending.vector is not None  # noqa: S101 - `_sense` gave no reason
        found = await self._nearest(pending, self._candidates(question.partition, pending.vector))
        return found if isinstance(found, Hit) else await self._ask_store(pending, found)

    async def _sense(self, pending: PendingLookup) -> str:
        """Fetch the question's vector; why there is none, or empty."""
        if not pending.cache_policy.is_semantic:
            return "exact_only"
        try:
            encoding = await self._encode(pending.question.text)
        except BackendError as error:
            return error.word
        if encoding.is_truncated:
            return "too_long"
        pending.vector = encoding.vector
        return ""

    def _candidates(self, partition: str, vector: Vector) -> list[tuple[Entry, float]]:
        found = self._index.search(partition, vector, _CANDIDATES)
        return [(self._held[self._by_number[number]].entry, similarity) for number, similarity in found]

    async def _nearest(self, pending: PendingLookup, candidates: Sequence[tuple[Entry, float]]) -> Found:
        """The first candidate that may be given."""
        reason, verified = "empty" if not candidates else "no_candidate", 0
        for entry, similarity in candidates:
            if similarity < pending.cache_policy.floor or verified == _MOST_VERIFIED:
                self._note(pending, entry, similarity, Verdict("not_judged" if verified == _MOST_VERIFIED else "not_near"))
                continue
            if not self._is_fresh(entry, pending.cache_policy):
                self._note(pending, entry, similarity, Verdict("too_old"))
                continue
            near = similarity >= pending.cache_policy.threshold
            verdict = await self._judge(pending, entry.text) if near else Verdict("near_miss")
            verified += verdict.probability is not None
            hit = None if verdict.refusal else await self._hit(entry, pending, "semantic", similarity, verdict.probability)
            self._note(pending, entry, similarity, verdict if hit or verdict.refusal else replace(verdict, refusal="answer_evicted"))
            if hit:
                return hit
            reason = reason if reason not in ("empty", "no_candidate") else verdict.refusal or "answer_evicted"
        return Miss(reason)

    def _note(self, pending: PendingLookup, entry: Entry, similarity: float, verdict: Verdict, tier: str = "") -> None:
        if pending.weighed is not None:
            tier = tier or ("semantic" if entry.id in self._held else "store")
            pending.weighed.append(Weighed(entry, tier, similarity, verdict))

    async def _judge(self, pending: PendingLookup, text: str) -> Verdict:
        if self._rejections.forbid(pending.question.text, text):
            return Verdict("rejected")
        return await self._verify(pending.question.text, text, pending.cache_policy)

    async def _ask_store(self, pending: PendingLookup, miss: Miss) -> Found:
        if self.store_sync is None or not self.store_sync.is_shared:
            return miss
        found = await self.store_sync.nearest(pending.question, pending.vector, self.sizes.store_wait_s)
        if not found:
            return miss
        if pending.weighed is None:
            for entry, _ in found:
                self.admit(entry)
        # Only what may be held may be given: a store can show what was invalidated for a moment longer.
        only_looks = pending.weighed is not None
        found = [(entry, near) for entry, near in found if entry.id in self._held or (only_looks and not self.is_gone(entry))]
        exact = [entry for entry, _ in found if entry.key == pending.question.key and self._is_fresh(entry, pending.cache_policy)]
        if exact and (hit := await self._hit(exact[0], pending, "exact", 1.0)):
            self._note(pending, exact[0], 1.0, Verdict(""), "store")
            return hit
        if pending.vector is None:
            return miss
        again = await self._nearest(pending, found)
        return again if isinstance(again, Hit) or miss.reason in ("empty", "no_candidate") else miss

    def _is_fresh(self, entry: Entry, cache_policy: CachePolicy) -> bool:
        now_ms = self._now() * 1000
        is_young = cache_policy.max_age_s is None or now_ms - entry.created_ms <= cache_policy.max_age_s * 1000
        return entry.expires_ms > now_ms and is_young

    async def _hit(
        self, entry: Entry, pending: PendingLookup, tier: str, similarity: float, verified: float | None = None
    ) -> Hit | None:
        question, only_looks = pending.question, pending.weighed is not None
        answer = entry.answer or self._answers.get(entry.id) or await self._fetch(entry, holds=not only_looks)
        if not answer:
            return None
        if entry.id in self._held and not only_looks:
            self._order.use(entry.id)
        if entry.id in self._answers and not only_looks:
            self._answers.move_to_end(entry.id)
        age_s = max(0.0, self._now() - entry.created_ms / 1000)
        return Hit(reference_of(entry.id, question.text, entry.text), answer, tier, min(similarity, 1.0), age_s, verified)

    async def _fetch(self, entry: Entry, *, holds: bool = True) -> bytes | None:
        if self.store_sync is None:
            return None
        answer = await self.store_sync.answer(entry.id, self.sizes.store_wait_s)
        if answer and holds and entry.id in self._held:
            self._hold_answer(entry.id, answer)
        return answer

    # -- single flight -------------------------------------------------------------------------------------------

    async def _leader_of(self, pending: PendingLookup) -> PendingLookup | None:
        question = pending.question
        if same := self._leaders.get(question.key):
            return same
        if pending.vector is None or not pending.cache_policy.wait_s:
            return None
        near = [
            (float(pending.vector @ other.vector), number, other)
            for number, other in enumerate(self._leading.get(question.partition, ()))
            if other.vector is not None
        ]
        for similarity, _, other in sorted(near, reverse=True)[:_MOST_VERIFIED]:
            if similarity < pending.cache_policy.threshold:
                break
            if not (await self._judge(pending, other.question.text)).refusal:
                return other if other.question.key in self._leaders else None
        return None

    def _lead(self, pending: PendingLookup) -> None:
        if pending.question.key in self._leaders:
            return
        pending.waiting = asyncio.get_running_loop().create_future()
        self._leaders[pending.question.key] = pending
        self._leading.setdefault(pending.question.partition, []).append(pending)

    # -- storing -------------------------------------------------------------------------------------------------

    def complete(self, pending: PendingLookup, answer: bytes | None, max_ttl_s: float | None = None) -> None:
        """The request of a lookup is over: keep its answer, if there is one that may be kept, and let go who waits for it.

        `max_ttl_s` is how long the backend lets it be kept; None for no bound of its own.

        Called exactly once for each. Returns at once: the store is written to behind it.
        """
        ttl_s = pending.cache_policy.ttl_s if max_ttl_s is None else min(pending.cache_policy.ttl_s, max_ttl_s)
        entry = self._entry_of(pending, answer, ttl_s) if answer and pending.cache_policy.may_store else None
        if entry and self.is_gone(replace(entry, created_ms=pending.asked_ms)):
            entry = None  # it was asked before an invalidation that means it
        if entry:
            self.admit(entry)
            self.counts.stored += 1
            if self.store_sync:
                self.store_sync.add(entry)
        if pending.waiting is None:
            return
        del self._leaders[pending.question.key]
        leading = self._leading[pending.question.partition]
        leading.remove(pending)
        if not leading:
            del self._leading[pending.question.partition]
        pending.waiting.set_result(entry)

    def _entry_of(self, pending: PendingLookup, answer: bytes, ttl_s: float) -> Entry:
        # Never in the same millisecond as an invalidation: what comes after it must not fall under it.
        question, now_ms = pending.question, max(int(self._now() * 1000), self._invalidated_ms)
        return Entry(
            uuid.uuid4().hex,
            question.key,
            question.partition,
            question.scope,
            question.decision,
            question.model,
            question.text,
            answer,
            now_ms,
            now_ms + int(ttl_s * 1000),
            pending.vector,
        )

    def admit(self, entry: Entry) -> None:
        """Hold an entry in this process: one of its own, or one that the store knows."""
        if entry.id in self._held or entry.expires_ms <= self._now() * 1000 or self.is_gone(entry):
            return
        if (known := self._by_key.get(entry.key)) and known != entry.id:
            if self._held[known].entry.created_ms > entry.created_ms:
                return
            self._forget(known)
        while len(self._held) >= self.sizes.max_entries:
            self._forget(self._order.next(), evicts=True)
        number = None
        if entry.vector is not None:
            number = self._number(entry.id)
            self._index.add(entry.partition, number, entry.vector)
        if entry.answer:
            self._hold_answer(entry.id, entry.answer)
        # The vector is in the index and the answer among the answers: the record itself stays small.
        kept = replace(
            entry,
            answer=b"",
            vector=None,
            # There are few different ones: each is held once.
            partition=sys.intern(entry.partition),
            scope=sys.intern(entry.scope),
            decision=sys.intern(entry.decision),
            model=sys.intern(entry.model),
        )
        self._held[entry.id] = _Held(kept, number)
        self._by_key[entry.key] = entry.id
        self._order.add(entry.id)

    def is_gone(self, entry: Entry) -> bool:
        """It was invalidated, perhaps while it was on its way."""
        return self._tombstones.cover(entry)

    def _number(self, entry_id: str) -> int:
        """A number that no other entry has."""
        if self._free:
            number = self._free.pop()
            self._by_number[number] = entry_id
            return number
        self._by_number.append(entry_id)
        return len(self._by_number) - 1

    def _hold_answer(self, entry_id: str, answer: bytes) -> None:
        self._answers[entry_id] = answer
        self._answers_bytes += len(answer)
        while self._answers_bytes > self.sizes.most_held_bytes and len(self._answers) > 1:
            oldest, dropped = self._answers.popitem(last=False)
            self._answers_bytes -= len(dropped)
            if self.store_sync is None:  # nobody else has it
                self._forget(oldest, evicts=True)

    def _forget(self, entry_id: str, *, evicts: bool = False) -> None:
        held = self._held.get(entry_id)
        if held is None:
            return
        self._order.remove(entry_id)
        del self._held[entry_id]
        if held.number is not None:
            self._index.remove(held.entry.partition, held.number)
            self._by_number[held.number] = ""
            self._free.append(held.number)
        if self._by_key.get(held.entry.key) == entry_id:
            del self._by_key[held.entry.key]
        if (answer := self._answers.pop(entry_id, None)) is not None:
            self._answers_bytes -= len(answer)
        if evicts:
            self._tombstones.evict(entry_id)
            self.counts.evicted += 1
            if self.store_sync:
                self.store_sync.remove(EntryFilter(ids=(entry_id,)))

    # -- operators -----------------------------------------------------------------------------------------------

    @property
    def entries(self) -> list[Entry]:
        """Every entry that this process holds, oldest first, without vector and perhaps without answer."""
        return sorted((held.entry for held in self._held.values()), key=lambda entry: entry.created_ms)

    async def get(self, entry_id: str) -> Entry | None:
        """An entry with its answer."""
        held = self._held.get(entry_id)
        if held is None:
            return None
        return replace(held.entry, answer=self._answers.get(entry_id) or await self._fetch(held.entry) or b"")

    async def similar(self, text: str, count: int) -> dict[str, float]:
        """The entries, of any partition, that are nearest to a text, with their similarities."""
        try:
            vector = (await self._encode(text)).vector
        except BackendError:
            return {}
        found = [hit for partition in self._index.sizes for hit in self._index.search(partition, vector, _CANDIDATES)]
        best = sorted(found, key=lambda hit: -hit[1])[:count]
        return {self._by_number[number]: similarity for number, similarity in best}

    async def take(self, entry: Entry) -> bool:
        """Hold and store an entry that comes from elsewhere, as a new one; false when it has expired, or its question is here."""
        if entry.key in self._by_key or entry.expires_ms <= self._now() * 1000:
            return False
        entry = replace(entry, id=uuid.uuid4().hex, created_ms=max(int(self._now() * 1000), self._invalidated_ms))
        try:
            encoding = await self._encode(entry.text)
            entry = replace(entry, vector=None if encoding.is_truncated else encoding.vector)
        except BackendError:
            pass  # found by its key alone, then
        self.admit(entry)
        if self.store_sync:
            self.store_sync.add(entry)
        return True

    def invalidate(self, entry_filter: EntryFilter) -> int:
        """Forget the entries that are meant, here at once and everywhere within a second or two; how many were held here."""
        if entry_filter.ids is None:
            # Never of a moment to come: nothing would be kept until then.
            latest_ms = self._moment_after()
            entry_filter = replace(entry_filter, before_ms=min(entry_filter.before_ms or latest_ms, latest_ms))
        invalidation = Invalidation(uuid.uuid4().hex, int(self._now() * 1000), entry_filter)
        if self.store_sync:
            self.store_sync.publish(invalidation)
        return self.apply_invalidation(invalidation)

    def _moment_after(self) -> int:
        """After everything that is held: what a replica whose clock is ahead has stored is of a moment to come."""
        now_ms = int(self._now() * 1000)
        newest_ms = max((held.entry.created_ms for held in self._held.values()), default=0)
        return max(now_ms, min(newest_ms, now_ms + _SKEW_MS)) + 1

    def report(self, reference: str) -> str:
        """An answer was wrong: forget it, and never again give its question's answer to the one that got it, nor the other way.

        `reference` is `Hit.entry_id`. For an entry's id alone the other question is not known: its own is matched with none then.
        The whole reference, for others who may not know the entry; empty when it names no entry.
        """
        entry_id, rejected = parse_reference(reference) or ("", "")
        held = self._held.get(entry_id)
        if not rejected and held:
            rejected = digest_of_question(held.entry.text)
        if not rejected:
            return ""
        if rejected != NO_PAIR:
            invalidation = Invalidation(uuid.uuid4().hex, int(self._now() * 1000), rejected=rejected)
            self.apply_invalidation(invalidation)
            if self.store_sync:
                self.store_sync.publish(invalidation)
        self.invalidate(EntryFilter(ids=(entry_id,)))
        return f"{entry_id}-{rejected}"

    def apply_invalidation(self, invalidation: Invalidation) -> int:
        """Do what a notice says; how many entries it took. One that is known does nothing."""
        if invalidation.rejected:
            self._rejections.add(invalidation.rejected)
        if invalidation.entry_filter is None:
            return 0
        entry_filter, before_ms = invalidation.entry_filter, invalidation.entry_filter.before_ms or invalidation.created_ms + 1
        if entry_filter.ids is not None:
            for entry_id in entry_filter.ids:
                self._tombstones.bury(entry_id)
        elif not self._tombstones.mark(entry_filter, before_ms):
            return 0
        else:
            # What is stored from now on must not fall under it.
            self._invalidated_ms = max(self._invalidated_ms, before_ms)
        gone = self.select(entry_filter)
        for entry_id in gone:
            self._forget(entry_id)
        return len(gone)

    def select(self, entry_filter: EntryFilter) -> list[str]:
        """The entries that are meant, of those that this process holds."""
        if entry_filter.ids is not None:
            meant = [held for entry_id in dict.fromkeys(entry_filter.ids) if (held := self._held.get(entry_id))]
            entry_filter = replace(entry_filter, ids=None)
        else:
            meant = list(self._held.values())
        return [held.entry.id for held in meant if entry_filter.takes(held.entry)]

    def forget_scopes(self) -> None:
        """The key that scopes are hidden with is another one: nobody can find what was held under the old one."""
        for entry_id in list(self._held):
            self._forget(entry_id)
        if self.store_sync:
            self.store_sync.forget_waiting()

    def sweep(self) -> int:
        """Forget what has expired; how many that were."""
        now_ms = self._now() * 1000
        gone = [entry_id for entry_id, held in self._held.items() if held.entry.expires_ms <= now_ms]
        for entry_id in gone:
            self._forget(entry_id)
        if gone and self.store_sync:
            self.store_sync.remove(EntryFilter(ids=tuple(gone)))
        self.counts.expired += len(gone)
        return len(gone)

    def gauges(self) -> dict[str, float]:
        """What the cache holds and how its store is, by metric name."""
        gauges: dict[str, float] = {
            "llm_cache_entries": len(self._held),
            "llm_cache_held_bytes": self._answers_bytes,
            "llm_cache_questions_under_way": len(self._leaders),
        }
        if self.store_sync:
            state = self.store_sync.state
            gauges["llm_cache_store_up"] = float(state.is_up)
            gauges["llm_cache_store_pending_writes"] = state.waiting
        return gauges

    def counters(self) -> dict[str, float]:
        """What was counted since the process began, by metric name."""
        counters: dict[str, float] = {"llm_cache_evictions": self.counts.evicted, "llm_cache_expirations": self.counts.expired}
        if self.store_sync:
            counters["llm_cache_store_dropped_writes"] = self.store_sync.state.dropped
            counters["llm_cache_store_refused_writes"] = self.store_sync.state.refused
        return counters

    def stats(self) -> dict[str, object]:
        """The same, and the counts, for operators to read."""
        counts = self.counts
        store = asdict(self.store_sync.state) if self.store_sync else None
        sums = {"hits": counts.hits, "misses": counts.misses, "stored": counts.stored}
        figures = {**self.gauges(), **self.counters()}
        return {**{name.removeprefix("llm_cache_"): value for name, value in figures.items()}, **sums, "store": store}

    def __len__(self) -> int:
        return len(self._held)
