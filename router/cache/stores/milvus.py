"""The store in Milvus: Milvus Lite in this process, or a server that replicas share.

Imported only when the store is configured, because importing pymilvus takes two seconds.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence

from router.cache.entries import Entry, EntryFilter, Invalidation, pieces_of
from router.cache.index import Vector
from router.cache.settings import MilvusSettings
from router.cache.stores.base import REFUSED, Changes
from router.cache.stores.connection import Connection
from router.cache.stores.rows import Row, entry_of, entry_row, invalidation_document, invalidation_of, unpacked
from router.cache.stores.schema import Collections, control_row
from router.errors import BackendError

_LATER_MS = 2**62
_DAY_MS = 86_400_000
_INVALIDATION_DAYS = 30
"""Days that invalidations are kept. After that, no replica can bring back an invalidated entry. Rejections are kept for good."""
_WORD = re.compile(r"[\w.:/@+ -]{0,256}")


class MilvusStore:
    """See `Store`."""

    def __init__(self, settings: MilvusSettings, versions: str) -> None:
        """`versions` names the encoder of the stored vectors."""
        self._settings = settings
        self.is_shared = settings.file is None
        self.candidates = settings.topk
        self._collections = Collections(settings, versions)
        self.unreadable = 0
        """Number of rows that no router wrote."""
        self._compacted = 0.0
        self._log = logging.getLogger(__name__)
        self._log.setLevel(settings.log_level.upper())
        self._milvus = Connection(settings, self._log)
        self._name, self._control = self._collections.name, self._collections.control
        self._columns = ["id", "key", "scope", "decision", "model", "question", "expires", settings.timestamp_field, "namespace"]

    # -- life ----------------------------------------------------------------------------------------------------

    async def open(self) -> bytes:
        """See `Store.open`."""
        return await self._milvus.open(self._collections.prepare)

    async def close(self) -> None:
        """See `Store.close`."""
        await self._milvus.close()

    @property
    def requests(self) -> Mapping[tuple[str, str], int]:
        """See `Store.requests`."""
        return self._milvus.requests

    # -- reading -------------------------------------------------------------------------------------------------

    async def load(self, now_ms: int) -> AsyncIterator[Sequence[Entry]]:
        """See `Store.load`."""
        columns = [*self._columns, "has_vector", self._settings.vector_field]
        async for rows in self._milvus.pages(self._name, f"expires > {now_ms}", columns):
            yield self._entries(rows)

    async def answer(self, entry_id: str) -> bytes | None:
        """See `Store.answer`."""
        rows = await self._milvus.do("get", self._name, ids=[_literal(entry_id)], output_fields=["answer"])
        return unpacked(str(rows[0].get("answer"))) if rows else None

    async def nearest(self, namespace: str, vector: Vector, count: int, now_ms: int) -> Sequence[tuple[Entry, float]]:
        """See `Store.nearest`."""
        settings = self._settings
        found = await self._milvus.do(
            "search",
            self._name,
            data=[vector],
            anns_field=settings.vector_field,
            limit=count,
            filter=f'namespace == "{_literal(namespace)}" and expires > {now_ms} and has_vector == true',
            output_fields=[*self._columns, "answer"],
            search_params={"metric_type": settings.metric_type, "params": dict(settings.search_params)},
        )
        near: list[tuple[Entry, float]] = []
        for hit in found[0]:
            near += [
                (entry, _similarity(hit["distance"], settings.metric_type))
                for entry in self._entries([{**hit["entity"], "id": hit["id"]}])
            ]
        return near

    async def find(self, key: str, now_ms: int) -> Entry | None:
        """See `Store.find`."""
        rows = await self._milvus.query(
            self._name, f'key == "{_literal(key)}" and expires > {now_ms}', [*self._columns, "answer"], 1
        )
        return next(iter(self._entries(rows)), None)

    async def changes(self, since_ms: int) -> Changes:
        """See `Store.changes`."""
        now_ms = _now_ms()
        latest = now_ms + _DAY_MS  # a row with a later time would come back with every poll
        entries: list[Entry] = []
        if since_ms:
            columns = [*self._columns, "has_vector", self._settings.vector_field]
            moment = self._settings.timestamp_field
            async for rows in self._milvus.pages(self._name, f"{moment} >= {since_ms} and {moment} <= {latest}", columns):
                entries += self._entries(rows)
        invalidations: list[Invalidation] = []
        condition = f"created >= {max(since_ms, 1)} and created <= {latest}"
        async for rows in self._milvus.pages(self._control, condition, ["id", "created", "document"]):
            read = [invalidation_of(row, now_ms) for row in rows]
            self._pass_over(read.count(None))
            invalidations += [invalidation for invalidation in read if invalidation]
        return Changes(entries, sorted(invalidations, key=lambda invalidation: invalidation.created_ms))

    def _entries(self, rows: Sequence[Row]) -> list[Entry]:
        now_ms, settings = _now_ms(), self._settings
        read = [entry_of(row, settings.timestamp_field, settings.vector_field, now_ms) for row in rows]
        self._pass_over(read.count(None))
        return [entry for entry in read if entry]

    def _pass_over(self, count: int) -> None:
        if count and not self.unreadable:
            self._log.warning("%s holds rows that no router wrote; they are skipped", self._milvus.place)
        self.unreadable += count

    # -- writing -------------------------------------------------------------------------------------------------

    async def add(self, entries: Sequence[Entry]) -> None:
        """See `Store.add`. An entry whose answer is too long is left out; this process still serves it from memory."""
        rows = [row for entry in entries if (row := self._row(entry))]
        if rows:
            await self._milvus.do("upsert", self._name, data=rows)

    def _row(self, entry: Entry) -> Row | None:
        settings = self._settings
        return entry_row(entry, settings.timestamp_field, settings.vector_field, settings.dimension, _now_ms())

    async def remove(self, entry_filter: EntryFilter) -> None:
        """See `Store.remove`."""
        if entry_filter.ids is not None and entry_filter == EntryFilter(ids=entry_filter.ids):
            for piece in pieces_of(entry_filter):
                await self._milvus.do("delete", self._name, ids=[_literal(entry_id) for entry_id in piece.ids or ()])
            return
        parts = [f'{name} == "{_literal(value)}"' for name, value in self._named(entry_filter) if value is not None]
        if entry_filter.ids is not None:
            ids = ", ".join(f'"{_literal(entry_id)}"' for entry_id in entry_filter.ids)
            parts.append(f"id in [{ids}]")
        if entry_filter.before_ms is not None:
            parts.append(f"{self._settings.timestamp_field} < {entry_filter.before_ms}")
        await self._milvus.do("delete", self._name, filter=" and ".join(parts) or f"expires < {_LATER_MS}")

    @staticmethod
    def _named(entry_filter: EntryFilter) -> list[tuple[str, str | None]]:
        return [("decision", entry_filter.decision), ("model", entry_filter.model), ("scope", entry_filter.scope)]

    async def publish(self, invalidation: Invalidation) -> None:
        """See `Store.publish`."""
        kind = "rejection" if invalidation.rejected else "invalidation"
        row = control_row(invalidation.id, kind, invalidation.created_ms, invalidation_document(invalidation))
        await self._milvus.do("upsert", self._control, data=[row])

    async def sweep(self, now_ms: int) -> None:
        """See `Store.sweep`."""
        if self._settings.sweeps:
            await self._milvus.do("delete", self._name, filter=f"expires <= {now_ms}")
        old_ms = now_ms - _INVALIDATION_DAYS * _DAY_MS
        await self._milvus.do("delete", self._control, filter=f'kind == "invalidation" and created < {old_ms}')
        if self._settings.compacts_s and now_ms / 1000 - self._compacted >= self._settings.compacts_s:
            if self._compacted:
                await self._milvus.do("compact", self._name)
            self._compacted = now_ms / 1000


def _now_ms() -> int:
    return int(time.time() * 1000)


def _literal(value: str) -> str:
    """A value that is safe between the quotes of a filter.

    Raises:
        BackendError: it has a character that is not allowed.
    """
    if not _WORD.fullmatch(value):
        raise BackendError(REFUSED)
    return value


def _similarity(distance: float, metric: str) -> float:
    """Cosine similarity of unit vectors."""
    return 1 - distance / 2 if metric == "L2" else distance
