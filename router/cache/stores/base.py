"""The protocols of a store and of the sink that receives its news. Knows no concrete store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from router.cache.entries import Entry, EntryFilter, Invalidation
from router.cache.index import Vector

REFUSED = "refused"
"""The word of a `BackendError` when the store is available but refuses this one request."""
Delivery = Literal["none", "written", "waiting"]
"""Whether other replicas get an invalidation: there is no store, the store has it, or it waits to be written."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Entries and invalidations that were written since a moment."""

    entries: Sequence[Entry]
    invalidations: Sequence[Invalidation]


@dataclass(slots=True)
class StoreState:
    """The state of the store, as operators see it."""

    is_up: bool = False
    error: str = ""
    """The last failure. It never quotes stored text."""
    waiting: int = 0
    """Writes in the queue."""
    dropped: int = 0
    """Writes that were dropped because the queue was full."""
    refused: int = 0
    """Writes that the store refused."""
    aside: int = 0
    """Writes that are set aside and tried again: refused invalidations, and writes that failed in another way."""
    loaded: int = 0
    """Entries read when the connection was last opened."""
    is_refused: bool = False
    """Another encoder wrote the stored data, so the cache does not use it."""


class Store(Protocol):
    """Storage for entries that outlives the process. Replicas can share it.

    Every method may raise `BackendError`; the cache then goes on without the store and tries again later.
    `BackendError("refused")` means that the store is available but refuses this one request. Rows that no router wrote are
    skipped and counted; they raise no error.
    """

    is_shared: bool
    """Whether other processes write to the store. Then it is polled for changes and searched for entries not in memory."""
    candidates: int
    """How many entries one search asks for."""

    @property
    def requests(self) -> Mapping[tuple[str, str], int]:
        """Number of requests by kind and result, `ok` or the word of an error; empty when they are not counted."""
        ...

    async def open(self) -> bytes:
        """Connect, create what is missing, and return the key that hides scopes. All replicas get the same key.

        Raises:
            ConfigError: the stored data has another encoder or format, or its file cannot be written.
        """
        ...

    def load(self, now_ms: int) -> AsyncIterator[Sequence[Entry]]:
        """All entries that have not expired, in batches, without answers."""
        ...

    async def add(self, entries: Sequence[Entry]) -> None:
        """Store entries. They replace stored entries with the same id."""
        ...

    async def answer(self, entry_id: str) -> bytes | None:
        """The answer of an entry; None when the entry is deleted."""
        ...

    async def nearest(self, namespace: str, vector: Vector, count: int, now_ms: int) -> Sequence[tuple[Entry, float]]:
        """Entries of a namespace with their cosine similarities, the nearest first."""
        ...

    async def find(self, key: str, now_ms: int) -> Entry | None:
        """The entry with this key; None when there is none."""
        ...

    async def remove(self, entry_filter: EntryFilter) -> None:
        """Delete the entries that match."""
        ...

    async def publish(self, invalidation: Invalidation) -> None:
        """Write an invalidation that all replicas read."""
        ...

    async def changes(self, since_ms: int) -> Changes:
        """Entries and invalidations written since a moment; since 0, all invalidations and no entries."""
        ...

    async def sweep(self, now_ms: int) -> None:
        """Delete what has expired."""
        ...

    async def close(self) -> None:
        """Close the connection."""
        ...


class Sink(Protocol):
    """Receives entries and invalidations from a store. The cache is the sink."""

    def admit(self, entry: Entry) -> None:
        """Hold an entry of the store, unless it is known, expired or invalidated."""
        ...

    def apply_invalidation(self, invalidation: Invalidation) -> int:
        """Apply an invalidation. Returns how many entries it deleted; a known invalidation does nothing."""
        ...

    def is_gone(self, entry: Entry) -> bool:
        """Whether an entry was invalidated, for example while it waited to be written."""
        ...
