"""Remembers deleted entries, so that a slow store or another request cannot bring them back."""

from __future__ import annotations

from collections import OrderedDict

from router.cache.entries import Entry, EntryFilter

_MAX_IDS = 100_000
_MAX_EVICTED = 10_000
_MAX_FILTERS = 10_000
_Key = tuple[str | None, str | None, str | None]


class Tombstones:
    """The deleted entries. Memory is bounded, and a test takes constant time."""

    def __init__(self) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._evicted: OrderedDict[str, None] = OrderedDict()
        self._before_ms: OrderedDict[_Key, int] = OrderedDict()
        """By decision, model and scope, each None for any: entries that were created before this moment are deleted."""
        self._all_before_ms = 0
        """All entries that were created before this moment are deleted. It replaces filters that had to make room."""

    def add(self, entry_id: str) -> None:
        """Note that an entry was invalidated."""
        self._ids[entry_id] = None
        if len(self._ids) > _MAX_IDS:
            self._ids.popitem(last=False)

    def add_evicted(self, entry_id: str) -> None:
        """Note that an entry was evicted. Kept apart from invalidations, because clients can cause any number of evictions."""
        self._evicted[entry_id] = None
        if len(self._evicted) > _MAX_EVICTED:
            self._evicted.popitem(last=False)

    def add_filter(self, entry_filter: EntryFilter, before_ms: int) -> bool:
        """Note that the matching entries created before a moment are deleted; false when this is known."""
        key = (entry_filter.decision, entry_filter.model, entry_filter.scope)
        if self._before_ms.get(key, 0) >= before_ms:
            return False
        self._before_ms[key] = before_ms
        self._before_ms.move_to_end(key)
        if len(self._before_ms) > _MAX_FILTERS:
            self._all_before_ms = max(self._all_before_ms, self._before_ms.popitem(last=False)[1])
        return True

    def covers(self, entry: Entry) -> bool:
        """Whether an entry is deleted."""
        if entry.id in self._ids or entry.id in self._evicted or entry.created_ms < self._all_before_ms:
            return True
        if not self._before_ms:
            return False
        return any(
            self._before_ms.get((decision, model, scope), 0) > entry.created_ms
            for decision in (None, entry.decision)
            for model in (None, entry.model)
            for scope in (None, entry.scope)
        )
