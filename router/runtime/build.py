"""From configuration to running parts. The only module that knows which concrete classes there are.

A new signal or instrument is one file elsewhere and one line here.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from router.config.cache import CacheConfig
from router.config.load import Config, TracingConfig
from router.core.cache_policy import CachePlan
from router.core.lookup import CachePolicy, CacheQuery, Found
from router.core.messages import ReadSignals
from router.core.policy import Readings
from router.core.prompt import KEYWORDS, reads_of
from router.core.snapshot import Snapshot
from router.core.types import Scores
from router.errors import ConfigError, Problem
from router.files import read_text
from router.inference.cores import usable_cores
from router.signals.base import Guard, Signal, collect, read_all
from router.telemetry import Instrument, Telemetry
from router.telemetry.logs import Logs
from router.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from router.cache.cache import Cache
    from router.cache.operations import CacheOperations
    from router.inference.bundle import Bundle
    from router.inference.encoder import Encoder
    from router.inference.pool import InferencePool


@dataclass(frozen=True, slots=True)
class SignalReader:
    """Takes the readings that an exchange asks for, all within one deadline."""

    signals: Mapping[str, Signal]
    deadline_s: float
    guards: Mapping[str, Guard] = field(default_factory=dict)
    """By the names of signals, `keywords NAME` among them."""
    guard_deadline_s: float = 30.0

    async def __call__(self, wanted: ReadSignals) -> Readings:
        """A reading, or `Missing`, for every name that is wanted."""
        own = [self.signals[name] for name in sorted(wanted.wanted) if name in self.signals]
        scans = {name: self._scan(name, wanted) for name in sorted(wanted.wanted) if name not in self.signals}
        if not scans:
            return await read_all(own, wanted.request, self.deadline_s)
        found = await asyncio.gather(read_all(own, wanted.request, self.deadline_s), collect(scans, self.guard_deadline_s))
        return {name: reading for readings in found for name, reading in readings.items()}

    def _scan(self, name: str, wanted: ReadSignals) -> Coroutine[Any, Any, Scores]:
        reads, signal = reads_of(name)
        if wanted.prompt is None:
            raise TypeError(f"{name} wants the prompt")
        prompt = wanted.prompt if reads == "prompt" else wanted.prompt.conversation
        return self.guards[signal].scan(prompt, wanted.request.text)


@dataclass(frozen=True, slots=True)
class Caching:
    """The cache, and what exchanges need to know of it once the key for scopes is there."""

    cache: Cache
    control: CacheOperations
    config: CacheConfig
    versions: str
    store_requests: Mapping[tuple[str, str], int] | None = None
    """Counted by the store while it runs; None when there is none."""

    def plan(self, key: bytes) -> CachePlan:
        """For `Snapshot.cache`."""
        return self.config.plan(key, self.versions)

    async def peek(self, question: CacheQuery, cache_policy: CachePolicy) -> tuple[Found, Mapping[str, Any]]:
        """For `explain`: what would be found, and what would be weighed, without a trace in the cache."""
        from router.cache.peek import peek

        return await peek(self.cache, question, cache_policy)


@dataclass(frozen=True, slots=True)
class Runtime:
    """The parts of one process."""

    config: Config
    snapshot: Snapshot
    senses: SignalReader
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
    wanted = config.policy.signals
    read = [reads_of(name) for name in wanted]
    guarded = frozenset(signal for reads, signal in read if reads != "message")
    bundle = encoder = passes = None
    if wanted or is_caching:
        from router.inference.pool import InferencePool

        threads, waiting = pass_threads(config), config.signals.guards
        passes = InferencePool(threads, config.signals.encoder.max_queue, threads * waiting.max_waiting * waiting.max_chars)
    if is_caching or any(not signal.startswith(f"{KEYWORDS} ") for _, signal in read):
        from router.inference.bundle import Bundle
        from router.inference.encoder import Encoder

        bundle = Bundle.load(config.signals.encoder.model_path)
        encoder = Encoder(bundle, passes, config.signals.encoder.max_chunks) if passes else None
    own = {name: folder for name, folder in config.signals.custom.items() if name in wanted | guarded}
    signals = _signals(wanted, bundle, encoder) if bundle and encoder else {}
    made = dict[str, Signal]()
    if bundle and encoder and passes and own:
        made = _own_signals(own, bundle, encoder, passes, config.signals.encoder.max_chunks)
    guards = _guards(guarded, config, bundle, encoder, passes, made) if passes and guarded else {}
    signals |= {name: signal for name, signal in made.items() if name in wanted}
    guards_s = config.signals.guards.deadline_ms / 1000
    senses = SignalReader(signals, config.signals.deadline_ms / 1000, guards, guards_s)
    caching = _caching(config.cache, bundle, encoder, passes) if bundle and encoder and passes and is_caching else None
    if caching and metrics:
        metrics.show_cache(caching.cache.gauges)
        metrics.show_cache_counts(caching.cache.counters)
        if caching.store_requests is not None:
            metrics.show_store(caching.store_requests)
    return Runtime(config, snapshot_of(config), senses, _telemetry(config, metrics, is_serving), metrics, caching)


def _signals(wanted: frozenset[str], bundle: Bundle, encoder: Encoder) -> dict[str, Signal]:
    """The signals that rules ask for, by name. All stand on the one encoder."""
    from router.signals.intent import Intent
    from router.signals.quality import Outcomes
    from router.signals.safety import Jailbreak, Personal

    made: tuple[Signal, ...] = (
        Intent(encoder, bundle.labels),
        Outcomes(encoder, bundle.models),
        Jailbreak(encoder, bundle.attacks, bundle.thresholds.get("jailbreak", 0.5)),
        Personal(encoder),
    )
    return {signal.name: signal for signal in made if signal.name in wanted}


def _guards(
    wanted: frozenset[str],
    config: Config,
    bundle: Bundle | None,
    encoder: Encoder | None,
    passes: InferencePool,
    own: Mapping[str, Signal],
) -> dict[str, Guard]:
    """What rules that block look for in everything that the model reads."""
    from router.signals.guards import ExportedGuard, JailbreakGuard, KeywordGuard, PersonalGuard
    from router.signals.own.huggingface import HuggingFaceSignal

    made: dict[str, Guard] = {
        name: ExportedGuard(signal, passes)
        for name, signal in own.items()
        if name in wanted and isinstance(signal, HuggingFaceSignal)
    }
    for name, words in config.keywords.items():
        if f"{KEYWORDS} {name}" in wanted:
            made[f"{KEYWORDS} {name}"] = KeywordGuard(name, words.patterns, passes)
    if bundle and encoder and "jailbreak" in wanted:
        made["jailbreak"] = JailbreakGuard(encoder, passes, bundle.attacks, bundle.thresholds.get("jailbreak", 0.5))
    if encoder and "pii" in wanted:
        made["pii"] = PersonalGuard(encoder, passes)
    return made


def _own_signals(
    folders: Mapping[str, Path], bundle: Bundle, encoder: Encoder, passes: InferencePool, max_windows: int
) -> dict[str, Signal]:
    """The operator's own signals: heads on the encoder's vector, and models of their own."""
    from router.inference.manifest import HeadManifest, facts_of
    from router.signals.own.head import Head, HeadSignal
    from router.signals.own.huggingface import HuggingFaceSignal

    made: dict[str, Signal] = {}
    for name, folder in folders.items():
        if isinstance(facts_of(folder), HeadManifest):
            made[name] = HeadSignal(name, encoder, Head.load(folder, bundle))
        else:
            made[name] = HuggingFaceSignal(name, folder, passes, max_windows)
    return made


def _caching(config: CacheConfig, bundle: Bundle, encoder: Encoder, passes: InferencePool) -> Caching:
    from router.cache.cache import Cache
    from router.cache.invalidation import Rejections
    from router.cache.operations import CacheOperations
    from router.cache.stores.sync import StoreSync
    from router.cache.verifier import GUARDS_VERSION, Verifier
    from router.inference.bundle import MODEL

    second = score = None
    if config.verifier:
        from router.inference.bundle import Bundle
        from router.inference.cross_encoder import CrossEncoder

        second = Bundle.load(config.verifier)
        score = CrossEncoder(second, passes).score
    _check_calibration(config, bundle.sha256[MODEL], second.sha256[MODEL] if second else None)
    versions = f"{bundle.name}-{bundle.sha256[MODEL][:16]}/{GUARDS_VERSION}"
    store_sync = requests = None
    if config.backend == "milvus":
        from router.cache.stores.milvus import MilvusStore

        store = MilvusStore(config.milvus, versions)
        store_sync, requests = StoreSync(store, config.pace), store.requests
    rejections = Rejections(config.rejections_file)
    cache = Cache(config.sizes, encoder.encode, Verifier(score), store_sync, rejections=rejections)
    return Caching(cache, CacheOperations(cache, versions), config, versions, requests)


def _check_calibration(config: CacheConfig, encoder: str, verifier: str | None) -> None:
    """A table made with other models says nothing about these. `encoder` and `verifier` are SHA-256."""
    if not config.bars.has_verifier and all(
        cache_policy.false_hit_budget is None for cache_policy in config.cache_policy.values()
    ):
        return
    table = json.loads(read_text(config.bars.file))
    if table["encoder_sha256"] == encoder and (verifier is None or table["verifier_sha256"] == verifier):
        return
    message = (
        "was made with other models than signals.encoder.model_path and semantic_cache.verifier.bundle name; make one for them with "
        "`semantic-router calibrate cache`, or set semantic_cache.verifier.enabled to false and leave max_false_hit_rate out"
    )
    raise ConfigError([Problem("config", 0, "semantic_cache.calibration", message)])


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


def pass_threads(config: Config) -> int:
    """Threads for model passes of each worker: as configured, or the cores that we may use shared out, at least one."""
    return config.server.threads or max(1, usable_cores() // config.server.workers)


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
