"""`explain` looks into the cache while other replicas write to its store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from router.cache.cache import Cache
from router.cache.entries import Entry
from router.cache.index import Vector
from router.cache.peek import peek
from router.cache.settings import CacheLimits
from router.core.cache_key import digest
from router.core.events import Lookup
from router.core.lookup import CachePolicy, CacheQuery, Hit, Verdict

POLICY = CachePolicy(0.8, 60.0, ("numbers",))
UNIT = np.eye(1, 384, dtype=np.float32)[0]
NAMESPACE = digest("p")


class Shared:
    """A store with one entry, which another replica wrote."""

    is_shared = True

    def __init__(self, text: str, similarity: float = 0.95) -> None:
        self.similarity = similarity
        key = digest(f"{NAMESPACE}\n{text}")
        self.entry = Entry("e" * 32, key, NAMESPACE, "alice", "default", "small", text, b"answer", 1000, 60_000, UNIT)

    @property
    def reads(self) -> Shared:
        """The requests that read."""
        return self

    def attach(self, cache: Cache) -> None:
        """This store needs nothing of the cache."""

    async def answer(self, entry_id: str, wait_s: float) -> bytes | None:
        """The answer has left meanwhile."""
        return None

    async def nearest(self, query: CacheQuery, vector: Vector | None, wait_s: float) -> Sequence[tuple[Entry, float]]:
        """The one entry."""
        return [(self.entry, self.similarity)]


def cache_with(store_sync: Any, verdict: Verdict) -> Cache:
    """An empty cache at second 2."""

    async def encode(text: str) -> Any:
        return SimpleNamespace(vector=UNIT, is_truncated=False)

    async def verify(asked: str, stored: str, cache_policy: CachePolicy) -> Verdict:
        return verdict

    return Cache(CacheLimits(), encode, verify, store_sync, now=lambda: 2.0)


def query(text: str) -> CacheQuery:
    """A question in the same namespace."""
    return CacheQuery(text, NAMESPACE, digest(f"{NAMESPACE}\n{text}"), "alice", "default", "small")


async def test_what_another_replica_stored_is_weighed_and_not_taken_over() -> None:
    """A request would keep the entry from then on; a look does not."""
    cache = cache_with(Shared("What is a monad?"), Verdict("", 0.97))
    found, document = await peek(cache, Lookup(query("What's a monad?"), POLICY))
    assert isinstance(found, Hit)
    assert document["candidates"] == [
        {
            "id": "e" * 32,
            "tier": "store",
            "decision": "default",
            "model": "small",
            "similarity": 0.95,
            "objections": [],
            "probability": 0.97,
            "verdict": "served",
        }
    ]
    assert len(cache) == 0
    await cache.look_up(query("What's a monad?"), POLICY)
    assert len(cache) == 1


async def test_the_very_question_is_shown_as_it_stands_in_the_store() -> None:
    """An exact hit needs no verifier."""
    _, document = await peek(
        cache_with(Shared("What is a monad?"), Verdict("verifier", 0.1)), Lookup(query("What is a monad?"), POLICY)
    )
    assert [(one["tier"], one["probability"], one["verdict"]) for one in document["candidates"]] == [("store", None, "served")]


async def test_all_checks_that_object_are_named_beside_the_verdict() -> None:
    """The verdict names the first of them."""
    cache = cache_with(Shared("How do 2 monads compose?"), Verdict("numbers"))
    found, document = await peek(
        cache, Lookup(query("How do 3 cats not compose?"), CachePolicy(0.8, 60.0, ("numbers", "negation", "order")))
    )
    assert found.reason == "numbers"  # type: ignore[union-attr]
    assert document["candidates"][0]["objections"] == ["numbers", "negation"]


async def test_an_answer_that_has_gone_is_no_hit_and_says_so() -> None:
    """The verifier's verdict alone would show it as served."""
    store_sync = Shared("What is a monad?")
    store_sync.entry = replace(store_sync.entry, answer=b"")
    found, document = await peek(cache_with(store_sync, Verdict("", 0.97)), Lookup(query("What's a monad?"), POLICY))
    assert not isinstance(found, Hit)
    assert (document["candidates"][0]["verdict"], document["candidates"][0]["probability"]) == ("answer_evicted", 0.97)
