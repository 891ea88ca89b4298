"""The smallest store that keeps the contract: a dict. What it holds outlives a cache, and is gone with the process.

An example for CONTRIBUTING.md, whose tests put it into `router/cache/stores`.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from types import MappingProxyType

from router.cache.entries import Entry, EntryFilter, Invalidation
from router.cache.index import Vector
from router.cache.stores.base import Changes
from router.errors import BackendError, ConfigError, Problem

_ENTRIES: dict[str, Entry] = {}
_INVALIDATIONS: list[Invalidation] = []
_WRITERS: list[str] = []
_KEY = secrets.token_bytes(32)


class ShelfStore:
    """All stores of a process share one shelf. See `Store` for what each method does."""

    is_shared, candidates = False, 5
    requests: Mapping[tuple[str, str], int] = MappingProxyType({})

    def __init__(self, versions: str) -> None:
        self._versions, self._is_open = versions, False

    async def open(self) -> bytes:
        """Whoever comes first says which versions may write."""
        _WRITERS.append(self._versions)
        if _WRITERS[0] != self._versions:
            raise ConfigError([Problem("config", 0, "semantic_cache.backend_type", f"{_WRITERS[0]} wrote what is stored")])
        self._is_open = True
        return _KEY

    async def load(self, now_ms: int) -> AsyncIterator[Sequence[Entry]]:
        """One batch."""
        yield list(self._fresh(now_ms))

    async def add(self, entries: Sequence[Entry]) -> None:
        """By their ids."""
        self._held().update({one.id: one for one in entries})

    async def answer(self, entry_id: str) -> bytes | None:
        """None for an unknown id."""
        found = self._held().get(entry_id)
        return found.answer if found else None

    async def nearest(self, namespace: str, vector: Vector, count: int, now_ms: int) -> Sequence[tuple[Entry, float]]:
        """By comparing with every one."""
        held = [one for one in self._fresh(now_ms) if one.namespace == namespace]
        found = [(one, float(one.vector @ vector)) for one in held if one.vector is not None]
        return sorted(found, key=lambda pair: -pair[1])[:count]

    async def find(self, key: str, now_ms: int) -> Entry | None:
        """The first with this key."""
        return next((one for one in self._fresh(now_ms) if one.key == key), None)

    async def remove(self, entry_filter: EntryFilter) -> None:
        """Those that the filter means."""
        for one in filter(entry_filter.matches, list(self._held().values())):
            del _ENTRIES[one.id]

    async def publish(self, invalidation: Invalidation) -> None:
        """Kept for ever."""
        _INVALIDATIONS.append(invalidation)

    async def changes(self, since_ms: int) -> Changes:
        """Since 0 no entries: they are loaded."""
        entries = [one for one in self._held().values() if since_ms and one.created_ms >= since_ms]
        return Changes(entries, [one for one in _INVALIDATIONS if one.created_ms >= since_ms])

    async def sweep(self, now_ms: int) -> None:
        """What has expired goes."""
        for one in [one for one in self._held().values() if one.expires_ms <= now_ms]:
            del _ENTRIES[one.id]

    async def close(self) -> None:
        """Nothing is reached any more."""
        self._is_open = False

    def _held(self) -> dict[str, Entry]:
        if not self._is_open:
            raise BackendError("closed")
        return _ENTRIES

    def _fresh(self, now_ms: int) -> Iterator[Entry]:
        return (one for one in self._held().values() if one.expires_ms > now_ms)
