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
"""By how much another replica's clock may be ahead."""


class Publisher(Protocol):
    """What lets other replicas know."""

    def publish(self, invalidation: Invalidation) -> None:
        """Never dropped."""
        ...


class Invalidator:
    """Forgets what operators, here or at another replica, want to be gone. Only the event loop touches it."""

    def __init__(self, memory: Memory, rejections: Rejections, publisher: Publisher | None, now: Callable[[], float]) -> None:
        self._memory, self._rejections, self._publisher, self._now = memory, rejections, publisher, now
        self._latest_ms = 0
        """Up to this moment everything may have been invalidated."""

    def stamp_ms(self) -> int:
        """Now, and never in the same millisecond as an invalidation: it must not mean what is asked or stored after it."""
        return max(int(self._now() * 1000), self._latest_ms)

    def invalidate(self, entry_filter: EntryFilter) -> int:
        """Forget entries, here at once and everywhere within a second or two; how many were held here."""
        if entry_filter.ids is None:
            # Never of a moment to come: nothing would be kept until then.
            latest_ms = self._moment_after()
            entry_filter = replace(entry_filter, before_ms=min(entry_filter.before_ms or latest_ms, latest_ms))
        return self._spread(Invalidation(uuid.uuid4().hex, int(self._now() * 1000), entry_filter))

    def reject(self, reference: str) -> str:
        """A hit was a wrong answer: forget its entry, and never again let the two questions share an answer.

        `reference` is `Hit.entry_id`. An entry's id alone does not tell the other question; then the entry's question shares
        answers with no other. Returns the whole reference, for workers that may not know the entry; empty when it names no entry.
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
        """Carry out an invalidation in this process; how many entries it took. One that is known does nothing."""
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
        """After everything that is held: a replica whose clock is ahead stores entries of a moment to come."""
        now_ms = int(self._now() * 1000)
        return max(now_ms, min(self._memory.newest_ms(), now_ms + _SKEW_MS)) + 1
