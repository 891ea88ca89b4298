"""The data of the cache: entries, filters of entries, and the invalidations that replicas exchange."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from router.cache.index import Vector


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored question with its answer."""

    id: str
    """32 hex digits; unique."""
    key: str
    """As in `CacheQuery.key`: digest of namespace and text."""
    namespace: str
    scope: str
    decision: str
    model: str
    text: str
    """The whole question."""
    answer: bytes
    """In the form of `Answer.encode`."""
    created_ms: int
    """Unix time."""
    expires_ms: int
    vector: Vector | None = None
    """None when the encoder could not read the whole text. Then only the exact tier finds the entry."""


@dataclass(frozen=True, slots=True)
class EntryFilter:
    """Selects entries. An entry must match every field that is not None; with all fields None, every entry matches."""

    ids: tuple[str, ...] | None = None
    decision: str | None = None
    model: str | None = None
    scope: str | None = None
    before_ms: int | None = None
    """Selects entries that were created before this moment."""

    def matches(self, entry: Entry) -> bool:
        """Whether the filter selects the entry."""
        return (
            (self.ids is None or entry.id in self.ids)
            and (self.decision is None or entry.decision == self.decision)
            and (self.model is None or entry.model == self.model)
            and (self.scope is None or entry.scope == self.scope)
            and (self.before_ms is None or entry.created_ms < self.before_ms)
        )


_MAX_PIECE_CHARS = 40_000
"""Characters of ids in one request to a store. The document, with names and quotes, must fit a column of 65,535 bytes."""


def pieces_of(entry_filter: EntryFilter) -> Iterator[EntryFilter]:
    """The filter in pieces that a store can take."""
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
    """Tells all replicas which entries are invalid, or which two questions must not share an answer."""

    id: str
    created_ms: int
    """When it was written to the store. `entry_filter` holds the moment up to which entries are invalid."""
    entry_filter: EntryFilter | None = None
    rejected: str | None = None
    """Digest of a rejected pair of questions, or of one rejected question; see `rejections`."""
