"""One span per exchange. It continues the client's trace if there is one, and the backend gets headers to continue it.

Imported only when tracing is switched on.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from router.core.exchange_record import ExchangeRecord

_EXPORT_TIMEOUT_S = 2  # spans wait in a bounded queue; an unavailable collector loses spans and delays no request
_CLOSE_S = 3.0  # long enough to send one batch
_ATTRIBUTES = (
    ("semantic_router.decision", "decision"),
    ("semantic_router.reason", "reason"),
    ("semantic_router.category", "category"),
    ("semantic_router.confidence", "confidence"),
    ("semantic_router.cluster", "cluster"),
    ("semantic_router.reasoning", "reasoning"),
    ("semantic_router.ending", "ending"),
    ("semantic_router.response_path", "response_path"),
    ("gen_ai.request.model", "requested_model"),
    ("gen_ai.response.model", "answering_model"),
    ("error.type", "error_code"),
    ("http.response.status_code", "http_status"),
)
"""Span attributes with the fields of `ExchangeRecord` that they show. OpenTelemetry's GenAI names where there is one."""
_OPERATIONS = {"chat": "chat", "completions": "text_completion", "embeddings": "embeddings"}
"""`gen_ai.operation.name` in OpenTelemetry's terms, by the record's endpoint."""


class Tracing:
    """The instrument behind the OTLP exporter."""

    def __init__(self, endpoint: str, insecure: bool, sample_ratio: float, service_name: str) -> None:
        exporter = OTLPSpanExporter(endpoint=endpoint, insecure=insecure, timeout=_EXPORT_TIMEOUT_S)
        self._provider = TracerProvider(
            sampler=ParentBasedTraceIdRatio(sample_ratio),
            resource=Resource.create({"service.name": service_name}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("semantic-router")
        self._context = TraceContextTextMapPropagator()

    def begin(self, headers: Mapping[str, str]) -> TraceMark:
        """Start a span that continues the client's trace, or a new one."""
        parent = self._context.extract(headers)
        span = self._tracer.start_span("semantic_router.route", parent, SpanKind.SERVER)
        return TraceMark(span, self._context)

    def close(self) -> None:
        """Send the spans that wait, for at most three seconds."""
        # shutdown() tries every waiting batch, each up to the exporter's timeout, so it runs in a thread that may be left.
        closing = threading.Thread(target=self._provider.shutdown, name="trace-closer", daemon=True)
        closing.start()
        closing.join(_CLOSE_S)


class TraceMark:
    """The span of one exchange."""

    __slots__ = ("_context", "_span")

    def __init__(self, span: Span, context: TraceContextTextMapPropagator) -> None:
        self._span, self._context = span, context

    def upstream_headers(self) -> Mapping[str, str]:
        """`traceparent`, and `tracestate` if there is one, with which the backend continues the trace."""
        headers: dict[str, str] = {}
        self._context.inject(headers, set_span_in_context(self._span))
        return headers

    def end(self, record: ExchangeRecord) -> None:
        """Describe the exchange and end the span."""
        for attribute, name in _ATTRIBUTES:
            if (value := getattr(record, name)) not in ("", 0):
                self._span.set_attribute(attribute, value)
        if operation := _OPERATIONS.get(record.endpoint):
            self._span.set_attribute("gen_ai.operation.name", operation)
        for signal, reason in record.missing.items():
            self._span.set_attribute(f"semantic_router.missing.{signal}", reason)
        if record.usage:
            self._span.set_attribute("gen_ai.usage.input_tokens", record.usage.prompt_tokens)
            self._span.set_attribute("gen_ai.usage.output_tokens", record.usage.completion_tokens)
        if record.ending == "failed":
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()
