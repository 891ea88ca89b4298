"""Metrics through OpenTelemetry, for Prometheus to fetch. Names follow vLLM Semantic Router's of October 2025 where one fits.

Labels take values from the configuration or from fixed words alone, so their number is bounded whatever clients send.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from itertools import product
from time import perf_counter
from typing import get_args

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Histogram, Meter, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, generate_latest

from router.core.exchange_record import Ending, ExchangeRecord
from router.core.lookup import CacheStatus
from router.core.types import EndpointWord

_FAST_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_SLOW_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_LAG_EVERY_S = 0.5
_CACHE = {
    "llm_cache_entries": "Entries in this process",
    "llm_cache_memory_bytes": "Bytes of their answers in memory",
    "llm_cache_inflight_queries": "Questions on their way to a model whose answers others may wait for",
    "llm_cache_store_up": "Whether the store could be reached when it was last tried: 1 or 0",
    "llm_cache_store_pending_writes": "Writes that wait for the store",
    "llm_cache_evictions": "Entries that left for want of room",
    "llm_cache_expirations": "Entries that were forgotten because their time was over",
    "llm_cache_store_dropped_writes": "Writes to the store that were given up",
    "llm_cache_store_refused_writes": "Writes that the store cannot take",
}
"""What the cache's own metrics mean."""


class _Count:
    """One family of counts, which OpenTelemetry reads when it is asked.

    Measured on the SDK 1.45: `Counter.add` takes 5 to 6 us, this 0.3 us, and an exchange counts eight times.
    """

    __slots__ = ("_labels", "_values")

    def __init__(self, *labels: str) -> None:
        self._labels = labels
        self._values: dict[tuple[str, ...], int] = {}

    def add(self, count: int, *values: str) -> None:
        """Count under the values of the labels, in their order."""
        self._values[values] = self._values.get(values, 0) + count

    def __call__(self, options: CallbackOptions) -> Iterable[Observation]:
        """OpenTelemetry's question."""
        return [Observation(count, dict(zip(self._labels, key, strict=True))) for key, count in self._values.items()]


class Metrics:
    """The instrument behind `/metrics`. It serves as every exchange's mark too: it holds nothing of one."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        reader = PrometheusMetricReader(disable_target_info=True, scope_info_enabled=False, registry=self._registry)
        self._provider = MeterProvider([reader], resource=Resource.get_empty(), shutdown_on_exit=False)
        self._meter = self._provider.get_meter("semantic-router")
        self._open = self._gauge("llm_router_active_exchanges", "Exchanges under way")
        self._open.add(0)
        self._exchanges = self._counter("llm_router_exchanges", "Exchanges by how they ended", "ending", "endpoint")
        for ending, endpoint in product(get_args(Ending), get_args(EndpointWord)):
            self._exchanges.add(0, ending, endpoint)  # a series that begins with its first count hides it from `increase`
        self._requests = self._counter("llm_model_requests", "Requests that a model was asked", "model")
        self._errors = self._counter(
            "llm_request_errors",
            "Requests that the router refused or blocked, or failed on, by the model that the client named",
            "model",
            "reason",
        )
        self._changes = self._counter(
            "llm_model_routing_modifications",
            "Requests that a model was asked and that did not name it",
            "source_model",
            "target_model",
        )
        self._reasons = self._counter(
            "llm_routing_reason_codes",
            "Decided requests that were not blocked, by why the model was chosen",
            "reason_code",
            "model",
        )
        self._categories = self._counter(
            "llm_category_classifications", "Decided requests, by category; none: no rule asked for it", "category"
        )
        self._decisions = self._counter(
            "llm_decision_matches", "Decided requests, by rule, whatever followed: asked, blocked or cached", "decision"
        )
        self._blocked = self._counter(
            "llm_requests_blocked", "Requests that a rule blocked: found, or why it could not read them", "decision", "reason"
        )
        self._reasoning = self._counter(
            "llm_reasoning_decisions",
            "Requests that a model was asked, reasoning on or off",
            "category",
            "model",
            "enabled",
            "effort",
        )
        self._missing = self._counter("llm_signals_missing", "Signals that could not be read", "signal", "reason")
        self._prompt_tokens = self._counter("llm_model_prompt_tokens", "Tokens of prompts, as backends report them", "model")
        self._completion_tokens = self._counter("llm_model_completion_tokens", "Tokens of answers, likewise", "model")
        self._name_cache_counters()
        self._name_times()

    def _name_cache_counters(self) -> None:
        self._hits = self._counter("llm_cache_hits", "Answers given from the cache", "decision", "tier")
        self._misses = self._counter("llm_cache_misses", "Questions that got no answer from the cache", "decision", "reason")
        self._shadow_hits = self._counter("llm_cache_shadow_hits", "Hits that were counted and not served", "decision", "tier")
        self._skipped = self._counter("llm_cache_skipped", "Requests that are no question for the cache", "decision", "reason")
        self._stored = self._counter("llm_cache_stores", "Answers that were to be stored, by what became of them", "result")

    def _name_times(self) -> None:
        meter = self._meter
        self._routing = _seconds(meter, "llm_model_routing_latency", "From Envoy's first message to the routing answer", _FAST_S)
        self._sensing = _seconds(meter, "llm_classifier_latency", "Waiting for signals", _FAST_S)
        self._ttft = _seconds(meter, "llm_model_ttft", "Of streams: from the routing answer to the first byte", _SLOW_S)
        self._completion = _seconds(
            meter, "llm_model_completion_latency", "Whole exchanges, streamed or not, whose answer passed us", _SLOW_S
        )
        self._lag = _seconds(meter, "llm_router_event_loop_lag", "How late the event loop runs what is due", _FAST_S)

    def _counter(self, name: str, description: str, *labels: str) -> _Count:
        count = _Count(*labels)
        self._meter.create_observable_counter(name, [count], description=description)
        return count

    def _gauge(self, name: str, description: str, *labels: str) -> _Count:
        count = _Count(*labels)
        self._meter.create_observable_up_down_counter(name, [count], description=description)
        return count

    def show_dropped_lines(self, dropped_count: Callable[[], int]) -> None:
        """Show log lines that nobody took, as `dropped_count` counts them."""
        name, description = "llm_router_log_lines_dropped", "Log lines dropped because nobody took them"
        self._meter.create_observable_counter(name, [lambda _: [Observation(dropped_count())]], description=description)

    def show_cache(self, state: Callable[[], Mapping[str, float]]) -> None:
        """Show the cache's own gauges, by the names that `state` gives them."""
        for name in state():
            self._meter.create_observable_gauge(name, [_reader(state, name)], description=_CACHE[name])

    def show_cache_counts(self, counts: Callable[[], Mapping[str, float]]) -> None:
        """Show what the cache has counted since the process began, likewise."""
        for name in counts():
            self._meter.create_observable_counter(name, [_reader(counts, name)], description=_CACHE[name])

    def show_store(self, requests: Mapping[tuple[str, str], int]) -> None:
        """Show requests to the cache's store, counted by kind and result."""

        def read(options: CallbackOptions) -> Iterable[Observation]:
            return [Observation(count, {"kind": kind, "result": result}) for (kind, result), count in requests.items()]

        name = "llm_cache_store_requests"
        self._meter.create_observable_counter(name, [read], description="Requests to the cache's store")

    async def watch_loop(self) -> None:
        """Measure, until cancelled, how late the running event loop is."""
        while True:
            due = perf_counter() + _LAG_EVERY_S
            await asyncio.sleep(_LAG_EVERY_S)
            self._lag.record(max(0.0, perf_counter() - due))

    def begin(self, headers: Mapping[str, str]) -> Metrics:
        """One more exchange is open."""
        self._open.add(1)
        return self

    def upstream_headers(self) -> Mapping[str, str]:
        """None of its own."""
        return {}

    def end(self, record: ExchangeRecord) -> None:
        """Count one exchange."""
        self._open.add(-1)
        self._exchanges.add(1, record.ending, record.endpoint)
        if record.error_code or record.ending == "failed":
            self._errors.add(1, record.requested_model or "unknown", record.error_code or record.ending)
        if record.block_reason:
            self._blocked.add(1, record.decision, record.block_reason)
        for signal, reason in record.missing.items():
            self._missing.add(1, signal, reason)
        if record.sensing_s:
            self._sensing.record(record.sensing_s, {"classifier": "all"})
        if record.cache != "off":
            self._count_cache(record)
        if record.decision:
            self._count_decision(record)
        if record.is_routed:
            self._count_request(record)
            self._record_times(record, {"model": record.model})

    def _count_decision(self, record: ExchangeRecord) -> None:
        """What was decided, whether a model was then asked or not."""
        self._decisions.add(1, record.decision)
        self._categories.add(1, record.category)
        if record.model:
            self._reasons.add(1, record.reason, record.model)

    def _count_request(self, record: ExchangeRecord) -> None:
        """What was asked of a model."""
        model, category = record.model, record.category
        self._requests.add(1, model)
        if record.requested_model != model:
            self._changes.add(1, record.requested_model, model)
        if record.reasoning != "unchanged":
            self._reasoning.add(1, category, model, "true" if record.reasoning == "on" else "false", record.effort)
        if record.usage:
            self._prompt_tokens.add(record.usage.prompt_tokens, model)
            self._completion_tokens.add(record.usage.completion_tokens, model)

    def _count_cache(self, record: ExchangeRecord) -> None:
        families: dict[CacheStatus, _Count] = {
            "hit": self._hits,
            "miss": self._misses,
            "shadow": self._shadow_hits,
            "skipped": self._skipped,
        }
        families[record.cache].add(1, record.decision, record.cache_reason)
        if record.stored:
            self._stored.add(1, record.stored)

    def _record_times(self, record: ExchangeRecord, model: Mapping[str, str]) -> None:
        self._routing.record(record.routing_s, model)
        if record.first_token_s is not None:
            self._ttft.record(record.first_token_s, model)
        if record.ending == "completed":
            self._completion.record(record.duration_s, model)

    def render(self) -> bytes:
        """Everything so far in Prometheus' text format."""
        return generate_latest(self._registry)

    def close(self) -> None:
        """Stop counting."""
        self._provider.shutdown(timeout_millis=1000)


def _seconds(meter: Meter, name: str, description: str, buckets: tuple[float, ...]) -> Histogram:
    return meter.create_histogram(name, "s", description, explicit_bucket_boundaries_advisory=buckets)


def _reader(state: Callable[[], Mapping[str, float]], name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
    return lambda options: [Observation(state()[name])]
