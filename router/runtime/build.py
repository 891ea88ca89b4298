"""Builds the parts of a process from its configuration. Only `build*.py` know the concrete classes.

A new signal, store or instrument is one file elsewhere and one line in one of these modules.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from router.config.load import Config
from router.config.server import TracingConfig
from router.core.snapshot import Snapshot
from router.runtime.build_cache import Caching, build_cache
from router.runtime.build_signals import SignalReader, build_models, build_passes, build_signals, needs_encoder
from router.telemetry import Instrument, Telemetry
from router.telemetry.logs import Logs
from router.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Runtime:
    """The parts of one process."""

    config: Config
    snapshot: Snapshot
    signal_reader: SignalReader
    telemetry: Telemetry
    metrics: Metrics | None
    caching: Caching | None = None


def build(config: Config, *, is_serving: bool = True) -> Runtime:
    """Build the parts that the configuration switches on, and no others.

    `is_serving` is false for commands that serve no traffic: they get no instruments and no cache.

    Raises:
        ConfigError: a part cannot be built, for example because a model file is damaged.
    """
    metrics = Metrics() if config.telemetry.metrics and is_serving else None
    is_caching = config.cache.enabled and is_serving
    passes = build_passes(config) if config.policy.signals or is_caching else None
    models = build_models(config, passes) if passes and (is_caching or needs_encoder(config)) else None
    signals = build_signals(config, passes, models)
    caching = build_cache(config.cache, models) if models and is_caching else None
    if caching and metrics:
        metrics.show_cache(caching.cache.gauges)
        metrics.show_cache_counts(caching.cache.counters)
        if caching.store_requests is not None:
            metrics.show_store(caching.store_requests)
    return Runtime(config, snapshot_of(config), signals, _telemetry(config, metrics, is_serving), metrics, caching)


def snapshot_of(config: Config) -> Snapshot:
    """The part of the configuration that exchanges need."""
    return Snapshot(
        config.policy,
        config.models,
        config.virtual_models,
        config.families,
        config.server.max_body_bytes,
        records_usage=config.telemetry.track_token_usage,
        started_s=int(time.time()),
        bounds=config.server.bounds,
        max_guard_chars=config.signals.guards.max_chars,
        guard_deadline_s=config.signals.guards.deadline_ms / 1000,
        guard_patience_s=config.signals.deadline_ms / 1000,  # `check` requires that Envoy's message_timeout is longer
    )


def _telemetry(config: Config, metrics: Metrics | None, is_serving: bool) -> Telemetry:
    instruments: list[Instrument] = []
    if metrics:
        instruments.append(metrics)
    if config.telemetry.tracing.enabled and is_serving:
        instruments.append(_tracing(config.telemetry.tracing))
    if is_serving:
        logs = Logs(config.telemetry.log_level, config.telemetry.access_log)
        instruments.append(logs)
        if metrics:
            metrics.show_dropped_lines(lambda: logs.dropped_count)
    return Telemetry(instruments)


def _tracing(config: TracingConfig) -> Instrument:
    from router.telemetry.tracing import Tracing

    return Tracing(config.endpoint, config.insecure, config.sample_ratio, config.service_name)
