"""Metrics through OpenTelemetry, for Prometheus to fetch. Names follow vLLM Semantic Router's of October 2025 where one fits.

Labels take values from the configuration or from fixed words alone, so their number is bounded whatever clients send.
"""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Histogram, Meter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, generate_latest

from router.core.types import Outcome

_FAST_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_SLOW_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Metrics:
    """The instrument behind `/metrics`. It serves as every exchange's mark too: it holds nothing of one."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        reader = PrometheusMetricReader(disable_target_info=True, scope_info_enabled=False, registry=self._registry)
        self._provider = MeterProvider([reader], resource=Resource.get_empty(), shutdown_on_exit=False)
        meter = self._provider.get_meter("semantic-router")
        self._open = meter.create_up_down_counter("llm_router_open_exchanges", description="Exchanges under way")
        self._exchanges = meter.create_counter("llm_router_exchanges", description="Exchanges by how they ended")
        self._requests = meter.create_counter("llm_model_requests", description="Requests routed, by model")
        self._errors = meter.create_counter("llm_request_errors", description="Requests refused by the router, or failed")
        self._changes = meter.create_counter(
            "llm_model_routing_modifications", description="Requests whose model was chosen by the router"
        )
        self._reasons = meter.create_counter("llm_routing_reason_codes", description="Why the model was chosen")
        self._categories = meter.create_counter("llm_category_classifications", description="Requests by category")
        self._decisions = meter.create_counter("llm_decision_matches", description="Requests by the rule that won")
        self._reasoning = meter.create_counter("llm_reasoning_decisions", description="Reasoning switched on or off")
        self._missing = meter.create_counter("llm_signals_missing", description="Signals that could not be read")
        self._prompt_tokens = meter.create_counter("llm_model_prompt_tokens", description="Tokens asked, as backends report")
        self._completion_tokens = meter.create_counter("llm_model_completion_tokens", description="Tokens answered")
        self._routing = _seconds(meter, "llm_model_routing_latency", "From Envoy's first message to the routing answer", _FAST_S)
        self._sensing = _seconds(meter, "llm_classifier_latency", "Waiting for signals", _FAST_S)
        self._ttft = _seconds(meter, "llm_model_ttft", "From the routing answer to the first byte of the answer", _SLOW_S)
        self._completion = _seconds(meter, "llm_model_completion_latency", "Whole exchanges whose answer passed us", _SLOW_S)

    def begin(self, headers: Mapping[str, str]) -> Metrics:
        """One more exchange is open."""
        self._open.add(1)
        return self

    def upstream_headers(self) -> Mapping[str, str]:
        """None of its own."""
        return {}

    def end(self, outcome: Outcome) -> None:
        """Count one exchange."""
        self._open.add(-1)
        self._exchanges.add(1, {"ending": outcome.ending, "endpoint": outcome.endpoint})
        if outcome.error_code or outcome.ending == "failed":
            reason = outcome.error_code or outcome.ending
            self._errors.add(1, {"model": outcome.requested_model or "unknown", "reason": reason})
        for signal, reason in outcome.missing.items():
            self._missing.add(1, {"signal": signal, "reason": reason})
        if outcome.sensing_s:
            self._sensing.record(outcome.sensing_s, {"classifier": "all"})
        if outcome.model:
            self._count_decision(outcome)

    def _count_decision(self, outcome: Outcome) -> None:
        model = {"model": outcome.model}
        self._requests.add(1, model)
        self._decisions.add(1, {"decision": outcome.decision})
        self._reasons.add(1, {"reason_code": outcome.reason, "model": outcome.model})
        self._categories.add(1, {"category": outcome.category})
        if outcome.requested_model != outcome.model:
            self._changes.add(1, {"source_model": outcome.requested_model, "target_model": outcome.model})
        if outcome.reasoning != "unchanged":
            enabled = str(outcome.reasoning == "on").lower()
            self._reasoning.add(1, {"category": outcome.category, "enabled": enabled, "effort": outcome.effort, **model})
        if outcome.routing_s:
            self._routing.record(outcome.routing_s, model)
        if outcome.first_token_s is not None:
            self._ttft.record(outcome.first_token_s, model)
        if outcome.ending == "completed":
            self._completion.record(outcome.duration_s, model)
        if outcome.usage:
            self._prompt_tokens.add(outcome.usage.prompt_tokens, model)
            self._completion_tokens.add(outcome.usage.completion_tokens, model)

    def render(self) -> bytes:
        """Everything so far in Prometheus' text format."""
        return generate_latest(self._registry)

    def close(self) -> None:
        """Stop counting."""
        self._provider.shutdown(timeout_millis=1000)


def _seconds(meter: Meter, name: str, description: str, buckets: tuple[float, ...]) -> Histogram:
    return meter.create_histogram(name, "s", description, explicit_bucket_boundaries_advisory=buckets)
