"""The Milvus file that `semantic_cache.backend_config_path` names, and where the store is without one."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from router.cache.settings import DIMENSION, OWN_COLUMNS, MilvusSettings, SyncSettings
from router.config.keys import Choice, FilePath, Flag, Integer, Number, Text, key, read, subsection
from router.config.reader import Notes, Section
from router.config.reader import parse as parse_yaml
from router.config.server import LOG_LEVEL
from router.files import is_file, read_text

LITE_FOLDER = "semantic_cache.db"
_INDEXES: Mapping[str, tuple[str, ...]] = {"HNSW": ("M", "efConstruction"), "IVF_FLAT": ("nlist",), "FLAT": (), "AUTOINDEX": ()}
"""Index types with their parameters."""
_SEARCH = {"HNSW": "ef", "IVF_FLAT": "nprobe"}
_SECRET = re.compile(r"\$\{(\w+)\}")
_NAME_WORDS = "a name of letters, digits and _"
_COLUMN = Text("name", _NAME_WORDS, r"[A-Za-z_]\w{0,200}")
_FILE = FilePath("file", may_be_empty=True)
_VALUE = Text("text, or `${NAME}`", may_be_empty=True)


# -- declarations ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AuthKeys:
    """The user."""

    enabled: bool = key(Flag(), "Log in.", False)
    username: str = key(_VALUE, "The user; `${NAME}` takes a value from the environment.", "", shown="none")
    password: str = key(_VALUE, "The password, likewise.", "", shown="none")

    def check(self, section: Section) -> None:
        """Who logs in has a name."""
        if self.enabled and not self.username:
            section.problem("username", "is missing, while auth.enabled is true")


@dataclass(frozen=True, slots=True)
class TlsKeys:
    """Encryption; files are looked for from the Milvus file's folder."""

    enabled: bool = key(Flag(), "Encrypt.", False)
    cert_file: str = key(_FILE, "The client's certificate.", "", shown="none")
    key_file: str = key(_FILE, "Its key.", "", shown="none")
    ca_file: str = key(_FILE, "Whom to trust.", "", shown="none")


@dataclass(frozen=True, slots=True)
class ConnectionKeys:
    """The server."""

    file: str = key(
        FilePath("folder"), "Milvus Lite in this folder, instead of a server; from `server.state_path` on.", "", shown="none"
    )
    host: str = key(Text("host"), "The server.", "localhost")
    port: int = key(Integer(1, 65_535), "Its port.", 19530)
    database: str = key(
        Text("name", _NAME_WORDS, r"\w{1,255}", may_be_empty=True),
        "Created if it does not exist; empty: Milvus' default database.",
        "",
        shown="the default database",
    )
    timeout: float = key(Number(0.1, 600), "Seconds for one request; after it the store counts as unavailable.", 30.0)
    auth: AuthKeys = subsection(AuthKeys, "The user.")
    tls: TlsKeys = subsection(TlsKeys, "Encryption.")

    def check(self, section: Section) -> None:
        """A file is no server."""
        for name in ("host", "port", "database"):
            if self.file and section.has(name):
                section.problem(name, "could do nothing: connection.file names Milvus Lite's file, not a server")


@dataclass(frozen=True, slots=True)
class VectorKeys:
    """The column of vectors."""

    name: str = key(_COLUMN, "The column's name.", "embedding")
    dimension: int = key(Integer(1, 32_768), "As the encoder has it; anything else is refused.", DIMENSION)
    metric_type: str = key(
        Choice(("IP", "COSINE", "L2")), "How vectors are compared; they have unit length, so all three rank alike.", "IP"
    )

    def check(self, section: Section) -> None:
        """The vectors fit."""
        if self.dimension != DIMENSION:
            section.problem("dimension", f"the encoder gives vectors of {DIMENSION} numbers")


@dataclass(frozen=True, slots=True)
class IndexParamsKeys:
    """Parameters of an index; those of other types are refused."""

    M: int = key(Integer(4, 64), "Of HNSW.", 16)
    efConstruction: int = key(Integer(8, 512), "Of HNSW.", 64)  # noqa: N815 - Milvus' own name
    nlist: int = key(Integer(1, 65_536), "Of IVF_FLAT.", 128)


@dataclass(frozen=True, slots=True)
class IndexKeys:
    """The index."""

    type: str = key(Choice(tuple(_INDEXES)), "Type of the index.", "HNSW")
    params: IndexParamsKeys = subsection(IndexParamsKeys, "Its parameters.")

    def check(self, section: Section) -> None:
        """Only parameters that this type has."""
        params = section.section("params")
        for name in ("M", "efConstruction", "nlist"):
            if params.has(name) and name not in _INDEXES[self.type]:
                params.problem(name, f"could do nothing: an index of type {self.type} has no such parameter")


@dataclass(frozen=True, slots=True)
class CollectionKeys:
    """The collection."""

    name: str = key(_COLUMN, "Its invalidations are in a second one, `NAME_control`.", "semantic_cache")
    description: str = key(Text(may_be_empty=True), "Seen in Milvus.", "", shown="none")
    vector_field: VectorKeys = subsection(VectorKeys, "The column of vectors.")
    index: IndexKeys = subsection(IndexKeys, "The index.")


@dataclass(frozen=True, slots=True)
class SearchParamsKeys:
    """Parameters of a search; those of other index types are refused."""

    ef: int = key(Integer(1, 32_768), "Of HNSW.", 64)
    nprobe: int = key(Integer(1, 32_768), "Of IVF_FLAT.", 16)


@dataclass(frozen=True, slots=True)
class SearchKeys:
    """How candidates are looked for."""

    params: SearchParamsKeys = subsection(SearchParamsKeys, "Parameters of the search.")
    topk: int = key(
        Integer(1, 100),
        "How many neighbours Milvus is asked for. Of these, as of those in memory, the verifier reads three at most.",
        10,
    )
    consistency_level: str = key(
        Choice(("Strong", "Session", "Bounded", "Eventually")), "Strong waits 200 ms for each search.", "Session"
    )


@dataclass(frozen=True, slots=True)
class PoolKeys:
    """Requests to Milvus."""

    max_connections: int = key(Integer(1, 1000), "Concurrent requests to Milvus, all over one gRPC channel.", 10)
    acquire_timeout: float = key(Number(0.01, 600), "Seconds to wait for one of them.", 5.0)
    max_idle_connections: object = key(Integer(0, 1000), "Refused: there is one channel.", None, shown=" ")

    def check(self, section: Section) -> None:
        """The seed's key that cannot act."""
        if section.has("max_idle_connections"):
            section.problem("max_idle_connections", "could do nothing: one gRPC channel carries all requests; remove the key")


@dataclass(frozen=True, slots=True)
class BatchKeys:
    """Writes."""

    insert_batch_size: int = key(Integer(1, 10_000), "Entries in one write.", SyncSettings().batch)
    timeout: float = key(Number(0.1, 600), "Seconds for it; then it is tried again.", SyncSettings().write_s)


@dataclass(frozen=True, slots=True)
class PerformanceKeys:
    """How much at once."""

    connection_pool: PoolKeys = subsection(PoolKeys, "Requests.")
    batch: BatchKeys = subsection(BatchKeys, "Writes.")


@dataclass(frozen=True, slots=True)
class TtlKeys:
    """Expired entries."""

    enabled: bool = key(Flag(), "Delete expired entries. They are never served, deleted or not.", True)
    cleanup_interval: float = key(Number(1, 10**7), "Seconds between two deletions.", SyncSettings().sweep_s)
    timestamp_field: str = key(_COLUMN, "Column of an entry's creation time.", "timestamp")


@dataclass(frozen=True, slots=True)
class CompactionKeys:
    """Compaction."""

    enabled: bool = key(Flag(), "Have Milvus compact.", False)
    interval: float = key(Number(60, 10**8), "Seconds between two compactions.", 86_400.0)


@dataclass(frozen=True, slots=True)
class DataKeys:
    """What is tidied up."""

    ttl: TtlKeys = subsection(TtlKeys, "Expired entries.")
    compaction: CompactionKeys = subsection(CompactionKeys, "Compaction.")


@dataclass(frozen=True, slots=True)
class LoggingKeys:
    """What the store says."""

    level: str = key(LOG_LEVEL, "Of the store's own lines.", "info")
    enable_query_log: bool = key(Flag(), "A line for each request to Milvus: its kind and result, never its contents.", False)
    enable_metrics: bool = key(Flag(), "Metrics of requests to Milvus.", True)


@dataclass(frozen=True, slots=True)
class DevelopmentKeys:
    """For trying things out."""

    drop_collection_on_startup: bool = key(Flag(), "Forget everything at each start; not when a connection comes back.", False)
    auto_create_collection: bool = key(Flag(), "False: a missing collection is an error.", True)
    verbose_errors: bool = key(Flag(), "Log the kind and code of what failed.", True)


@dataclass(frozen=True, slots=True)
class MilvusKeys:
    """The whole file."""

    connection: ConnectionKeys = subsection(ConnectionKeys, "The server.")
    collection: CollectionKeys = subsection(CollectionKeys, "The collection.")
    search: SearchKeys = subsection(SearchKeys, "How candidates are looked for.")
    performance: PerformanceKeys = subsection(PerformanceKeys, "How much at once.")
    data_management: DataKeys = subsection(DataKeys, "What is tidied up.")
    logging: LoggingKeys = subsection(LoggingKeys, "What the store says.")
    development: DevelopmentKeys = subsection(DevelopmentKeys, "For trying things out.")


# -- readers ---------------------------------------------------------------------------------------------------------


def read_store(
    section: Section, backend: str, path: str, state_path: Path, *, is_caching: bool
) -> tuple[MilvusSettings, SyncSettings]:
    """Where `semantic_cache` stores: as its Milvus file says, or in Milvus Lite under `state_path` when it names none."""
    if backend != "milvus":
        if path:
            what = "has no store" if backend == "memory" else "reads no file"
            section.problem("backend_config_path", f"could do nothing: backend_type '{backend}' {what}")
        return MilvusSettings(), SyncSettings()
    if not path:
        return MilvusSettings(file=state_path / LITE_FOLDER), SyncSettings()
    if not is_caching:
        return MilvusSettings(), SyncSettings()
    places = dict.fromkeys((Path(section.notes.file).parent / path, Path(path)))
    for file in places:
        try:
            text = read_text(file)
        except (OSError, UnicodeDecodeError):
            continue
        notes = Notes(str(file))
        settings, sync = read_milvus(parse_yaml(text, notes), state_path)
        section.notes.problems.extend(notes.problems)
        return settings, sync
    section.problem("backend_config_path", f"there is no file {' and no file '.join(map(str, places))} that can be read")
    return MilvusSettings(), SyncSettings()


def read_milvus(top: Section, state_path: Path | None = None) -> tuple[MilvusSettings, SyncSettings]:
    """Every key of the Milvus file. Milvus Lite's folder is looked for from `state_path` on, or from this file's folder."""
    keys = read(top, MilvusKeys)
    search = top.section("search").section("params")
    wanted = _SEARCH.get(keys.collection.index.type)
    for name in ("ef", "nprobe"):
        if search.has(name) and name != wanted:
            search.problem(name, f"could do nothing: an index of type {keys.collection.index.type} is not searched with it")
    _check_columns(top, keys)
    settings = _with_connection(MilvusSettings(), keys.connection, top.section("connection"), state_path)
    settings = _with_collection(settings, keys.collection)
    settings = replace(
        settings,
        search_params={wanted: getattr(keys.search.params, wanted)} if wanted else {},
        topk=keys.search.topk,
        consistency_level=keys.search.consistency_level,
        max_requests=keys.performance.connection_pool.max_connections,
        acquire_timeout_s=keys.performance.connection_pool.acquire_timeout,
        sweeps=keys.data_management.ttl.enabled,
        timestamp_field=keys.data_management.ttl.timestamp_field,
        compacts_s=keys.data_management.compaction.interval if keys.data_management.compaction.enabled else 0.0,
        log_level=keys.logging.level,
        logs_queries=keys.logging.enable_query_log,
        counts_requests=keys.logging.enable_metrics,
        drops_at_start=keys.development.drop_collection_on_startup,
        creates_collection=keys.development.auto_create_collection,
        shows_errors=keys.development.verbose_errors,
    )
    batch = keys.performance.batch
    sync = SyncSettings(batch=batch.insert_batch_size, write_s=batch.timeout, sweep_s=keys.data_management.ttl.cleanup_interval)
    return settings, sync


def _check_columns(top: Section, keys: MilvusKeys) -> None:
    """Every column has a name of its own."""
    vectors, times = top.section("collection").section("vector_field"), top.section("data_management").section("ttl")
    vector, timestamp = keys.collection.vector_field.name, keys.data_management.ttl.timestamp_field
    for section, name, value in ((vectors, "name", vector), (times, "timestamp_field", timestamp)):
        if value in OWN_COLUMNS:
            section.problem(name, f"the store has a column '{value}' of its own; choose another name")
    if vector == timestamp:
        section, name = (times, "timestamp_field") if times.has("timestamp_field") else (vectors, "name")
        section.problem(
            name, f"'{vector}' is the name of the other column, too (collection.vector_field.name, ttl.timestamp_field)"
        )


def _with_connection(settings: MilvusSettings, keys: ConnectionKeys, section: Section, state_path: Path | None) -> MilvusSettings:
    folder = Path(section.notes.file).parent
    auth, tls = section.section("auth"), section.section("tls")
    return replace(
        settings,
        file=((state_path or folder) / keys.file).absolute() if keys.file else None,
        host=keys.host,
        port=keys.port,
        database=keys.database,
        timeout_s=keys.timeout,
        username=_secret(auth, "username", keys.auth.username) if keys.auth.enabled else "",
        password=_secret(auth, "password", keys.auth.password) if keys.auth.enabled else "",
        is_tls=keys.tls.enabled,
        cert_file=_existing(tls, "cert_file", keys.tls.cert_file, folder) if keys.tls.enabled else "",
        key_file=_existing(tls, "key_file", keys.tls.key_file, folder) if keys.tls.enabled else "",
        ca_file=_existing(tls, "ca_file", keys.tls.ca_file, folder) if keys.tls.enabled else "",
    )


def _with_collection(settings: MilvusSettings, keys: CollectionKeys) -> MilvusSettings:
    params = {name: getattr(keys.index.params, name) for name in _INDEXES[keys.index.type]}
    return replace(
        settings,
        collection=keys.name,
        description=keys.description,
        vector_field=keys.vector_field.name,
        metric_type=keys.vector_field.metric_type,
        index_type=keys.index.type,
        index_params=params,
    )


def _existing(section: Section, name: str, value: str, folder: Path) -> str:
    """An existing file, by a path from the folder of the configuration; empty when none is named."""
    path = folder / value
    if value and not is_file(path):
        section.problem(name, f"there is no file {path}")
    return str(path) if value else ""


def _secret(section: Section, name: str, value: str) -> str:
    """A value, or `${NAME}` for a variable of the environment: passwords need not stand in a file."""
    if found := _SECRET.fullmatch(value):
        if found[1] not in os.environ:
            section.problem(name, f"the environment has no variable {found[1]}")
        return os.environ.get(found[1], "")
    return value
