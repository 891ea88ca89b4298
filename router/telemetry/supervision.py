"""The supervisor's metrics in Prometheus' text format: workers, failed starts, restarts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class _Counts(Collector):
    def __init__(self, counts: Mapping[str, Mapping[str, float]]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        workers = GaugeMetricFamily("llm_router_workers", "Workers: wanted, up, and failing to start", labels=["state"])
        for state, count in self._counts.get("workers", {}).items():
            workers.add_metric([state], count)
        failed = CounterMetricFamily("llm_router_worker_failed_starts", "Failed starts of workers")
        failed.add_metric([], sum(self._counts.get("failed_starts", {}).values()))
        restarts = CounterMetricFamily("llm_router_restarts", "Rolling restarts, by result", labels=["result"])
        for result, count in self._counts.get("restarts", {}).items():
            restarts.add_metric([result], count)
        yield from (workers, failed, restarts)


def page_of(counts: Mapping[str, Mapping[str, float]]) -> bytes:
    """Render `counts`, which has the keys `workers`, `failed_starts` and `restarts`. Empty for no counts."""
    if not counts:
        return b""
    registry = CollectorRegistry()
    registry.register(_Counts(counts))
    return generate_latest(registry)
