"""One lookup's way through the tiers: which stored answer, if any, may be given to a query.

| tier | finds | costs |
|---|---|---|
| exact | the same text in the same namespace | a dictionary lookup |
| semantic | a question of the same namespace that the verifier accepts | the encoder pass, which routing has often paid |
| store | what another replica stored a moment ago | a round trip, bounded by `CacheLimits.store_timeout_s` |
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from router.cache.entries import Entry
from router.cache.flights import Leader
from router.cache.index import Vector
from router.cache.memory import Memory
from router.cache.rejections import Rejections, reference_of
from router.cache.settings import CacheLimits
from router.core.lookup import (
    CachePolicy,
    CacheQuery,
    ExplainedRefusal,
    Found,
    Hit,
    Miss,
    MissReason,
    Refusal,
    Tier,
    Verdict,
    model_failure,
)
from router.errors import BackendError

MAX_CANDIDATES = 5  # of 407 questions among 6,407 prompts, the one of the same meaning was among the five nearest for 98.2%
MAX_VERIFIED = 3  # each costs a pass of the second model, and who asks is waiting


class Encoded(Protocol):
    """What the encoder gives for a text."""

    @property
    def vector(self) -> Vector: ...
    @property
    def is_truncated(self) -> bool: ...


class StoreReader(Protocol):
    """A store as a lookup asks it. A store that fails or is late has nothing."""

    @property
    def is_shared(self) -> bool:
        """See `Store.is_shared`."""
        ...

    async def answer(self, entry_id: str, wait_s: float) -> bytes | None:
        """The answer of an entry."""
        ...

    async def nearest(self, query: CacheQuery, vector: Vector | None, wait_s: float) -> Sequence[tuple[Entry, float]]:
        """The entry with the same text, and neighbours with their similarities."""
        ...


Encode = Callable[[str], Awaitable[Encoded]]
Verify = Callable[[str, str, CachePolicy], Awaitable[Verdict]]
"""Whether the answer to the second question may be given to the first."""


@dataclass(frozen=True, slots=True)
class Weighed:
    """A candidate and what became of it."""

    entry: Entry
    tier: Literal["exact", "semantic", "store"]
    """Where it was found."""
    similarity: float
    refusal: Refusal | ExplainedRefusal | None
    """Why its answer may not be given; None when it may."""
    probability: float | None
    """As in `Hit.verified`."""


@dataclass(eq=False, slots=True)
class PendingLookup:
    """A lookup, from its start until the request is over."""

    query: CacheQuery
    cache_policy: CachePolicy
    asked_ms: int = 0
    """What is invalidated from then on is not stored."""
    vector: Vector | None = None
    leads: Leader | None = None
    """Set when other requests may wait for this one's answer."""
    leader: Leader | None = None
    """Set when an equal question is under way, and this request may wait for its answer."""
    weighed: list[Weighed] | None = None
    """The candidates, of a lookup that only peeks. It leaves no trace in the cache."""

    @property
    def peeks(self) -> bool:
        """Whether this lookup must leave no trace."""
        return self.weighed is not None


class Tiers:
    """Finds and judges candidates. Only the event loop touches it."""

    def __init__(
        self,
        memory: Memory,
        limits: CacheLimits,
        encode: Encode,
        verify: Verify,
        rejections: Rejections,
        *,
        store: StoreReader | None,
        now: Callable[[], float],
    ) -> None:
        self._memory, self._limits, self._store, self._now = memory, limits, store, now
        self._encode, self._verify, self._rejections = encode, verify, rejections

    async def find(self, pending: PendingLookup) -> Found:
        """The first answer that may be given, by the order of the tiers."""
        query, cache_policy = pending.query, pending.cache_policy
        if not cache_policy.may_look_up:
            await self._encode_query(pending)
            return Miss("no_cache")
        entry = self._memory.find_key(query.key)
        if entry and self.is_fresh(entry, cache_policy):
            hit = await self.hit(entry, pending, "exact", 1.0)
            self._note(pending, entry, 1.0, None if hit else "answer_evicted", tier="exact")
            if hit:
                return hit
        vector = await self._encode_query(pending)
        if isinstance(vector, str):
            return await self._ask_store(pending, Miss(vector))
        found = await self._nearest(pending, self._memory.nearest(query.namespace, vector, MAX_CANDIDATES))
        return found if isinstance(found, Hit) else await self._ask_store(pending, found)

    async def _encode_query(self, pending: PendingLookup) -> Vector | MissReason:
        """The query's vector, or why there is none."""
        if pending.cache_policy.exact_only:
            return "exact_only"
        try:
            encoding = await self._encode(pending.query.text)
        except BackendError as error:
            return model_failure(error.word)
        if encoding.is_truncated:
            return "too_long"
        pending.vector = encoding.vector
        return encoding.vector

    async def _nearest(self, pending: PendingLookup, candidates: Sequence[tuple[Entry, float]]) -> Found:
        """The first candidate whose answer may be given. Of the misses the first that tells of a candidate counts."""
        reason: MissReason = "no_candidate" if candidates else "empty"
        verified = 0
        for entry, similarity in candidates:
            if unjudged := self._why_unjudged(pending, entry, similarity, verified):
                self._note(pending, entry, similarity, unjudged)
                continue
            near_miss = similarity < pending.cache_policy.similarity_threshold
            verdict = Verdict("near_miss") if near_miss else await self.judge(pending, entry.text)
            verified += verdict.probability is not None
            hit = None if verdict.refusal else await self.hit(entry, pending, "semantic", similarity, verdict.probability)
            refusal = verdict.refusal or (None if hit else "answer_evicted")
            self._note(pending, entry, similarity, refusal, verdict.probability)
            if hit:
                return hit
            if refusal and reason in ("empty", "no_candidate"):
                reason = refusal
        return Miss(reason)

    def _why_unjudged(self, pending: PendingLookup, entry: Entry, similarity: float, verified: int) -> ExplainedRefusal | None:
        """Why a candidate is passed over, when `verified` others have cost a pass already."""
        if verified == MAX_VERIFIED:
            return "not_judged"
        if similarity < pending.cache_policy.near_miss_threshold:
            return "not_near"
        return None if self.is_fresh(entry, pending.cache_policy) else "too_old"

    async def judge(self, pending: PendingLookup, text: str) -> Verdict:
        """Whether the answer to `text` may be given to the query."""
        if self._rejections.forbids(pending.query.text, text):
            return Verdict("rejected")
        return await self._verify(pending.query.text, text, pending.cache_policy)

    async def _ask_store(self, pending: PendingLookup, miss: Miss) -> Found:
        if self._store is None or not self._store.is_shared:
            return miss
        found = await self._store.nearest(pending.query, pending.vector, self._limits.store_timeout_s)
        if not found:
            return miss
        if not pending.peeks:
            for entry, _ in found:
                self._memory.admit(entry, self._now() * 1000)
        found = [(entry, similarity) for entry, similarity in found if self._may_serve(pending, entry)]
        exact = [entry for entry, _ in found if entry.key == pending.query.key and self.is_fresh(entry, pending.cache_policy)]
        if exact and (hit := await self.hit(exact[0], pending, "exact", 1.0)):
            self._note(pending, exact[0], 1.0, None, tier="store")
            return hit
        if pending.vector is None:
            return miss
        again = await self._nearest(pending, found)
        return again if isinstance(again, Hit) or miss.reason in ("empty", "no_candidate") else miss

    def _may_serve(self, pending: PendingLookup, entry: Entry) -> bool:
        """Only what may be held may be served: a store can show for a moment longer what was invalidated."""
        return entry.id in self._memory or (pending.peeks and not self._memory.tombstones.covers(entry))

    def is_fresh(self, entry: Entry, cache_policy: CachePolicy) -> bool:
        """Whether an entry has not expired and is young enough for the client."""
        now_ms = self._now() * 1000
        is_young = cache_policy.max_age_s is None or now_ms - entry.created_ms <= cache_policy.max_age_s * 1000
        return entry.expires_ms > now_ms and is_young

    async def hit(
        self, entry: Entry, pending: PendingLookup, tier: Tier, similarity: float, verified: float | None = None
    ) -> Hit | None:
        """A hit with the entry's answer; None when the answer is gone."""
        answer = entry.answer or self._memory.answer(entry.id) or await self.fetch(entry.id, holds=not pending.peeks)
        if not answer:
            return None
        if not pending.peeks:
            self._memory.use(entry.id)
        age_s = max(0.0, self._now() - entry.created_ms / 1000)
        reference = reference_of(entry.id, pending.query.text, entry.text)
        return Hit(reference, answer, tier, min(similarity, 1.0), age_s, verified)

    async def fetch(self, entry_id: str, *, holds: bool = True) -> bytes | None:
        """An entry's answer from the store; with `holds` it is kept here from then on."""
        if self._store is None:
            return None
        answer = await self._store.answer(entry_id, self._limits.store_timeout_s)
        if answer and holds and entry_id in self._memory:
            self._memory.hold_answer(entry_id, answer)
        return answer

    def _note(
        self,
        pending: PendingLookup,
        entry: Entry,
        similarity: float,
        refusal: Refusal | ExplainedRefusal | None,
        probability: float | None = None,
        *,
        tier: Literal["exact", "store"] | None = None,
    ) -> None:
        if pending.weighed is not None:
            found_in = tier or ("semantic" if entry.id in self._memory else "store")
            pending.weighed.append(Weighed(entry, found_in, similarity, refusal, probability))
