"""The connection to Milvus: Milvus Lite in this process, or a server. Knows no entries.

Every error of pymilvus becomes a `BackendError` with one word: `slow`, `busy`, `closed`, `unavailable`, or `refused`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from pymilvus import AsyncMilvusClient
from pymilvus.exceptions import ConnectError, ConnectionNotExistException, MilvusException, MilvusUnavailableException

from router.cache.settings import MilvusSettings
from router.cache.stores.base import REFUSED
from router.cache.stores.reach import why_not
from router.cache.stores.rows import Row
from router.errors import BackendError

if TYPE_CHECKING:
    from pathlib import Path

    from router.cache.stores.lite import LiteServer

T = TypeVar("T")

logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # its errors quote stored text and queries

_PAGE = 1000
_KEEPALIVE_MS = 2**31 - 1
_FAILURES = (MilvusException, grpc.RpcError, OSError, asyncio.TimeoutError,
             ValueError, TypeError, LookupError, AttributeError, RuntimeError)  # fmt: skip
"""The errors that pymilvus raises: its own, those of gRPC, and those of its code when an answer is unexpected."""
_PASSING_CODES = (2, 3, 4, 5, 7, 8, 9, *range(100, 107), *range(400, 1000))
"""Errors that the request did not cause: a service that is down or full, a rate limit, denied writes, a collection that is
missing or not loaded, a missing part of the cluster. From pkg/util/merr/errors.go of Milvus 2.3; pymilvus itself uses 2 for no
connection."""
_AWAY = (ConnectError, ConnectionNotExistException, MilvusUnavailableException)


class Connection:
    """A client of Milvus. At most `MilvusSettings.max_requests` requests run at once."""

    def __init__(self, settings: MilvusSettings, log: logging.Logger) -> None:
        self._settings, self._log = settings, log
        self.uri = settings.uri
        self._client: AsyncMilvusClient | None = None
        self._lite: LiteServer | None = None
        self._failure = ""
        """The last failure that was logged."""
        self._slots = asyncio.Semaphore(settings.max_requests)
        self.requests: dict[tuple[str, str], int] = {}
        """Number of requests by kind and result, `ok` or the word of an error; empty when they are not counted."""

    async def open(self, prepare: Callable[[dict[str, object]], T]) -> T:
        """Run `prepare` in a thread with the options of a client, then connect. Returns the result of `prepare`.

        Raises:
            ConfigError: the folder of Milvus Lite cannot be written, or `prepare` raised it.
            BackendError: Milvus does not answer.
        """
        await self.close()
        if self._settings.file:
            self.uri = await asyncio.to_thread(self._start_lite, self._settings.file)
        else:
            await self._knock()
        try:
            prepared = await self._guarded(asyncio.to_thread(prepare, self.options()), self._settings.timeout_s)
            self._client = AsyncMilvusClient(**self.options())
        except BackendError as error:
            raise BackendError(f"{self.place} does not work: {self._failure or error}") from None
        return prepared

    @property
    def place(self) -> str:
        """Folder, or host and port, for messages."""
        settings = self._settings
        return str(settings.file) if settings.file else f"Milvus at {settings.host}:{settings.port}"

    async def _knock(self) -> None:
        """Check that somebody listens. pymilvus needs ten seconds to find out, and does not say what was wrong."""
        settings = self._settings
        try:
            async with asyncio.timeout(settings.timeout_s):
                _, writer = await asyncio.open_connection(settings.host, settings.port)
        except OSError as error:
            raise BackendError(f"{self.place} does not answer: {why_not(error)}") from None
        writer.close()

    def _start_lite(self, folder: Path) -> str:
        from router.cache.stores.lite import LiteServer

        self._lite = self._lite or LiteServer(folder)
        return self._lite.start()

    async def close(self) -> None:
        """Close the client, and stop Milvus Lite."""
        client, self._client = self._client, None
        try:
            if client is not None:
                await self._guarded(client.close(), self._settings.timeout_s)
        finally:
            if self._lite:
                await asyncio.to_thread(self._lite.stop)

    def options(self) -> dict[str, object]:
        """The options of a pymilvus client."""
        settings = self._settings
        options: dict[str, object] = {"uri": self.uri, "timeout": settings.timeout_s}
        if settings.file:
            # pymilvus pings every ten seconds. That is more than Milvus Lite's gRPC allows, which would close the connection.
            options["grpc_options"] = {"grpc.keepalive_time_ms": _KEEPALIVE_MS}
        if settings.file is None:
            options |= {"user": settings.username, "password": settings.password, "db_name": settings.database}
        if settings.is_tls:
            paths = {"client_pem_path": settings.cert_file, "client_key_path": settings.key_file, "ca_pem_path": settings.ca_file}
            options |= {"secure": True, **{name: path for name, path in paths.items() if path}}
        return options

    # -- requests ------------------------------------------------------------------------------------------------

    async def do(self, call: str, collection: str, **arguments: object) -> Any:
        """Make one request to Milvus. Arguments and result depend on the call."""
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
            return await self._guarded(getattr(client, call)(collection, **arguments), self._settings.timeout_s)
        except BackendError as error:
            result = str(error) if client is self._client else "closed"
            raise BackendError(result) from None
        finally:
            self._slots.release()
            self._count(call, collection, result)

    async def query(self, collection: str, condition: str, columns: list[str], limit: int) -> Sequence[Row]:
        """Up to `limit` rows that match a condition."""
        rows: Sequence[Row] = await self.do("query", collection, filter=condition, output_fields=columns, limit=limit)
        return rows

    async def pages(self, collection: str, condition: str, columns: list[str]) -> AsyncIterator[Sequence[Row]]:
        """All rows that match a condition, in pages from id to id, because an offset is limited to 16,384 rows.

        Milvus sorts rows by id only for a request that calls itself an iterator. Without the order, pages would miss rows.
        """
        last = ""
        while True:
            rows: Sequence[Row] = await self.do(
                "query",
                collection,
                filter=f"id > {quoted(last)} and {condition}",
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

    def _count(self, call: str, collection: str, result: str) -> None:
        if self._settings.logs_queries:
            self._log.info("milvus %s on %s: %s", call, collection, result)
        if self._settings.counts_requests:
            self.requests[call, result] = self.requests.get((call, result), 0) + 1

    async def _guarded(self, call: Awaitable[T], timeout_s: float) -> T:
        try:
            async with asyncio.timeout(timeout_s):
                result = await call
            self._failure = ""
            return result
        except asyncio.CancelledError:
            # gRPC cancels running calls when a channel closes. That is no cancellation of our own task.
            task = asyncio.current_task()
            if task and task.cancelling():
                raise
            raise BackendError("unavailable") from None
        except _FAILURES as error:
            self._log_failure(error)
            raise BackendError(_word_of(error)) from None

    def _log_failure(self, error: Exception) -> None:
        """Log a failure once, not each time that it repeats. While the store is unavailable, every attempt fails alike."""
        code = getattr(error, "code", "")
        failure = f"{type(error).__name__} {code() if callable(code) else code}".strip()
        if self._settings.shows_errors and not isinstance(error, TimeoutError) and failure != self._failure:
            self._log.warning("milvus failed: %s", failure)
        self._failure = failure


def _word_of(error: Exception) -> str:
    """`slow`, `unavailable`, or `refused` when the store is available but this request was wrong."""
    if isinstance(error, TimeoutError):
        return "slow"
    if isinstance(error, MilvusException):
        is_passing = isinstance(error, _AWAY) or error.code in _PASSING_CODES or not isinstance(error.code, int)
        return "unavailable" if is_passing or isinstance(error.code, grpc.StatusCode) else REFUSED
    return REFUSED if isinstance(error, ValueError | TypeError) else "unavailable"


def quoted(text: str) -> str:
    """A string literal for a Milvus filter. Escapes everything, because others may have written the ids in the store."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r") + '"'
