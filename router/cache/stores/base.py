"""What a store has to do, and what the synchronisation with a store tells the cache. Knows no concrete store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from router.cache.entries import Entry, EntryFilter, Invalidation
from router.cache.index import Vector

REFUSED = "refused"
"""What a `BackendError` says when the store is there and does not take this one request."""
Delivery = Literal["none", "written", "waiting"]
"""Whether other replicas hear of an invalidation: there is no store, the store has it, or it is still to be written."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What was written since a moment."""

    entries: Sequence[Entry]
    invalidations: Sequence[Invalidation]


@dataclass(slots=True)
class StoreState:
    """What operators see of the store."""

    is_up: bool = False
    error: str = ""
    """The last failure; never text that was stored."""
    waiting: int = 0
    """Writes in the queue."""
    dropped: int = 0
    """Writes for which there was no room."""
    refused: int = 0
    """Writes that the store did not take."""
    aside: int = 0
    """Invalidations among them; they are tried again."""
    loaded: int = 0
    """Entries read at the last start of the connection."""
    is_refused: bool = False
    """Another encoder made what is stored there: it is not touched."""


class Store(Protocol):
    """Where entries outlive the process, shared by replicas.

    Every method may raise `BackendError`; the cache then goes on without the store and tries again later.
    `BackendError("refused")` means that the store is there and does not take this one request. Rows that no router has
    written are left out and counted, never raised.
    """

    is_shared: bool
    """Other processes may write to it, so it is asked for changes, and for neighbours that this process does not know."""
    candidates: int
    """How many neighbours one search asks for."""

    @property
    def requests(self) -> Mapping[tuple[str, str], int]:
        """Requests by kind and result, `ok` or the word of an error, as metrics show them; empty when they are not counted."""
        ...

    async def open(self) -> bytes:
        """Connect, make what is missing, and return the key that hides scopes, the same for all replicas.

        Raises:
            ConfigError: another encoder or another form wrote what is stored there, or its file cannot be written.
        """
        ...

    def load(self, now_ms: int) -> AsyncIterator[Sequence[Entry]]:
        """Every entry that has not expired, in batches, without the answers."""
        ...

    async def add(self, entries: Sequence[Entry]) -> None:
        """Store entries; an entry whose id is stored already is replaced."""
        ...

    async def answer(self, entry_id: str) -> bytes | None:
        """The answer of an entry, or None when the entry is gone."""
        ...

    async def nearest(self, namespace: str, vector: Vector, count: int, now_ms: int) -> Sequence[tuple[Entry, float]]:
        """Entries of a namespace with their cosine similarities, the nearest first."""
        ...

    async def find(self, key: str, now_ms: int) -> Entry | None:
        """The entry with this key, if there is one."""
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
    """What receives news from a store: the cache."""

    def admit(self, entry: Entry) -> None:
        """Hold an entry that the store has; one that is known, has expired or was invalidated is passed over."""
        ...

    def apply_invalidation(self, invalidation: Invalidation) -> int:
        """Forget what an invalidation means; how many entries that were. One that is known does nothing."""
        ...

    def is_gone(self, entry: Entry) -> bool:
        """Whether an entry was invalidated, perhaps while it waited to be written."""
        ...
