"""What is kept, and what a store has to do. Knows no concrete store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from router.cache.index import Vector

REFUSED = "refused"
"""What a `BackendError` says when the store is there and does not take this one request."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A question with its answer."""

    id: str
    """32 hex digits, its own."""
    key: str
    """`CacheQuery.key`: partition and text."""
    partition: str
    scope: str
    decision: str
    model: str
    text: str
    """The question, whole."""
    answer: bytes
    """As `Answer.encode` gave it."""
    created_ms: int
    """Unix time."""
    expires_ms: int
    vector: Vector | None = None
    """None for a text that the encoder cannot read whole: such an entry is found by its key alone."""


@dataclass(frozen=True, slots=True)
class EntryFilter:
    """Which entries an invalidation means. What is None does not narrow it; with all of them None it means every entry."""

    ids: tuple[str, ...] | None = None
    decision: str | None = None
    model: str | None = None
    scope: str | None = None
    before_ms: int | None = None
    """Created before this moment."""

    def takes(self, entry: Entry) -> bool:
        """Whether the entry is meant."""
        return (
            (self.ids is None or entry.id in self.ids)
            and (self.decision is None or entry.decision == self.decision)
            and (self.model is None or entry.model == self.model)
            and (self.scope is None or entry.scope == self.scope)
            and (self.before_ms is None or entry.created_ms < self.before_ms)
        )


_MAX_PIECE_CHARS = 40_000
"""Of ids in one request to a store: as a document it has to fit a column of 65,535 bytes, names and quotes included."""


def pieces_of(entry_filter: EntryFilter) -> Iterator[EntryFilter]:
    """The same selection in parts that a store can take."""
    if entry_filter.ids is None:
        yield entry_filter
        return
    piece: list[str] = []
    chars = 0
    for entry_id in entry_filter.ids:
        if piece and chars + len(entry_id) > _MAX_PIECE_CHARS:
            yield replace(entry_filter, ids=tuple(piece))
            piece, chars = [], 0
        piece.append(entry_id)
        chars += len(entry_id) + 4  # quotes, a comma, a blank
    yield replace(entry_filter, ids=tuple(piece))


@dataclass(frozen=True, slots=True)
class Invalidation:
    """What all replicas have to know: entries that are gone, or questions that must not share an answer."""

    id: str
    created_ms: int
    """When it was written down for the others; the selection has the moment that counts."""
    entry_filter: EntryFilter | None = None
    rejected: str | None = None
    """Digest of a reported pair or question; see `rejections`."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What others have written since a moment."""

    entries: Sequence[Entry]
    invalidations: Sequence[Invalidation]


class Store(Protocol):
    """Where entries outlive the process, shared by replicas. Every method may raise `BackendError`; the cache then goes on
    without it and tries again later. `BackendError("refused")`: the store is there and does not take this one request.

    What others wrote and makes no sense is left out and counted, never raised.
    """

    is_shared: bool
    """Others may write to it, so it is asked for changes, and for neighbours that this process does not know."""
    candidates: int
    """How many neighbours one search is asked for."""

    async def open(self) -> bytes:
        """Connect, make what is missing, and give the key that scopes are hidden with, the same for all replicas.

        Raises:
            ConfigError: what is stored there was written by another encoder or in another form, or its file cannot be written.
        """
        ...

    def load(self, now_ms: int) -> AsyncIterator[Sequence[Entry]]:
        """Every entry that has not expired, in batches; the answers left out."""
        ...

    async def add(self, entries: Sequence[Entry]) -> None:
        """Keep entries; one whose id is there already is replaced."""
        ...

    async def answer(self, entry_id: str) -> bytes | None:
        """The answer of an entry, or None if there is no such entry any more."""
        ...

    async def nearest(self, partition: str, vector: Vector, count: int, now_ms: int) -> Sequence[tuple[Entry, float]]:
        """Entries of a partition with their cosine similarities, the nearest first."""
        ...

    async def find(self, key: str, now_ms: int) -> Entry | None:
        """The entry with this key, if there is one."""
        ...

    async def remove(self, entry_filter: EntryFilter) -> None:
        """Delete entries."""
        ...

    async def publish(self, invalidation: Invalidation) -> None:
        """Let all replicas know."""
        ...

    async def changes(self, since_ms: int) -> Changes:
        """Entries and notices written from a moment on."""
        ...

    async def sweep(self, now_ms: int) -> None:
        """Delete what has expired."""
        ...

    async def close(self) -> None:
        """Let go of the connection."""
        ...
