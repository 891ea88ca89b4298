"""Settings of the cache and of its store. Loads no library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

DIMENSION = 384
"""Length of the shipped encoder's vectors."""
OWN_COLUMNS = frozenset(("id", "key", "namespace", "scope", "decision", "model", "question", "answer", "expires", "has_vector"))
"""The columns of a store in Milvus, without the two that the operator may name."""
POLICIES = ("fifo", "lru", "lfu")


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """Bounds of memory and of time."""

    max_entries: int = 1000
    eviction_policy: str = "fifo"
    max_memory_bytes: int = 64 * 1024 * 1024
    """Bytes of answers in memory; the store has the others."""
    lookup_timeout_s: float = 0.1
    """A lookup that takes longer, in seconds, is a miss. The wait for a leader does not count."""
    store_timeout_s: float = 0.05
    """Seconds to wait for one answer of the store."""


@dataclass(frozen=True, slots=True)
class SyncSettings:
    """How often and how much the cache writes to its store, and how often it polls the store."""

    batch: int = 1000
    """Entries in one write."""
    queue: int = 10_000
    """Writes that may wait in the queue."""
    queue_bytes: int = 64 * 1024 * 1024
    """Bytes that these writes may take."""
    poll_interval_s: float = 1.0
    """Seconds between two polls for what other replicas wrote."""
    sweep_s: float = 60.0
    """Seconds between two sweeps of expired entries."""
    write_s: float = 30.0
    """A write that takes longer, in seconds, has failed."""
    drain_s: float = 5.0
    """Seconds to write the rest of the queue when the process ends."""


@dataclass(frozen=True, slots=True)
class MilvusSettings:
    """The store in Milvus, as config/cache/milvus.yaml configures it."""

    file: Path | None = None
    """Folder of Milvus Lite; None for a server."""
    host: str = "localhost"
    port: int = 19530
    database: str = ""
    timeout_s: float = 30.0
    username: str = ""
    password: str = ""
    is_tls: bool = False
    cert_file: str = ""
    key_file: str = ""
    ca_file: str = ""
    collection: str = "semantic_cache"
    description: str = ""
    vector_field: str = "embedding"
    dimension: int = 384
    metric_type: str = "IP"
    index_type: str = "HNSW"
    index_params: Mapping[str, int] = field(default_factory=lambda: {"M": 16, "efConstruction": 64})
    search_params: Mapping[str, int] = field(default_factory=lambda: {"ef": 64})
    topk: int = 10
    consistency_level: str = "Session"
    timestamp_field: str = "timestamp"
    max_requests: int = 10
    """Concurrent requests to Milvus."""
    acquire_timeout_s: float = 5.0
    drops_at_start: bool = False
    creates_collection: bool = True
    sweeps: bool = True
    compacts_s: float = 0.0
    """Seconds between two compactions; 0 for never."""
    log_level: str = "info"
    """Level of this store's own log lines."""
    logs_queries: bool = False
    """Log a line for each request to Milvus: its kind, never its text."""
    counts_requests: bool = True
    """Count requests to Milvus, and failures, for metrics."""
    shows_errors: bool = True
    """Log failures of Milvus by their kind."""

    @property
    def uri(self) -> str:
        """The address as pymilvus takes it."""
        if self.file:
            return str(self.file)
        return f"{'https' if self.is_tls else 'http'}://{self.host}:{self.port}"
