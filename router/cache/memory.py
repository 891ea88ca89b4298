"""The entries in memory, by id and by key, with their vectors and answers, and the tombstones of deleted entries.

Knows no store, no clock and no model. Never waits.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from router.cache.entries import Entry, EntryFilter
from router.cache.eviction import EvictionPolicy, make_policy
from router.cache.index import Vector, VectorIndex
from router.cache.settings import DIMENSION, CacheLimits
from router.cache.tombstones import Tombstones


@dataclass(slots=True)
class _Held:
    """An entry without answer and vector, which `_answers` and `_index` hold."""

    entry: Entry
    number: int | None
    """Number of its vector in the index; None without a vector."""


class Memory:
    """Bounded by `CacheLimits`. Only the event loop touches it."""

    def __init__(self, limits: CacheLimits, on_evict: Callable[[str], None], *, is_only_copy: bool) -> None:
        """`on_evict` gets the id of each evicted entry. With `is_only_copy`, no store holds the answers that do not fit."""
        self._limits, self._on_evict, self._is_only_copy = limits, on_evict, is_only_copy
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._ids_by_key: dict[str, str] = {}
        self._ids_by_number: list[str] = []
        """By number; an empty string when the number is free."""
        self._free: list[int] = []
        self._index = VectorIndex(DIMENSION)
        self._policy: EvictionPolicy = make_policy(limits.eviction_policy, self._held)
        self._answers: OrderedDict[str, bytes] = OrderedDict()
        self.answers_bytes = 0
        self.tombstones = Tombstones()

    # -- reading -------------------------------------------------------------------------------------------------

    @property
    def entries(self) -> list[Entry]:
        """All entries, without vector and answer, the oldest first."""
        return sorted((held.entry for held in self._held.values()), key=lambda entry: entry.created_ms)

    def find(self, entry_id: str) -> Entry | None:
        """The entry with this id, without vector and answer."""
        held = self._held.get(entry_id)
        return held.entry if held else None

    def find_key(self, key: str) -> Entry | None:
        """The entry with this key, without vector and answer."""
        held = self._held.get(self._ids_by_key.get(key, ""))
        return held.entry if held else None

    def nearest(self, namespace: str, vector: Vector, count: int) -> list[tuple[Entry, float]]:
        """Up to `count` entries of a namespace with their cosine similarities, the nearest first."""
        found = self._index.search(namespace, vector, count)
        return [(self._held[self._ids_by_number[number]].entry, similarity) for number, similarity in found]

    def nearest_anywhere(self, vector: Vector, count: int, count_each: int) -> dict[str, float]:
        """Ids and similarities of up to `count` entries, the nearest first, with at most `count_each` of one namespace."""
        found = [hit for namespace in self._index.sizes for hit in self._index.search(namespace, vector, count_each)]
        best = sorted(found, key=lambda hit: -hit[1])[:count]
        return {self._ids_by_number[number]: similarity for number, similarity in best}

    def answer(self, entry_id: str) -> bytes | None:
        """The answer of an entry; None when it is not in memory."""
        return self._answers.get(entry_id)

    def select(self, entry_filter: EntryFilter) -> list[str]:
        """Ids of the entries that match."""
        if entry_filter.ids is not None:
            meant = [held for entry_id in dict.fromkeys(entry_filter.ids) if (held := self._held.get(entry_id))]
            entry_filter = replace(entry_filter, ids=None)
        else:
            meant = list(self._held.values())
        return [held.entry.id for held in meant if entry_filter.matches(held.entry)]

    def expired(self, now_ms: float) -> list[str]:
        """Ids of the entries that have expired."""
        return [entry_id for entry_id, held in self._held.items() if held.entry.expires_ms <= now_ms]

    def newest_ms(self) -> int:
        """When the newest entry was created; 0 without entries."""
        return max((held.entry.created_ms for held in self._held.values()), default=0)

    def __contains__(self, entry_id: str) -> bool:
        return entry_id in self._held

    def __len__(self) -> int:
        return len(self._held)

    # -- changing ------------------------------------------------------------------------------------------------

    def admit(self, entry: Entry, now_ms: float) -> None:
        """Hold an entry, unless it is known, expired or deleted. Of two entries with the same key, the newer one stays."""
        if entry.id in self._held or entry.expires_ms <= now_ms or self.tombstones.covers(entry):
            return
        if (known := self._ids_by_key.get(entry.key)) and known != entry.id:
            if self._held[known].entry.created_ms > entry.created_ms:
                return
            self.forget(known)
        while len(self._held) >= self._limits.max_entries:
            self._evict(self._policy.next())
        number = None
        if entry.vector is not None:
            number = self._number(entry.id)
            self._index.add(entry.namespace, number, entry.vector)
        if entry.answer:
            self.hold_answer(entry.id, entry.answer)
        self._held[entry.id] = _Held(_slim(entry), number)
        self._ids_by_key[entry.key] = entry.id
        self._policy.add(entry.id)

    def hold_answer(self, entry_id: str, answer: bytes) -> None:
        """Hold an answer, and drop the least recently used ones to make room. Without a store, their entries are evicted, too."""
        self._drop_answer(entry_id)  # two requests may have fetched it at the same time
        self._answers[entry_id] = answer
        self.answers_bytes += len(answer)
        while self.answers_bytes > self._limits.max_memory_bytes and len(self._answers) > 1:
            oldest, dropped = self._answers.popitem(last=False)
            self.answers_bytes -= len(dropped)
            if self._is_only_copy:
                self._evict(oldest)

    def use(self, entry_id: str) -> None:
        """Note that an entry was served."""
        if entry_id in self._held:
            self._policy.use(entry_id)
        if entry_id in self._answers:
            self._answers.move_to_end(entry_id)

    def forget(self, entry_id: str) -> bool:
        """Delete an entry; false when it is not in memory."""
        held = self._held.get(entry_id)
        if held is None:
            return False
        self._policy.remove(entry_id)
        del self._held[entry_id]
        if held.number is not None:
            self._index.remove(held.entry.namespace, held.number)
            self._ids_by_number[held.number] = ""
            self._free.append(held.number)
        if self._ids_by_key.get(held.entry.key) == entry_id:
            del self._ids_by_key[held.entry.key]
        self._drop_answer(entry_id)
        return True

    def clear(self) -> None:
        """Delete all entries."""
        for entry_id in list(self._held):
            self.forget(entry_id)

    def _evict(self, entry_id: str) -> None:
        if self.forget(entry_id):
            self.tombstones.add_evicted(entry_id)
            self._on_evict(entry_id)

    def _drop_answer(self, entry_id: str) -> None:
        if (answer := self._answers.pop(entry_id, None)) is not None:
            self.answers_bytes -= len(answer)

    def _number(self, entry_id: str) -> int:
        """A number that no other entry has."""
        if self._free:
            number = self._free.pop()
            self._ids_by_number[number] = entry_id
            return number
        self._ids_by_number.append(entry_id)
        return len(self._ids_by_number) - 1


def _slim(entry: Entry) -> Entry:
    """The entry without vector and answer. Its names are interned, because there are few different ones."""
    return replace(
        entry,
        answer=b"",
        vector=None,
        namespace=sys.intern(entry.namespace),
        scope=sys.intern(entry.scope),
        decision=sys.intern(entry.decision),
        model=sys.intern(entry.model),
    )
