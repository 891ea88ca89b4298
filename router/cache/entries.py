"""What is kept: entries, which of them an invalidation means, and what replicas tell each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from router.cache.index import Vector


@dataclass(frozen=True, slots=True)
class Entry:
    """A question with its answer."""

    id: str
    """32 hex digits, its own."""
    key: str
    """`CacheQuery.key`: namespace and text."""
    namespace: str
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
    """None for a text that the encoder cannot read as a whole: such an entry is found by its key alone."""


@dataclass(frozen=True, slots=True)
class EntryFilter:
    """Which entries an invalidation means. A field that is None does not narrow it; with all fields None it means every entry."""

    ids: tuple[str, ...] | None = None
    decision: str | None = None
    model: str | None = None
    scope: str | None = None
    before_ms: int | None = None
    """Created before this moment."""

    def matches(self, entry: Entry) -> bool:
        """Whether the entry is meant."""
        return (
            (self.ids is None or entry.id in self.ids)
            and (self.decision is None or entry.decision == self.decision)
            and (self.model is None or entry.model == self.model)
            and (self.scope is None or entry.scope == self.scope)
            and (self.before_ms is None or entry.created_ms < self.before_ms)
        )


_MAX_PIECE_CHARS = 40_000
"""Characters of ids in one request to a store: the document has to fit a column of 65,535 bytes, names and quotes included."""


def pieces_of(entry_filter: EntryFilter) -> Iterator[EntryFilter]:
    """The same filter in parts that a store can take."""
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
    """What all replicas have to know: entries that are gone, or two questions that must not share an answer."""

    id: str
    created_ms: int
    """When it was written for the other replicas; the filter has the moment that counts."""
    entry_filter: EntryFilter | None = None
    rejected: str | None = None
    """Digest of a rejected pair of questions, or of one question; see `rejections`."""
