"""How the cache may be set up. Plain values: nothing here loads a library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

DIMENSION = 384
"""Of the shipped encoder's vectors."""
POLICIES = ("fifo", "lru", "lfu")


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """What the cache may take up, and how long it may take."""

    max_entries: int = 1000
    eviction_policy: str = "fifo"
    most_held_bytes: int = 64 * 1024 * 1024
    """Of answers in this process; the store has the others."""
    lookup_s: float = 0.1
    """For a lookup without waiting for another request; after it the lookup is a miss."""
    store_wait_s: float = 0.05


@dataclass(frozen=True, slots=True)
class SyncSettings:
    """How often the store is worked with, and how much at once."""

    batch: int = 1000
    """Entries in one write."""
    queue: int = 10_000
    """Writes that may wait."""
    queue_bytes: int = 64 * 1024 * 1024
    """And what they may take up."""
    follow_s: float = 1.0
    """Between two looks at what others wrote."""
    sweep_s: float = 60.0
    """Between two sweeps of what has expired."""
    write_s: float = 30.0
    """A write that takes longer counts as failed."""
    drain_s: float = 5.0


@dataclass(frozen=True, slots=True)
class MilvusSettings:
    """Everything that config/cache/milvus.yaml may say about the store itself."""

    file: Path | None = None
    """Of Milvus Lite; None for a server."""
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
    """Requests to the server at once."""
    acquire_timeout_s: float = 5.0
    drops_at_start: bool = False
    creates_collection: bool = True
    sweeps: bool = True
    compacts_s: float = 0.0
    """Between two compactions; 0 for never."""
    log_level: str = "info"
    """Of this store's own log lines."""
    logs_queries: bool = False
    """One line for each request to Milvus: its kind, never what was asked."""
    counts_requests: bool = True
    """Show requests to Milvus, and those that failed, as metrics."""
    shows_errors: bool = True

    @property
    def uri(self) -> str:
        """As pymilvus takes it."""
        if self.file:
            return str(self.file)
        return f"{'https' if self.is_tls else 'http'}://{self.host}:{self.port}"
