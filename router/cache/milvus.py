"""The store in Milvus: Milvus Lite in a file of this process, or a Milvus server that replicas share.

Two collections: the entries, and `<name>_control` with the form, the scope key and the notices. Schema work goes through the
synchronous client of pymilvus in a thread, because Milvus Lite lacks what the asynchronous one waits with.
Imported only when the store is configured: pymilvus takes two seconds.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import re
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, TypeVar

import grpc
import numpy as np
from pymilvus import AsyncMilvusClient, DataType, MilvusClient
from pymilvus.exceptions import MilvusException

from router.cache.base import Changes, Entry, Notice, Selection
from router.cache.index import Vector
from router.cache.settings import MilvusSettings
from router.errors import BackendError, ConfigError, Problem

T = TypeVar("T")

logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # its errors quote what was stored and asked

FORM = 1
"""Of rows; another one is another collection."""
MOST_STORED_BYTES = 65_535
"""Milvus' limit for a VARCHAR; an answer is compressed and must fit."""
_PAGE = 1000
_LATER_MS = 2**62
_KEY_BYTES = 32
_FAILURES = (MilvusException, grpc.RpcError, OSError, asyncio.TimeoutError, ValueError, TypeError)
_WORD = re.compile(r"[\w.:/@+ -]{0,256}")


class MilvusStore:
    """See `Store`."""

    def __init__(self, settings: MilvusSettings, versions: str) -> None:
        """`versions` names the encoder whose vectors are stored."""
        self._settings, self._versions = settings, versions
        self.is_shared = settings.file is None
        self.candidates = settings.topk
        self._client: Any = None
        self._slots = asyncio.Semaphore(settings.max_requests)
        self._compacted = 0.0
        self._log = logging.getLogger(__name__)
        self._log.setLevel(settings.log_level.upper())
        self.requests: dict[tuple[str, str], int] = {}
        """Requests to Milvus by kind and result, `ok` or an error's word; empty when they are not counted."""
        self._name, self._control = settings.collection, f"{settings.collection}_control"
        self._columns = ["id", "key", "scope", "decision", "model", "question", "expires", settings.timestamp_field, "part"]

    # -- life ----------------------------------------------------------------------------------------------------

    async def open(self) -> bytes:
        """See `Store.open`."""
        await self.close()
        key = await self._guarded(asyncio.to_thread(self._prepare), self._settings.timeout_s)
        self._client = AsyncMilvusClient(**self._connection())
        return key

    async def close(self) -> None:
        """See `Store.close`."""
        client, self._client = self._client, None
        if client is not None:
            await self._guarded(client.close(), self._settings.timeout_s)

    def _connection(self) -> dict[str, Any]:
        settings = self._settings
        options: dict[str, Any] = {"uri": settings.uri, "timeout": settings.timeout_s}
        if settings.file is None:
            options |= {"user": settings.username, "password": settings.password, "db_name": settings.database}
        if settings.is_tls:
            paths = {"client_pem_path": settings.cert_file, "client_key_path": settings.key_file, "ca_pem_path": settings.ca_file}
            options |= {"secure": True, **{name: path for name, path in paths.items() if path}}
        return options

    def _prepare(self) -> bytes:
        """In a thread: collections as they have to be; the scope key."""
        settings = self._settings
        if settings.file:
            settings.file.parent.mkdir(parents=True, exist_ok=True)
        if settings.database:
            self._make_database()
        client = MilvusClient(**self._connection())
        try:
            if settings.drops_at_start:
                for name in (self._name, self._control):
                    if client.has_collection(name):
                        client.drop_collection(name)
            # Side by side: a server takes three seconds and more for each.
            with ThreadPoolExecutor(2, thread_name_prefix="milvus-prepare") as pool:
                list(pool.map(self._make, (self._name, self._control)))
            self._check(client)
            return self._identify(client)
        finally:
            client.close()

    def _make_database(self) -> None:
        options = self._connection()
        options["db_name"] = ""
        client = MilvusClient(**options)
        try:
            if self._settings.database not in client.list_databases():
                client.create_database(self._settings.database)
        finally:
            client.close()

    def _make(self, name: str) -> None:
        """Make a collection that is not there yet, and have it loaded."""
        settings, client = self._settings, MilvusClient(**self._connection())
        try:
            if not client.has_collection(name):
                if not settings.creates_collection:
                    message = f"there is no collection '{name}'; make it, or set development.auto_create_collection to true"
                    raise ConfigError([Problem("milvus", 0, "development.auto_create_collection", message)])
                index, is_control = client.prepare_index_params(), name == self._control
                if is_control:
                    index.add_index("vector", index_type="FLAT", metric_type="L2")
                else:
                    kind, params = settings.index_type, dict(settings.index_params)
                    index.add_index(settings.vector_field, index_type=kind, metric_type=settings.metric_type, params=params)
                schema = self._control_schema(client) if is_control else self._schema(client)
                level = "Strong" if is_control else settings.consistency_level
                client.create_collection(name, schema=schema, index_params=index, consistency_level=level)
            client.load_collection(name)
        finally:
            client.close()

    def _schema(self, client: Any) -> Any:
        settings = self._settings
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False, description=settings.description)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=32)
        for name, length in (("key", 32), ("part", 32), ("scope", 64), ("decision", 256), ("model", 256), ("question", 16_384)):
            schema.add_field(name, DataType.VARCHAR, max_length=length)
        schema.add_field("answer", DataType.VARCHAR, max_length=MOST_STORED_BYTES)
        schema.add_field(settings.timestamp_field, DataType.INT64)
        schema.add_field("expires", DataType.INT64)
        schema.add_field("has_vector", DataType.BOOL)
        schema.add_field(settings.vector_field, DataType.FLOAT_VECTOR, dim=settings.dimension)
        return schema

    def _control_schema(self, client: Any) -> Any:
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=32)
        schema.add_field("kind", DataType.VARCHAR, max_length=16)
        schema.add_field("created", DataType.INT64)
        schema.add_field("document", DataType.VARCHAR, max_length=MOST_STORED_BYTES)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)  # Milvus 2.3 has no collection without one
        return schema

    def _check(self, client: Any) -> None:
        """The collection has the columns that we would make."""
        found = {one["name"]: one for one in client.describe_collection(self._name)["fields"]}
        wanted = {one.name: one for one in self._schema(client).fields}
        if missing := wanted.keys() - found.keys():
            raise self._refusal(f"collection '{self._name}' has no column {', '.join(sorted(missing))}: something else made it")
        for name, one in wanted.items():
            if found[name]["type"] != one.dtype:
                raise self._refusal(f"column '{name}' of collection '{self._name}' is of another type: something else made it")
        dimension = int(found[self._settings.vector_field]["params"]["dim"])
        if dimension != self._settings.dimension:
            raise self._refusal(
                f"collection '{self._name}' holds vectors of {dimension} numbers, the encoder gives {self._settings.dimension}"
            )

    def _identify(self, client: Any) -> bytes:
        """Form and encoder of the stored entries, and the scope key; written by whoever comes first."""
        rows = client.query(self._control, filter='kind == "form"', output_fields=["id", "document"], limit=10)
        if not rows:
            mine = {"form": FORM, "versions": self._versions, "key": os.urandom(_KEY_BYTES).hex()}
            client.insert(self._control, [_control_row("form", "form", 0, mine)])
            rows = client.query(self._control, filter='kind == "form"', output_fields=["id", "document"], limit=10)
        document = json.loads(rows[0]["document"]) if rows else {}
        if document.get("form") != FORM:
            raise self._refusal(
                f"collection '{self._name}' was written in another form ({document.get('form')}, this router's is {FORM})"
            )
        if document.get("versions") != self._versions:
            raise self._refusal(
                f"collection '{self._name}' was written with the encoder {document.get('versions')}, not {self._versions}"
            )
        return bytes.fromhex(document["key"])

    def _refusal(self, message: str) -> ConfigError:
        fix = "; name another collection.name, or set development.drop_collection_on_startup to true once"
        return ConfigError([Problem("milvus", 0, "collection.name", message + fix)])

    # -- reading -------------------------------------------------------------------------------------------------

    async def load(self, now_ms: int) -> AsyncIterator[Sequence[Entry]]:
        """See `Store.load`."""
        # By id from page to page: an offset is limited to 16,384 rows.
        last = ""
        while True:
            rows = await self._query(
                self._name,
                f'id > "{last}" and expires > {now_ms}',
                [*self._columns, "has_vector", self._settings.vector_field],
                _PAGE,
            )
            if not rows:
                return
            rows = sorted(rows, key=lambda row: str(row["id"]))
            last = str(rows[-1]["id"])
            yield [self._entry(row) for row in rows]
            if len(rows) < _PAGE:
                return

    async def answer(self, entry_id: str) -> bytes | None:
        """See `Store.answer`."""
        rows = await self._do("get", self._name, ids=[_literal(entry_id)], output_fields=["answer"])
        return _unpacked(rows[0]["answer"]) if rows else None

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
        return [
            (self._entry({**hit["entity"], "id": hit["id"]}), _similarity(hit["distance"], settings.metric_type))
            for hit in found[0]
        ]

    async def find(self, key: str, now_ms: int) -> Entry | None:
        """See `Store.find`."""
        rows = await self._query(self._name, f'key == "{_literal(key)}" and expires > {now_ms}', [*self._columns, "answer"], 1)
        return self._entry(rows[0]) if rows else None

    async def changes(self, since_ms: int) -> Changes:
        """See `Store.changes`."""
        entries: list[Entry] = []
        if since_ms:
            columns = [*self._columns, "has_vector", self._settings.vector_field]
            rows = await self._query(self._name, f"{self._settings.timestamp_field} >= {since_ms}", columns, 16_000)
            entries = [self._entry(row) for row in rows]
        rows = await self._query(self._control, f"created >= {max(since_ms, 1)}", ["id", "created", "document"], 16_000)
        return Changes(entries, [_notice(row) for row in sorted(rows, key=lambda row: int(row["created"]))])

    def _entry(self, row: Mapping[str, Any]) -> Entry:
        vector = row.get(self._settings.vector_field)
        return Entry(
            row["id"],
            row["key"],
            row["part"],
            row["scope"],
            row["decision"],
            row["model"],
            row["question"],
            _unpacked(row["answer"]) if row.get("answer") else b"",
            int(row[self._settings.timestamp_field]),
            int(row["expires"]),
            np.asarray(vector, np.float32) if vector is not None and row.get("has_vector", True) else None,
        )

    # -- writing -------------------------------------------------------------------------------------------------

    async def add(self, entries: Sequence[Entry]) -> None:
        """See `Store.add`. An answer that does not fit is left out: the process that has it still serves it."""
        rows = [row for entry in entries if (row := self._row(entry))]
        if rows:
            await self._do("upsert", self._name, data=rows)

    def _row(self, entry: Entry) -> dict[str, Any] | None:
        answer = packed(entry.answer)
        if len(answer) > MOST_STORED_BYTES or not _is_storable(entry.text):
            return None
        vector = entry.vector if entry.vector is not None else np.zeros(self._settings.dimension, np.float32)
        return {
            "id": entry.id,
            "key": entry.key,
            "part": entry.partition,
            "scope": entry.scope,
            "decision": entry.decision,
            "model": entry.model,
            "question": entry.text,
            "answer": answer,
            self._settings.timestamp_field: entry.created_ms,
            "expires": entry.expires_ms,
            "has_vector": entry.vector is not None,
            self._settings.vector_field: vector,
        }

    async def remove(self, selection: Selection) -> None:
        """See `Store.remove`."""
        if selection.ids is not None and selection == Selection(ids=selection.ids):
            await self._do("delete", self._name, ids=[_literal(entry_id) for entry_id in selection.ids])
            return
        parts = [f'{name} == "{_literal(value)}"' for name, value in self._named(selection) if value is not None]
        if selection.ids is not None:
            parts.append(f"id in {json.dumps([_literal(entry_id) for entry_id in selection.ids])}")
        if selection.before_ms is not None:
            parts.append(f"{self._settings.timestamp_field} < {selection.before_ms}")
        await self._do("delete", self._name, filter=" and ".join(parts) or f"expires < {_LATER_MS}")

    @staticmethod
    def _named(selection: Selection) -> list[tuple[str, str | None]]:
        return [("decision", selection.decision), ("model", selection.model), ("scope", selection.scope)]

    async def publish(self, notice: Notice) -> None:
        """See `Store.publish`."""
        selection = asdict(notice.selection) if notice.selection else None
        row = _control_row(notice.id, "notice", notice.created_ms, {"selection": selection, "pair": notice.pair})
        await self._do("upsert", self._control, data=[row])

    async def sweep(self, now_ms: int) -> None:
        """See `Store.sweep`."""
        if self._settings.sweeps:
            await self._do("delete", self._name, filter=f"expires <= {now_ms}")
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

    async def _do(self, call: str, collection: str, **arguments: Any) -> Any:
        """One request to Milvus, with at most `max_requests` of them at once."""
        if self._client is None:
            raise BackendError("closed")
        try:
            async with asyncio.timeout(self._settings.acquire_timeout_s):
                await self._slots.acquire()
        except TimeoutError:
            raise BackendError("busy") from None
        result = "ok"
        try:
            method: Callable[..., Coroutine[Any, Any, Any]] = getattr(self._client, call)
            return await self._guarded(method(collection, **arguments), self._settings.timeout_s)
        except BackendError as error:
            result = str(error)
            raise
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
                return await call
        except _FAILURES as error:
            if self._settings.shows_errors and not isinstance(error, TimeoutError):
                code = getattr(error, "code", "")
                self._log.warning("milvus failed: %s %s", type(error).__name__, code() if callable(code) else code)
            raise BackendError("unavailable" if not isinstance(error, TimeoutError) else "slow") from None


def packed(answer: bytes) -> str:
    """An answer as a VARCHAR holds it."""
    return base64.b85encode(zlib.compress(answer, 6)).decode()


def _unpacked(text: str) -> bytes:
    try:
        return zlib.decompress(base64.b85decode(text))
    except (ValueError, zlib.error):
        return b""


def _is_storable(text: str) -> bool:
    """Milvus takes UTF-8; half a surrogate pair, which JSON can hold, is none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _literal(value: str) -> str:
    """A value that may stand between quotes in a filter.

    Raises:
        BackendError: it holds a character that could end the quotes.
    """
    if not _WORD.fullmatch(value):
        raise BackendError("bad_value")
    return value


def _similarity(distance: float, metric: str) -> float:
    """Cosine similarity of unit vectors."""
    return 1 - distance / 2 if metric == "L2" else distance


def _control_row(row_id: str, kind: str, created_ms: int, document: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": row_id, "kind": kind, "created": created_ms, "document": json.dumps(document), "vector": [0.0, 1.0]}


def _notice(row: Mapping[str, Any]) -> Notice:
    document = json.loads(row["document"])
    selection, pair = document["selection"], document["pair"]
    if selection and selection["ids"] is not None:
        selection["ids"] = tuple(selection["ids"])
    return Notice(row["id"], int(row["created"]), Selection(**selection) if selection else None, tuple(pair) if pair else None)
