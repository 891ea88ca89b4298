"""Traces, received by a real OTLP collector over gRPC."""

from __future__ import annotations

import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, Queue

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

from router.core.exchange import Exchange
from router.core.outcome import ExchangeRecord, Usage
from router.telemetry import Telemetry
from router.telemetry.logs import Logs
from router.telemetry.tracing import Tracing
from tests.unit.builders import MATH_RULE, chat_body, request_headers, send, snapshot, sure

SECRET = "a prompt that must not be seen"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
ROUTED = ExchangeRecord(
    "routed", "chat", requested_model="auto", model="large", decision="proofs", reason="matched", category="math"
)


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans as an operator's collector would."""

    def __init__(self) -> None:
        self.received: Queue[ResourceSpans] = Queue()
        self._server = grpc.server(ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def Export(  # noqa: N802 - the protocol's name
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        """OTLP's only method."""
        for spans in request.resource_spans:
            self.received.put(spans)
        return trace_service_pb2.ExportTraceServiceResponse()

    def span(self) -> tuple[Span, ResourceSpans]:
        """The one span that came, and what it came in."""
        batch = self.received.get(timeout=10)
        ((span,),) = [scope.spans for scope in batch.scope_spans]
        return span, batch

    def stop(self) -> None:
        """At once."""
        self._server.stop(None).wait()


@pytest.fixture
def collector() -> Iterator[Collector]:
    """One for each test."""
    collector = Collector()
    yield collector
    collector.stop()


Trace = Callable[..., Tracing]


@pytest.fixture
def trace(collector: Collector) -> Iterator[Trace]:
    """Makes tracers that send to the collector, and closes them."""
    made: list[Tracing] = []

    def trace(sample_ratio: float = 1.0) -> Tracing:
        made.append(Tracing(collector.endpoint, insecure=True, sample_ratio=sample_ratio, service_name="router-under-test"))
        return made[-1]

    yield trace
    for tracing in made:
        tracing.close()


def traceparent(flags: str = "01") -> dict[str, str]:
    """A client's context, sampled unless said otherwise."""
    return {"traceparent": f"00-{TRACE}-{PARENT}-{flags}", "tracestate": "vendor=value"}


def is_sampled(headers: Mapping[str, str]) -> bool:
    """The last bit of the flags; the one before it says that the id is random, and comes and goes with the SDK."""
    return bool(int(headers["traceparent"][-2:], 16) & 1)


def attributes(span: Span) -> dict[str, object]:
    """By name, as Python values."""
    return {item.key: getattr(item.value, item.value.WhichOneof("value") or "string_value") for item in span.attributes}


def test_the_span_continues_the_clients_trace_and_the_backend_continues_the_span(trace: Trace, collector: Collector) -> None:
    """Client, router, model: one chain; what the client's vendor wrote travels along."""
    tracing = trace()
    mark = tracing.begin(traceparent())
    upstream = mark.upstream_headers()
    mark.end(ROUTED)
    tracing.close()
    span, batch = collector.span()
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert upstream == {"traceparent": f"00-{TRACE}-{span.span_id.hex()}-01", "tracestate": "vendor=value"}
    assert (span.name, span.kind) == ("semantic_router.route", Span.SPAN_KIND_SERVER)
    resource = {item.key: item.value.string_value for item in batch.resource.attributes}
    assert resource["service.name"] == "router-under-test"


@pytest.mark.parametrize("headers", [{}, {"traceparent": "nonsense"}, {"traceparent": f"00-{'0' * 32}-{PARENT}-01"}])
def test_without_a_trace_that_can_be_continued_one_begins(trace: Trace, collector: Collector, headers: dict[str, str]) -> None:
    """A root span."""
    tracing = trace()
    mark = tracing.begin(headers)
    upstream = mark.upstream_headers()
    mark.end(ROUTED)
    tracing.close()
    span, _ = collector.span()
    assert span.parent_span_id == b""
    assert upstream["traceparent"].startswith(f"00-{span.trace_id.hex()}-{span.span_id.hex()}-")
    assert is_sampled(upstream)


@pytest.mark.parametrize(
    ("flags", "ratio", "is_sent"), [("01", 0.0, True), ("00", 1.0, False), (None, 0.0, False), (None, 1.0, True)]
)
def test_a_parents_choice_is_followed_and_the_ratio_is_for_traces_that_begin_here(
    trace: Trace, collector: Collector, flags: str | None, ratio: float, is_sent: bool
) -> None:
    """And the backend is told the same choice."""
    tracing = trace(ratio)
    mark = tracing.begin(traceparent(flags) if flags else {})
    assert is_sampled(mark.upstream_headers()) is is_sent
    mark.end(ROUTED)
    tracing.close()
    assert collector.received.qsize() == is_sent


def test_the_span_tells_the_decision(trace: Trace, collector: Collector) -> None:
    """In OpenTelemetry's own words where it has some."""
    tracing = trace()
    outcome = ExchangeRecord(
        "completed",
        endpoint="completions",
        requested_model="auto",
        model="large",
        cluster="gpu",
        decision="proofs",
        reason="matched",
        category="math",
        confidence=0.5,
        reasoning="on",
        missing={"language": "deadline"},
        http_status=200,
        usage=Usage(11, 7),
    )
    tracing.begin({}).end(outcome)
    tracing.close()
    span, _ = collector.span()
    assert attributes(span) == {
        "semantic_router.decision": "proofs",
        "semantic_router.reason": "matched",
        "semantic_router.category": "math",
        "semantic_router.confidence": 0.5,
        "semantic_router.cluster": "gpu",
        "semantic_router.reasoning": "on",
        "semantic_router.ending": "completed",
        "semantic_router.response_path": "upstream",
        "semantic_router.missing.language": "deadline",
        "gen_ai.operation.name": "text_completion",
        "gen_ai.request.model": "auto",
        "gen_ai.response.model": "large",
        "gen_ai.usage.input_tokens": 11,
        "gen_ai.usage.output_tokens": 7,
        "http.response.status_code": 200,
    }
    assert span.status.code == 0


def test_the_documented_attributes(trace: Trace, collector: Collector) -> None:
    """They are those of a span that has everything to say."""
    text = (Path(__file__).parents[2] / "deploy/dashboards/README.md").read_text()
    section = text.partition("## Traces")[2].partition("## Logs")[0]
    tracing = trace()
    everything = {"missing": {"SIGNAL": "deadline"}, "usage": Usage(1, 1), "http_status": 403, "confidence": 0.5}
    words = dict.fromkeys(("requested_model", "model", "cluster", "decision", "reason", "category", "error_code"), "x")
    tracing.begin({}).end(ExchangeRecord("replied", "chat", **words, **everything))  # type: ignore[arg-type]
    tracing.close()
    span, _ = collector.span()
    assert set(re.findall(r"`([a-z_]+\.[\w.]+)`", section)) - {"telemetry.tracing.enabled", "semantic_router.route"} == set(
        attributes(span)
    )


def test_a_fault_of_ours_is_an_error_and_a_clients_mistake_is_none(trace: Trace, collector: Collector) -> None:
    """Only the first is for whoever runs the router."""
    tracing = trace()
    tracing.begin({}).end(ExchangeRecord("failed", "chat"))
    tracing.begin({}).end(ExchangeRecord("replied", "chat", error_code="model_not_found", http_status=404))
    tracing.close()
    batch = collector.received.get(timeout=10)
    failed, refused = batch.scope_spans[0].spans
    assert (failed.status.code, refused.status.code) == (2, 0)
    assert attributes(refused)["error.type"] == "model_not_found"


@pytest.mark.parametrize("model", ["auto", SECRET])
def test_no_text_of_a_request_is_in_the_span(trace: Trace, collector: Collector, model: str) -> None:
    """Neither of a prompt, nor of a model's name that we do not know; a whole exchange, its record and its span."""
    tracing = trace()
    headers = request_headers(authorization=SECRET, user_agent=SECRET).headers
    mark = tracing.begin(headers)
    exchange = Exchange(snapshot(MATH_RULE))
    send(exchange, chat_body(SECRET, model=model), {"intent": sure("math")}, authorization=SECRET)
    mark.end(exchange.outcome(exchange.ending))
    tracing.close()
    _, batch = collector.span()
    assert SECRET.encode() not in batch.SerializeToString()


def test_the_log_line_names_the_trace_that_began_here(trace: Trace, collector: Collector) -> None:
    """From the line to the trace and back."""
    reading, writing = os.pipe()
    telemetry = Telemetry([trace(), Logs("info", access_log=True, fd=writing)])
    telemetry.begin({}).end(ROUTED)
    telemetry.close()
    line = json.loads(os.read(reading, 65536))
    os.close(reading)
    os.close(writing)
    span, _ = collector.span()
    assert line["trace_id"] == span.trace_id.hex()


class Silent:
    """A collector that takes connections and never says a word."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def close(self) -> None:
        """Gone, then."""
        self._socket.close()


@pytest.mark.parametrize("is_listening", [True, False])
def test_a_collector_that_is_dead_or_silent_costs_spans_and_never_time(is_listening: bool) -> None:
    """More exchanges than the queue holds go on as fast as ever, and closing takes seconds at most."""
    silent = Silent()
    if not is_listening:
        silent.close()
    tracing = Tracing(silent.endpoint, insecure=True, sample_ratio=1.0, service_name="x")
    taken_s = []
    for _ in range(5_000):
        began = time.perf_counter()
        mark = tracing.begin({})
        mark.upstream_headers()
        mark.end(ROUTED)
        taken_s.append(time.perf_counter() - began)
    assert statistics.median(taken_s) < 0.01, "exchanges wait for the collector"
    began = time.perf_counter()
    tracing.close()
    assert time.perf_counter() - began < 5
    silent.close()


def test_a_process_with_a_dead_collector_exits(collector: Collector) -> None:
    """In time, and with its own status."""
    collector.stop()
    code = (
        "import sys; from router.telemetry.tracing import Tracing; from router.core.outcome import ExchangeRecord\n"
        "tracing = Tracing(sys.argv[1], True, 1.0, 'x')\n"
        "for _ in range(3000): tracing.begin({}).end(ExchangeRecord('routed'))\n"
        "tracing.close()"
    )
    done = subprocess.run([sys.executable, "-c", code, collector.endpoint], capture_output=True, timeout=30, check=False)
    assert done.returncode == 0
    with pytest.raises(Empty):
        collector.received.get_nowait()
