"""The store in Milvus: Milvus Lite in a folder of this process, or a Milvus server that replicas share.

Imported only when the store is configured: pymilvus takes two seconds.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import grpc
from pymilvus import AsyncMilvusClient
from pymilvus.exceptions import ConnectError, ConnectionNotExistException, MilvusException, MilvusUnavailableException

from router.cache.entries import Entry, EntryFilter, Invalidation, pieces_of
from router.cache.index import Vector
from router.cache.settings import MilvusSettings
from router.cache.stores.base import REFUSED, Changes
from router.cache.stores.reach import why_not
from router.cache.stores.rows import entry_of, entry_row, notice_document, notice_of, unpacked
from router.cache.stores.schema import Collections, control_row
from router.errors import BackendError

T = TypeVar("T")

logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # its errors quote what was stored and asked

_PAGE = 1000
_LATER_MS = 2**62
_DAY_MS = 86_400_000
_NOTICE_DAYS = 30
"""After so long nobody can still bring what a notice is about; reported pairs are kept for good."""
_KEEPALIVE_MS = 2**31 - 1
_FAILURES = (MilvusException, grpc.RpcError, OSError, asyncio.TimeoutError,
             ValueError, TypeError, LookupError, AttributeError, RuntimeError)  # fmt: skip
"""What pymilvus raises: of its own, of gRPC's, and of its own code on an answer that it does not expect."""
_PASSING_CODES = (2, 3, 4, 5, 7, 8, 9, *range(100, 107), *range(400, 1000))
"""No fault of what was asked: a service that is down or full, too much asked, writing denied, a collection that is gone or not
loaded, a part of the cluster that is not there. From pkg/util/merr/errors.go of Milvus 2.3; 2 is also pymilvus' own for no
connection."""
_AWAY = (ConnectError, ConnectionNotExistException, MilvusUnavailableException)
_WORD = re.compile(r"[\w.:/@+ -]{0,256}")


class MilvusStore:
    """See `Store`."""

    def __init__(self, settings: MilvusSettings, versions: str) -> None:
        """`versions` names the encoder whose vectors are stored."""
        self._settings = settings
        self.is_shared = settings.file is None
        self.candidates = settings.topk
        self._client: Any = None
        self._lite: Any = None
        self._uri = settings.uri
        self._collections = Collections(settings, versions)
        self._failure = ""
        """The last one that was logged."""
        self.unreadable = 0
        """Rows that no router of ours has written."""
        self._slots = asyncio.Semaphore(settings.max_requests)
        self._compacted = 0.0
        self._log = logging.getLogger(__name__)
        self._log.setLevel(settings.log_level.upper())
        self.requests: dict[tuple[str, str], int] = {}
        """Requests to Milvus by kind and result, `ok` or an error's word; empty when they are not counted."""
        self._name, self._control = self._collections.name, self._collections.control
        self._columns = ["id", "key", "scope", "decision", "model", "question", "expires", settings.timestamp_field, "part"]

    # -- life ----------------------------------------------------------------------------------------------------

    async def open(self) -> bytes:
        """See `Store.open`."""
        await self.close()
        if self.is_shared:
            await self._knock()
        else:
            self._uri = await asyncio.to_thread(self._start_lite)
        try:
            key = await self._guarded(asyncio.to_thread(self._collections.prepare, self._connection()), self._settings.timeout_s)
            self._client = AsyncMilvusClient(**self._connection())
        except BackendError as error:
            raise BackendError(f"{self._where} does not work: {self._failure or error}") from None
        return key

    @property
    def _where(self) -> str:
        settings = self._settings
        return str(settings.file) if settings.file else f"Milvus at {settings.host}:{settings.port}"

    async def _knock(self) -> None:
        """Whether anybody listens there: pymilvus takes ten seconds to find out, and does not say what was wrong."""
        settings = self._settings
        try:
            async with asyncio.timeout(settings.timeout_s):
                _, writer = await asyncio.open_connection(settings.host, settings.port)
        except OSError as error:
            raise BackendError(f"{self._where} does not answer: {why_not(error)}") from None
        writer.close()

    def _start_lite(self) -> str:
        from router.cache.stores.lite import LiteServer

        self._lite = self._lite or LiteServer(self._settings.file)  # type: ignore[arg-type]
        address: str = self._lite.start()
        return address

    async def close(self) -> None:
        """See `Store.close`."""
        client, self._client = self._client, None
        try:
            if client is not None:
                await self._guarded(client.close(), self._settings.timeout_s)
        finally:
            if self._lite:
                await asyncio.to_thread(self._lite.stop)

    def _connection(self) -> dict[str, Any]:
        settings = self._settings
        options: dict[str, Any] = {"uri": self._uri, "timeout": settings.timeout_s}
        if settings.file:
            # pymilvus pings every ten seconds, more than Milvus Lite's gRPC allows: it would break the connection off.
            options["grpc_options"] = {"grpc.keepalive_time_ms": _KEEPALIVE_MS}
        if settings.file is None:
            options |= {"user": settings.username, "password": settings.password, "db_name": settings.database}
        if settings.is_tls:
            paths = {"client_pem_path": settings.cert_file, "client_key_path": settings.key_file, "ca_pem_path": settings.ca_file}
            options |= {"secure": True, **{name: path for name, path in paths.items() if path}}
        return options

    # -- reading -------------------------------------------------------------------------------------------------

    async def load(self, now_ms: int) -> AsyncIterator[Sequence[Entry]]:
        """See `Store.load`."""
        columns = [*self._columns, "has_vector", self._settings.vector_field]
        async for rows in self._pages(self._name, f"expires > {now_ms}", columns):
            yield self._entries(rows)

    async def answer(self, entry_id: str) -> bytes | None:
        """See `Store.answer`."""
        rows = await self._do("get", self._name, ids=[_literal(entry_id)], output_fields=["answer"])
        return unpacked(str(rows[0].get("answer"))) if rows else None

    async def nearest(self, partition: str, vector: Vector, count: int, now_ms: int) -> Sequence[tuple[Entry, float]]:
        """See `Store.nearest`."""
        settings = self._settings
        found = await self._do(
            "search",
            self._name,
            data=[vector],
            anns_field=settings.vector_field,
            limit=count,
            filter=f'part == "{_literal(partition)}" and expires > {now_ms} and has_vector == true',
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
        rows = await self._query(self._name, f'key == "{_literal(key)}" and expires > {now_ms}', [*self._columns, "answer"], 1)
        return next(iter(self._entries(rows)), None)

    async def changes(self, since_ms: int) -> Changes:
        """See `Store.changes`."""
        now_ms = _now_ms()
        latest = now_ms + _DAY_MS  # what claims to be written later would come back with every look
        entries: list[Entry] = []
        if since_ms:
            columns = [*self._columns, "has_vector", self._settings.vector_field]
            moment = self._settings.timestamp_field
            async for rows in self._pages(self._name, f"{moment} >= {since_ms} and {moment} <= {latest}", columns):
                entries += self._entries(rows)
        invalidations: list[Invalidation] = []
        condition = f"created >= {max(since_ms, 1)} and created <= {latest}"
        async for rows in self._pages(self._control, condition, ["id", "created", "document"]):
            read = [notice_of(row, now_ms) for row in rows]
            self._pass_over(read.count(None))
            invalidations += [invalidation for invalidation in read if invalidation]
        return Changes(entries, sorted(invalidations, key=lambda invalidation: invalidation.created_ms))

    def _entries(self, rows: Sequence[Mapping[str, Any]]) -> list[Entry]:
        now_ms, settings = _now_ms(), self._settings
        read = [entry_of(row, settings.timestamp_field, settings.vector_field, now_ms) for row in rows]
        self._pass_over(read.count(None))
        return [entry for entry in read if entry]

    def _pass_over(self, count: int) -> None:
        if count and not self.unreadable:
            self._log.warning("%s holds rows that no router of ours has written; they are passed over", self._where)
        self.unreadable += count

    # -- writing -------------------------------------------------------------------------------------------------

    async def add(self, entries: Sequence[Entry]) -> None:
        """See `Store.add`. An answer that does not fit is left out: the process that has it still serves it."""
        rows = [row for entry in entries if (row := self._row(entry))]
        if rows:
            await self._do("upsert", self._name, data=rows)

    def _row(self, entry: Entry) -> dict[str, Any] | None:
        settings = self._settings
        return entry_row(entry, settings.timestamp_field, settings.vector_field, settings.dimension, _now_ms())

    async def remove(self, entry_filter: EntryFilter) -> None:
        """See `Store.remove`."""
        if entry_filter.ids is not None and entry_filter == EntryFilter(ids=entry_filter.ids):
            for piece in pieces_of(entry_filter):
                await self._do("delete", self._name, ids=[_literal(entry_id) for entry_id in piece.ids or ()])
            return
        parts = [f'{name} == "{_literal(value)}"' for name, value in self._named(entry_filter) if value is not None]
        if entry_filter.ids is not None:
            ids = ", ".join(f'"{_literal(entry_id)}"' for entry_id in entry_filter.ids)
            parts.append(f"id in [{ids}]")
        if entry_filter.before_ms is not None:
            parts.append(f"{self._settings.timestamp_field} < {entry_filter.before_ms}")
        await self._do("delete", self._name, filter=" and ".join(parts) or f"expires < {_LATER_MS}")

    @staticmethod
    def _named(entry_filter: EntryFilter) -> list[tuple[str, str | None]]:
        return [("decision", entry_filter.decision), ("model", entry_filter.model), ("scope", entry_filter.scope)]

    async def publish(self, invalidation: Invalidation) -> None:
        """See `Store.publish`."""
        kind = "rejection" if invalidation.rejected else "notice"
        row = control_row(invalidation.id, kind, invalidation.created_ms, notice_document(invalidation))
        await self._do("upsert", self._control, data=[row])

    async def sweep(self, now_ms: int) -> None:
        """See `Store.sweep`."""
        if self._settings.sweeps:
            await self._do("delete", self._name, filter=f"expires <= {now_ms}")
        old_ms = now_ms - _NOTICE_DAYS * _DAY_MS
        await self._do("delete", self._control, filter=f'kind == "notice" and created < {old_ms}')
        if self._settings.compacts_s and now_ms / 1000 - self._compacted >= self._settings.compacts_s:
            if self._compacted:
                await self._do("compact", self._name)
            self._compacted = now_ms / 1000

    # -- calls ---------------------------------------------------------------------------------------------------

    async def _query(self, collection: str, condition: str, columns: list[str], limit: int) -> Sequence[Mapping[str, Any]]:
        rows: Sequence[Mapping[str, Any]] = await self._do(
            "query", collection, filter=condition, output_fields=columns, limit=limit
        )
        return rows

    async def _pages(self, collection: str, condition: str, columns: list[str]) -> AsyncIterator[Sequence[Mapping[str, Any]]]:
        """Every row of a collection, from id to id: an offset is limited to 16,384 rows.

        Milvus gives rows in the order of their ids to what calls itself an iterator only; else pages would leave rows out.
        """
        last = ""
        while True:
            rows: Sequence[Mapping[str, Any]] = await self._do(
                "query",
                collection,
                filter=f"id > {_quoted(last)} and {condition}",
                output_fields=columns,
                limit=_PAGE,
                iterator="True",
                reduce_stop_for_best="True",
            )
            if not rows:
                return
            last = max(str(row["id"]) for row in rows)
            yield rows
            if len(rows) < _PAGE:
                return

    async def _do(self, call: str, collection: str, **arguments: Any) -> Any:
        """One request to Milvus, with at most `max_requests` of them at once."""
        client = self._client
        if client is None:
            raise BackendError("closed")
        try:
            async with asyncio.timeout(self._settings.acquire_timeout_s):
                await self._slots.acquire()
        except TimeoutError:
            raise BackendError("busy") from None
        result = "ok"
        try:
            method: Callable[..., Coroutine[Any, Any, Any]] = getattr(client, call)
            return await self._guarded(method(collection, **arguments), self._settings.timeout_s)
        except BackendError as error:
            result = str(error) if client is self._client else "closed"
            raise BackendError(result) from None
        finally:
            self._slots.release()
            self._note(call, collection, result)

    def _note(self, call: str, collection: str, result: str) -> None:
        if self._settings.logs_queries:
            self._log.info("milvus %s on %s: %s", call, collection, result)
        if self._settings.counts_requests:
            self.requests[call, result] = self.requests.get((call, result), 0) + 1

    async def _guarded(self, call: Coroutine[Any, Any, T], timeout_s: float) -> T:
        try:
            async with asyncio.timeout(timeout_s):
                result = await call
            self._failure = ""
            return result
        except asyncio.CancelledError:
            # gRPC cancels what is under way on a channel that is closed; a request that asked is not at its end for that.
            task = asyncio.current_task()
            if task and task.cancelling():
                raise
            raise BackendError("unavailable") from None
        except _FAILURES as error:
            self._log_failure(error)
            raise BackendError(_word_of(error)) from None

    def _log_failure(self, error: Exception) -> None:
        """Once for each kind in a row: while the store is away every attempt fails alike."""
        code = getattr(error, "code", "")
        failure = f"{type(error).__name__} {code() if callable(code) else code}".strip()
        if self._settings.shows_errors and not isinstance(error, TimeoutError) and failure != self._failure:
            self._log.warning("milvus failed: %s", failure)
        self._failure = failure


def _word_of(error: Exception) -> str:
    """`slow`, `unavailable`, or `refused`: the store is there, and this request was wrong."""
    if isinstance(error, TimeoutError):
        return "slow"
    if isinstance(error, MilvusException):
        is_passing = isinstance(error, _AWAY) or error.code in _PASSING_CODES or not isinstance(error.code, int)
        return "unavailable" if is_passing or isinstance(error.code, grpc.StatusCode) else REFUSED
    return REFUSED if isinstance(error, ValueError | TypeError) else "unavailable"


def _now_ms() -> int:
    return int(time.time() * 1000)


def _quoted(text: str) -> str:
    """A string of Milvus' filters, whatever it holds: ids in a store may be anybody's."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r") + '"'


def _literal(value: str) -> str:
    """A value that may stand between quotes in a filter.

    Raises:
        BackendError: it holds a character that could end the quotes.
    """
    if not _WORD.fullmatch(value):
        raise BackendError(REFUSED)
    return value


def _similarity(distance: float, metric: str) -> float:
    """Cosine similarity of unit vectors."""
    return 1 - distance / 2 if metric == "L2" else distance
