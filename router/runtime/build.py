"""From configuration to running parts. With `build_signals` and `build_cache` the only modules that know the concrete classes.

A new signal, store or instrument is one file elsewhere and one line in one of the three.
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
    """Make every part that the configuration switches on, and none that it does not.

    `is_serving` is false for a command that only looks: it gets no instruments and no cache.

    Raises:
        ConfigError: a part cannot be made, such as a model whose file is damaged.
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
    """What exchanges need of the configuration."""
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
        guard_patience_s=config.signals.deadline_ms / 1000,  # `check` holds Envoy's message_timeout to more than this
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
