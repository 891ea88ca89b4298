"""The eviction policies: first in, first out; least recently used; least frequently used."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Protocol


class EvictionPolicy(Protocol):
    """The order in which entries are evicted. Every call takes constant time."""

    def add(self, entry_id: str) -> None:
        """An entry is new."""
        ...

    def use(self, entry_id: str) -> None:
        """An entry was served."""
        ...

    def remove(self, entry_id: str) -> None:
        """An entry is gone."""
        ...

    def next(self) -> str:
        """The entry to evict next; it stays until it is removed."""
        ...


class Line(Protocol):
    """Entries in order, such as an `OrderedDict`."""

    def move_to_end(self, key: str) -> None:
        """Put an entry at the end."""
        ...

    def __iter__(self) -> Iterator[str]: ...


class _ByAge:
    """First in, first out; with `counts_use`, least recently used. The order of the entries is the eviction order."""

    def __init__(self, entries: Line, counts_use: bool) -> None:
        self._entries, self._counts_use = entries, counts_use

    def add(self, entry_id: str) -> None:
        """Nothing to do: the owner puts the entry at the end."""

    def use(self, entry_id: str) -> None:
        """Move it to the end, if use counts."""
        if self._counts_use:
            self._entries.move_to_end(entry_id)

    def remove(self, entry_id: str) -> None:
        """Nothing to do: the owner removes the entry."""

    def next(self) -> str:
        """The first entry."""
        return next(iter(self._entries))


class _ByUse:
    """Least frequently used; of entries that are used equally often, the oldest."""

    def __init__(self) -> None:
        self._uses: dict[str, int] = {}
        self._ids: dict[int, OrderedDict[str, None]] = {}

    def add(self, entry_id: str) -> None:
        """Begin to count its uses."""
        self._put(entry_id, 0)

    def use(self, entry_id: str) -> None:
        """Count one use."""
        uses = self._uses[entry_id]
        self.remove(entry_id)
        self._put(entry_id, uses + 1)

    def remove(self, entry_id: str) -> None:
        """Forget its count."""
        uses = self._uses.pop(entry_id)
        del self._ids[uses][entry_id]
        if not self._ids[uses]:
            del self._ids[uses]

    def next(self) -> str:
        """The first entry with the lowest count. There are few different counts, so `min` is cheap."""
        return next(iter(self._ids[min(self._ids)]))

    def _put(self, entry_id: str, uses: int) -> None:
        self._uses[entry_id] = uses
        self._ids.setdefault(uses, OrderedDict())[entry_id] = None


def make_policy(policy: str, entries: Line) -> EvictionPolicy:
    """One of `settings.POLICIES`. The owner of `entries` puts new ones at the end."""
    return _ByUse() if policy == "lfu" else _ByAge(entries, counts_use=policy == "lru")
