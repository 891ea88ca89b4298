"""Which entry has to leave when there is no room: the oldest, the one unused for longest, or the one used least."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Protocol


class EvictionPolicy(Protocol):
    """The order in which entries leave. Every call takes constant time."""

    def add(self, entry_id: str) -> None:
        """An entry has come."""
        ...

    def use(self, entry_id: str) -> None:
        """It was given to somebody."""
        ...

    def remove(self, entry_id: str) -> None:
        """It is gone."""
        ...

    def next(self) -> str:
        """Who leaves next; it stays until it is removed."""
        ...


class _ByAge:
    """First in, first out; with `counts_use`, an entry that is used goes to the end. The entries themselves stand in line."""

    def __init__(self, entries: OrderedDict[str, Any], counts_use: bool) -> None:
        self._entries, self._counts_use = entries, counts_use

    def add(self, entry_id: str) -> None:
        """It stands at the end."""

    def use(self, entry_id: str) -> None:
        """To the end, if use counts."""
        if self._counts_use:
            self._entries.move_to_end(entry_id)

    def remove(self, entry_id: str) -> None:
        """It leaves the line by itself."""

    def next(self) -> str:
        """The first in line."""
        return next(iter(self._entries))


class _ByUse:
    """Least frequently used; of equals the one that has been there for longest."""

    def __init__(self) -> None:
        self._uses: dict[str, int] = {}
        self._ids: dict[int, OrderedDict[str, None]] = {}

    def add(self, entry_id: str) -> None:
        """Unused so far."""
        self._put(entry_id, 0)

    def use(self, entry_id: str) -> None:
        """Once more."""
        uses = self._uses[entry_id]
        self.remove(entry_id)
        self._put(entry_id, uses + 1)

    def remove(self, entry_id: str) -> None:
        """Forget its uses too."""
        uses = self._uses.pop(entry_id)
        del self._ids[uses][entry_id]
        if not self._ids[uses]:
            del self._ids[uses]

    def next(self) -> str:
        """The first of those used least. There are few different counts, so looking for the least is cheap."""
        return next(iter(self._ids[min(self._ids)]))

    def _put(self, entry_id: str, uses: int) -> None:
        self._uses[entry_id] = uses
        self._ids.setdefault(uses, OrderedDict())[entry_id] = None


def make_order(policy: str, entries: OrderedDict[str, Any]) -> EvictionPolicy:
    """The order of one of `settings.POLICIES`; `entries` are kept by their owner, new ones at the end."""
    return _ByUse() if policy == "lfu" else _ByAge(entries, counts_use=policy == "lru")
