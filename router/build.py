"""From configuration to running parts. The only module that knows which concrete classes there are.

A new signal or instrument is one file elsewhere and one line here.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from router.cacheconfig import CALIBRATION, CacheConfig
from router.config import Config, TracingConfig
from router.core.caching import CachePlan
from router.core.exchange import Snapshot
from router.core.policy import Readings, signals_of
from router.core.types import Sense
from router.errors import ConfigError, Problem
from router.signals.base import Signal, read_all
from router.telemetry import Instrument, Telemetry
from router.telemetry.logs import Logs
from router.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from router.cache.control import Control
    from router.cache.tiers import Cache
    from router.signals.bundle import Bundle
    from router.signals.onnx import Encoder


@dataclass(frozen=True, slots=True)
class Senses:
    """Takes the readings that an exchange asks for, all within one deadline."""

    signals: Mapping[str, Signal]
    deadline_s: float

    async def __call__(self, wanted: Sense) -> Readings:
        """A reading, or `Missing`, for every signal that is wanted."""
        return await read_all([self.signals[name] for name in sorted(wanted.wanted)], wanted.request, self.deadline_s)


@dataclass(frozen=True, slots=True)
class Caching:
    """The cache, and what exchanges need to know of it once the key for scopes is there."""

    cache: Cache
    control: Control
    config: CacheConfig
    versions: str
    store_requests: Mapping[tuple[str, str], int] | None = None
    """Counted by the store while it runs; None when there is none."""

    def plan(self, key: bytes) -> CachePlan:
        """For `Snapshot.cache`."""
        return self.config.plan(key, self.versions)


@dataclass(frozen=True, slots=True)
class Runtime:
    """The parts of one process."""

    config: Config
    snapshot: Snapshot
    senses: Senses
    telemetry: Telemetry
    metrics: Metrics | None
    caching: Caching | None = None


def build(config: Config, *, is_serving: bool = True) -> Runtime:
    """Make every part that the configuration switches on, and none that it does not.

    `is_serving` is false for a command that only looks: it gets no instruments.

    Raises:
        ConfigError: a part cannot be made, such as a model whose file is damaged.
    """
    metrics = Metrics() if config.telemetry.metrics and is_serving else None
    is_caching = config.cache.enabled and is_serving
    wanted = frozenset[str]().union(*(signals_of(rule.when) for rule in config.policy.rules))
    bundle = encoder = None
    if "intent" in wanted or is_caching:
        from router.signals.bundle import Bundle
        from router.signals.onnx import Encoder

        bundle = Bundle.load(config.signals.intent.bundle)
        encoder = Encoder(bundle, encoder_threads(config), config.signals.intent.max_waiting)
    signals: dict[str, Signal] = {}
    if encoder and bundle and "intent" in wanted:
        from router.signals.intent import Intent

        signals["intent"] = Intent(encoder, bundle.labels)
    senses = Senses(signals, config.signals.deadline_ms / 1000)
    caching = _caching(config.cache, bundle, encoder) if bundle and encoder and is_caching else None
    if caching and metrics:
        metrics.show_cache(caching.cache.gauges)
        if caching.store_requests is not None:
            metrics.show_store(caching.store_requests)
    return Runtime(config, snapshot_of(config), senses, _telemetry(config, metrics, is_serving), metrics, caching)


def _caching(config: CacheConfig, bundle: Bundle, encoder: Encoder) -> Caching:
    from router.cache.control import Control
    from router.cache.keeper import Keeper
    from router.cache.tiers import Cache
    from router.cache.verifier import GUARDS_VERSION, verify
    from router.signals.bundle import MODEL

    _check_calibration(config, bundle.sha256[MODEL])
    versions = f"{bundle.name}-{bundle.sha256[MODEL][:16]}/{GUARDS_VERSION}"
    keeper = requests = None
    if config.backend == "milvus":
        from router.cache.milvus import MilvusStore

        store = MilvusStore(config.milvus, versions)
        keeper, requests = Keeper(store, config.pace), store.requests
    cache = Cache(config.sizes, encoder.encode, verify, keeper)
    return Caching(cache, Control(cache, versions), config, versions, requests)


def _check_calibration(config: CacheConfig, sha256: str) -> None:
    """A table made with another encoder says nothing about this one."""
    has_budget = any(terms.false_hit_budget is not None for terms in config.terms.values())
    if has_budget and json.loads(CALIBRATION.read_text(encoding="utf-8"))["encoder_sha256"] != sha256:
        message = (
            "was calibrated for the shipped encoder, and signals.intent.bundle names another; set similarity_threshold instead"
        )
        raise ConfigError([Problem("config", 0, "semantic_cache.max_false_hit_rate", message)])


def snapshot_of(config: Config) -> Snapshot:
    """What exchanges need of the configuration."""
    return Snapshot(
        config.policy,
        config.models,
        config.auto_models,
        config.families,
        config.server.max_body_bytes,
        records_usage=config.telemetry.usage,
        started_s=int(time.time()),
    )


def encoder_threads(config: Config) -> int:
    """Encoder threads of each worker: as configured, or the cores shared out, at least one."""
    return config.server.threads or max(1, (os.cpu_count() or 1) // config.server.workers)


def _telemetry(config: Config, metrics: Metrics | None, is_serving: bool) -> Telemetry:
    instruments: list[Instrument] = []
    if metrics:
        instruments.append(metrics)
    if config.telemetry.tracing.enabled and is_serving:
        instruments.append(_tracing(config.telemetry.tracing))
    if is_serving:
        logs = Logs(config.telemetry.log_level, config.telemetry.log_outcomes)
        instruments.append(logs)
        if metrics:
            metrics.show_dropped_lines(lambda: logs.dropped_count)
    return Telemetry(instruments)


def _tracing(config: TracingConfig) -> Instrument:
    from router.telemetry.tracing import Tracing

    return Tracing(config.endpoint, config.insecure, config.sample_ratio, config.service_name)
