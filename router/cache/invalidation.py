"""Carries out invalidations and rejected hits: in this process at once, in the others through the store."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from router.cache.entries import EntryFilter, Invalidation
from router.cache.memory import Memory
from router.cache.rejections import NO_PAIR, Rejections, digest_of_question, parse_reference

_SKEW_MS = 600_000
"""How far the clock of another replica may be ahead."""


class Publisher(Protocol):
    """Tells other replicas."""

    def publish(self, invalidation: Invalidation) -> None:
        """Write an invalidation for all replicas. It is never dropped."""
        ...


class Invalidator:
    """Deletes entries that operators of any replica invalidate or reject. Only the event loop touches it."""

    def __init__(self, memory: Memory, rejections: Rejections, publisher: Publisher | None, now: Callable[[], float]) -> None:
        self._memory, self._rejections, self._publisher, self._now = memory, rejections, publisher, now
        self._latest_ms = 0
        """The latest moment up to which entries were invalidated."""

    def stamp_ms(self) -> int:
        """The time for new entries and lookups. It is never before an invalidation, which must not cover what comes after it."""
        return max(int(self._now() * 1000), self._latest_ms)

    def invalidate(self, entry_filter: EntryFilter) -> int:
        """Delete entries, here at once and on other replicas within two seconds. Returns how many were in memory.

        While the store is unavailable, the invalidation waits to be written, and other replicas keep and serve the entries.
        """
        if entry_filter.ids is None:
            # Never up to a future moment: until then, every new entry would be invalid.
            latest_ms = self._moment_after()
            entry_filter = replace(entry_filter, before_ms=min(entry_filter.before_ms or latest_ms, latest_ms))
        return self._spread(Invalidation(uuid.uuid4().hex, int(self._now() * 1000), entry_filter))

    def reject(self, reference: str) -> str:
        """Reject a hit with a wrong answer: delete its entry, and never again let the two questions share an answer.

        `reference` is `Hit.entry_id`. The id of an entry alone does not name the other question; then the entry's question never
        shares an answer with any other question. Returns the whole reference, because other workers may not know the entry;
        empty when the reference is unknown.
        """
        entry_id, rejected = parse_reference(reference) or ("", "")
        entry = self._memory.find(entry_id)
        if not rejected and entry:
            rejected = digest_of_question(entry.text)
        if not rejected:
            return ""
        if rejected != NO_PAIR:
            self._spread(Invalidation(uuid.uuid4().hex, int(self._now() * 1000), rejected=rejected))
        self.invalidate(EntryFilter(ids=(entry_id,)))
        return f"{entry_id}-{rejected}"

    def apply(self, invalidation: Invalidation) -> int:
        """Apply an invalidation in this process. Returns how many entries it deleted; a known invalidation does nothing."""
        if invalidation.rejected:
            self._rejections.add(invalidation.rejected)
        if invalidation.entry_filter is None:
            return 0
        entry_filter, before_ms = invalidation.entry_filter, invalidation.entry_filter.before_ms or invalidation.created_ms + 1
        if entry_filter.ids is not None:
            for entry_id in entry_filter.ids:
                self._memory.tombstones.add(entry_id)
        elif not self._memory.tombstones.add_filter(entry_filter, before_ms):
            return 0
        else:
            self._latest_ms = max(self._latest_ms, before_ms)
        gone = self._memory.select(entry_filter)
        for entry_id in gone:
            self._memory.forget(entry_id)
        return len(gone)

    def _spread(self, invalidation: Invalidation) -> int:
        if self._publisher:
            self._publisher.publish(invalidation)
        return self.apply(invalidation)

    def _moment_after(self) -> int:
        """A moment after all entries in memory. A replica whose clock is ahead may have stored entries with a future time."""
        now_ms = int(self._now() * 1000)
        return max(now_ms, min(self._memory.newest_ms(), now_ms + _SKEW_MS)) + 1
