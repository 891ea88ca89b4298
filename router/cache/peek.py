"""Makes a document for `explain`: what a lookup would find, and its candidates. Changes nothing in the cache."""

from __future__ import annotations

from collections.abc import Mapping

from router.cache.cache import Cache
from router.cache.checks import conflicts
from router.cache.conversations import pair_of
from router.cache.tiers import Weighed
from router.core.events import Lookup
from router.core.lookup import CachePolicy, CacheQuery, Found


async def peek(cache: Cache, lookup: Lookup) -> tuple[Found, Mapping[str, object]]:
    """The result of a lookup, and a document of the candidates without their texts. A lookup ahead of signals has none."""
    query, cache_policy = lookup.query, lookup.cache_policy
    if lookup.is_ahead:
        return cache.look_ahead(query, cache_policy, peeks=True), {}
    found, pending = await cache.peek(query, cache_policy)
    once = {weighed.entry.id: weighed for weighed in reversed(pending.weighed or [])}
    shown = sorted(once.values(), key=lambda weighed: -weighed.similarity)
    return found, {
        "waits_for_equal_question": pending.leader is not None,
        "candidates": [_candidate(query, cache_policy, weighed) for weighed in shown],
    }


def _candidate(query: CacheQuery, cache_policy: CachePolicy, weighed: Weighed) -> dict[str, object]:
    entry, probability = weighed.entry, weighed.probability
    pair = pair_of(query, entry.text)
    cache_policy = pair.under(cache_policy)
    return {
        "id": entry.id,
        "tier": weighed.tier,
        "decision": entry.decision,
        "model": entry.model,
        "similarity": round(min(weighed.similarity, 1.0), 4),
        "objections": conflicts(pair.asked, pair.stored, cache_policy.lexical_checks)
        if weighed.similarity >= cache_policy.near_miss_threshold
        else [],
        "probability": None if probability is None else round(probability, 4),
        "verdict": weighed.refusal or "served",
    }
