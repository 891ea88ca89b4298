"""The two collections of a store in Milvus: creates them when they are missing, and checks them.

Uses the synchronous client of pymilvus, because Milvus Lite lacks a call that the asynchronous one needs. Call it in a thread.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from pymilvus import CollectionSchema, DataType, MilvusClient

from router.cache.settings import MilvusSettings
from router.cache.stores.rows import MAX_STORED_BYTES, Row
from router.errors import ConfigError, Problem

FORM = 1
"""Version of the row format. Rows of another format need another collection."""
_KEY_BYTES = 32


class Collections:
    """The collection of entries, and `<name>_control` with the row format, the key that hides scopes, and the invalidations."""

    def __init__(self, settings: MilvusSettings, versions: str) -> None:
        self._settings, self._versions = settings, versions
        self.name, self.control = settings.collection, f"{settings.collection}_control"
        self._drops = settings.drops_at_start
        self._options: Mapping[str, object] = {}

    def prepare(self, options: Mapping[str, object]) -> bytes:
        """Create and check both collections, and return the key that hides scopes. `options` are those of a client.

        Raises:
            ConfigError: another program wrote the collection, or a missing collection must not be created.
        """
        self._options, settings = options, self._settings
        if settings.database:
            self._make_database()
        client = MilvusClient(**self._options)
        try:
            if self._drops:
                for name in (self.name, self.control):
                    if client.has_collection(name):
                        client.drop_collection(name)
                self._drops = False  # only at the start, not when the connection comes back
            # In parallel, because a server takes three seconds or more for each.
            with ThreadPoolExecutor(2, thread_name_prefix="milvus-prepare") as pool:
                list(pool.map(self._make, (self.name, self.control)))
            self._check(client)
            return self._identify(client)
        finally:
            client.close()

    def _make_database(self) -> None:
        client = MilvusClient(**{**self._options, "db_name": ""})
        try:
            if self._settings.database not in client.list_databases():
                client.create_database(self._settings.database)
        finally:
            client.close()

    def _make(self, name: str) -> None:
        """Create a collection if it is missing, and load it."""
        settings, client = self._settings, MilvusClient(**self._options)
        try:
            if not client.has_collection(name):
                if not settings.creates_collection:
                    message = f"there is no collection '{name}'; make it, or set development.auto_create_collection to true"
                    raise ConfigError([Problem("milvus", 0, "development.auto_create_collection", message)])
                index, is_control = client.prepare_index_params(), name == self.control
                if is_control:
                    index.add_index("vector", index_type="FLAT", metric_type="L2")
                else:
                    kind, params = settings.index_type, dict(settings.index_params)
                    index.add_index(settings.vector_field, index_type=kind, metric_type=settings.metric_type, params=params)
                schema = self._control_schema(client) if is_control else self._schema(client)
                level = "Strong" if is_control else settings.consistency_level
                client.create_collection(name, schema=schema, consistency_level=level)
                # Milvus Lite builds its index at once, and lacks the clock that pymilvus would use to wait for it.
                client.create_index(name, index, sync=settings.file is None)
            client.load_collection(name)
        finally:
            client.close()

    def _schema(self, client: MilvusClient) -> CollectionSchema:
        settings = self._settings
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False, description=settings.description)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=32)
        lengths = {"key": 32, "namespace": 32, "scope": 64, "decision": 256, "model": 256, "question": 16_384}
        for name, length in lengths.items():
            schema.add_field(name, DataType.VARCHAR, max_length=length)
        schema.add_field("answer", DataType.VARCHAR, max_length=MAX_STORED_BYTES)
        schema.add_field(settings.timestamp_field, DataType.INT64)
        schema.add_field("expires", DataType.INT64)
        schema.add_field("has_vector", DataType.BOOL)
        schema.add_field(settings.vector_field, DataType.FLOAT_VECTOR, dim=settings.dimension)
        return schema

    def _control_schema(self, client: MilvusClient) -> CollectionSchema:
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=32)
        schema.add_field("kind", DataType.VARCHAR, max_length=16)
        schema.add_field("created", DataType.INT64)
        schema.add_field("document", DataType.VARCHAR, max_length=MAX_STORED_BYTES)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)  # Milvus 2.3 has no collection without one
        return schema

    def _check(self, client: MilvusClient) -> None:
        """Check that the collection has the columns of `_schema`."""
        found = {one["name"]: one for one in client.describe_collection(self.name)["fields"]}
        wanted = {one.name: one for one in self._schema(client).fields}
        if missing := wanted.keys() - found.keys():
            raise self._refusal(f"collection '{self.name}' has no column {', '.join(sorted(missing))}: another program made it")
        for name, one in wanted.items():
            if found[name]["type"] != one.dtype:
                raise self._refusal(f"column '{name}' of collection '{self.name}' has another type: another program made it")
        dimension = int(found[self._settings.vector_field]["params"]["dim"])
        if dimension != self._settings.dimension:
            raise self._refusal(
                f"collection '{self.name}' holds vectors of {dimension} numbers, the encoder gives {self._settings.dimension}"
            )

    def _identify(self, client: MilvusClient) -> bytes:
        """Check format and encoder of the stored data, and return the key that hides scopes. The first replica writes them."""
        rows = client.query(self.control, filter='kind == "form"', output_fields=["id", "document"], limit=10)
        if not rows:
            mine = {"form": FORM, "versions": self._versions, "key": os.urandom(_KEY_BYTES).hex()}
            client.insert(self.control, [control_row("form", "form", 0, mine)])
            rows = client.query(self.control, filter='kind == "form"', output_fields=["id", "document"], limit=10)
        document = _document_of(rows[0]) if rows else {}
        if document.get("form") != FORM:
            raise self._refusal(
                f"collection '{self.name}' was written in format {document.get('form')}, and this router uses {FORM}"
            )
        if document.get("versions") != self._versions:
            raise self._refusal(
                f"collection '{self.name}' was written with the encoder {document.get('versions')}, not {self._versions}"
            )
        try:
            return bytes.fromhex(str(document["key"]))
        except (KeyError, TypeError, ValueError):
            raise self._refusal(f"collection '{self.control}' holds no key for scopes: another program wrote it") from None

    def _refusal(self, message: str) -> ConfigError:
        fix = "; name another collection.name, or set development.drop_collection_on_startup to true once"
        return ConfigError([Problem("milvus", 0, "collection.name", message + fix)])


def control_row(row_id: str, kind: str, created_ms: int, document: Mapping[str, object]) -> dict[str, object]:
    """A row of the control collection."""
    return {"id": row_id, "kind": kind, "created": created_ms, "document": json.dumps(document), "vector": [0.0, 1.0]}


def _document_of(row: Row) -> dict[str, object]:
    """The document of a control row; empty when it is invalid."""
    try:
        document = json.loads(row["document"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
