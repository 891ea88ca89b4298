"""From configuration to running parts. The only module that knows which concrete classes there are.

A new signal or instrument is one file elsewhere and one line here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

from router.config import Config, TracingConfig
from router.core.exchange import Snapshot
from router.core.policy import Readings, signals_of
from router.core.types import Sense
from router.signals.base import Signal, read_all
from router.telemetry import Instrument, Telemetry
from router.telemetry.logs import Logs
from router.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Senses:
    """Takes the readings that an exchange asks for, all within one deadline."""

    signals: Mapping[str, Signal]
    deadline_s: float

    async def __call__(self, wanted: Sense) -> Readings:
        """A reading, or `Missing`, for every signal that is wanted."""
        return await read_all([self.signals[name] for name in sorted(wanted.wanted)], wanted.request, self.deadline_s)


@dataclass(frozen=True, slots=True)
class Runtime:
    """The parts of one process."""

    config: Config
    snapshot: Snapshot
    senses: Senses
    telemetry: Telemetry
    metrics: Metrics | None


def build(config: Config, *, is_serving: bool = True) -> Runtime:
    """Make every part that the configuration switches on, and none that it does not.

    `is_serving` is false for a command that only looks: it gets no instruments.

    Raises:
        ConfigError: a part cannot be made, such as a model whose file is damaged.
    """
    metrics = Metrics() if config.telemetry.metrics and is_serving else None
    return Runtime(config, snapshot_of(config), senses_of(config), _telemetry(config, metrics, is_serving), metrics)


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


def senses_of(config: Config) -> Senses:
    """The signals that rules read. One that no rule reads is not loaded."""
    wanted = frozenset[str]().union(*(signals_of(rule.when) for rule in config.policy.rules))
    signals: dict[str, Signal] = {}
    if "intent" in wanted:
        from router.signals.bundle import Bundle
        from router.signals.intent import Intent
        from router.signals.onnx import Encoder

        bundle = Bundle.load(config.signals.intent.bundle)
        encoder = Encoder(bundle, encoder_threads(config), config.signals.intent.max_waiting)
        signals["intent"] = Intent(encoder, bundle.labels)
    return Senses(signals, config.signals.deadline_ms / 1000)


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
