"""The figures of the cache, for metrics and for operators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from router.cache.flights import Flights
from router.cache.memory import Memory
from router.cache.stores.base import StoreState
from router.core.lookup import Found, Hit, MissReason, Tier


@dataclass(slots=True)
class Counts:
    """Counts since the process began."""

    hits: dict[Tier, int] = field(default_factory=dict)
    misses: dict[MissReason, int] = field(default_factory=dict)
    stored: int = 0
    evicted: int = 0
    expired: int = 0

    def count(self, found: Found) -> None:
        """Count one lookup."""
        if isinstance(found, Hit):
            self.hits[found.tier] = self.hits.get(found.tier, 0) + 1
        else:
            self.misses[found.reason] = self.misses.get(found.reason, 0) + 1


def gauges_of(memory: Memory, flights: Flights, store: StoreState | None) -> dict[str, float]:
    """Size of the cache and state of its store, by metric name."""
    gauges: dict[str, float] = {
        "llm_cache_entries": len(memory),
        "llm_cache_memory_bytes": memory.answers_bytes,
        "llm_cache_inflight_queries": len(flights),
    }
    if store:
        gauges["llm_cache_store_up"] = float(store.is_up)
        gauges["llm_cache_store_pending_writes"] = store.waiting + store.aside
    return gauges


def counters_of(counts: Counts, store: StoreState | None) -> dict[str, float]:
    """Counts since the process began, by metric name."""
    counters: dict[str, float] = {"llm_cache_evictions": counts.evicted, "llm_cache_expirations": counts.expired}
    if store:
        counters["llm_cache_store_dropped_writes"] = store.dropped
        counters["llm_cache_store_refused_writes"] = store.refused
    return counters


def stats_of(figures: Mapping[str, float], counts: Counts, store: StoreState | None) -> dict[str, object]:
    """Gauges and counters by short names, with the counts, for operators to read."""
    short = {name.removeprefix("llm_cache_"): value for name, value in figures.items()}
    sums = {"hits": counts.hits, "misses": counts.misses, "stored": counts.stored}
    return {**short, **sums, "store": asdict(store) if store else None}
