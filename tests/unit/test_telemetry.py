"""One record per exchange becomes metrics, and dashboards and alerts read no other metrics."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from router.cache.cache import Cache
from router.cache.settings import CacheLimits, SyncSettings
from router.cache.stores.base import Store
from router.cache.stores.sync import StoreSync
from router.cache.tiers import Encoded
from router.cache.verifier import Verifier
from router.core.exchange_record import ExchangeRecord, Usage
from router.telemetry import Telemetry
from router.telemetry.merge import merge
from router.telemetry.metrics import Metrics
from router.telemetry.supervision import page_of
from tests.waiting import until

DASHBOARDS = Path(__file__).parents[2] / "deploy" / "dashboards"
ROUTED = ExchangeRecord(
    "completed",
    endpoint="chat",
    request_id="r-1",
    requested_model="auto",
    model="large",
    cluster="gpu",
    decision="proofs",
    reason="matched",
    category="math",
    confidence=0.93,
    reasoning="on",
    effort="high",
    is_stream=True,
    http_status=200,
    usage=Usage(11, 7),
    routing_s=0.004,
    signals_s=0.003,
    first_token_s=0.2,
    duration_s=1.5,
)
SUPERVISORS = {"llm_router_workers", "llm_router_worker_failed_starts_total", "llm_router_restarts_total"}
DIRECT = ExchangeRecord(
    "routed", "chat", requested_model="small", model="small", decision="explicit_model", reason="explicit_model", routing_s=0.001
)
DEGRADED = replace(DIRECT, requested_model="auto", decision="default", missing={"intent": "deadline"}, category="unknown")
REFUSED = ExchangeRecord("replied", "chat", response_path="error", error_code="model_not_found", http_status=404)
FAILED = ExchangeRecord("failed", "chat")
BLOCKED = ExchangeRecord("replied", "chat", decision="guard", reason="matched", block_reason="matched", error_code="blocked")
UNREADABLE = replace(BLOCKED, reason="signal_missing", block_reason="too_long", error_code="unreadable")
HIT = ExchangeRecord(
    "replied", "chat", "cache", requested_model="auto", decision="faq", model="small", cache="hit", cache_reason="semantic"
)  # fmt: skip

CACHE = [
    HIT,
    replace(DIRECT, ending="completed", decision="faq", cache="miss", cache_reason="numbers", stored="stored"),
    replace(DIRECT, ending="completed", decision="faq", cache="shadow", cache_reason="exact"),
    replace(DIRECT, decision="faq", cache="skipped", cache_reason="tools"),
]

ENVOYS = {
    "envoy_cluster_membership_healthy",
    "envoy_cluster_upstream_rq_active_overflow",
    "envoy_cluster_upstream_rq_completed",
    "envoy_cluster_upstream_rq_pending_overflow",
    "envoy_cluster_upstream_rq_retry_overflow",
    "envoy_cluster_upstream_rq_xx",
    "envoy_http_downstream_rq_total",
    "envoy_http_ext_proc_sr_failure_mode_allowed",
    "envoy_http_ext_proc_sr_message_timeouts",
    "envoy_http_ext_proc_sr_rejected_header_mutations",
    "envoy_http_ext_proc_sr_spurious_msgs_received",
    "envoy_http_ext_proc_sr_streams_failed",
    "envoy_http_no_cluster",
}
"""The names that Envoy 1.40 shows at /stats/prometheus when it runs envoy/envoy.yaml."""
BYPASS = {name for name in ENVOYS if "_ext_proc_" in name}


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> Iterator[Metrics]:
    """A registry of this test alone, with a loop that is checked often."""
    monkeypatch.setattr("router.telemetry.metrics._LAG_EVERY_S", 0.01)
    counting = Metrics()
    yield counting
    counting.close()


def count(metrics: Metrics, *records: ExchangeRecord) -> str:
    """The page after these exchanges."""
    for record in records:
        metrics.begin({}).end(record)
    return metrics.render().decode()


def families(page: str) -> dict[str, Metric]:
    """A page as Prometheus' own parser reads it, by name; counters with their `_total`."""
    parsed = text_string_to_metric_families(page)
    return {family.name + ("_total" if family.type == "counter" else ""): family for family in parsed}


def labels(family: Metric) -> set[str]:
    """The label names of a family, without those of histogram buckets."""
    return {label for sample in family.samples for label in sample.labels} - {"le"}


async def everything(metrics: Metrics) -> str:
    """A page on which every metric has a value."""
    metrics.show_dropped_lines(lambda: 3)
    watching = asyncio.create_task(metrics.watch_loop())
    await until(lambda: "llm_router_event_loop_lag_seconds" in metrics.render().decode())
    watching.cancel()
    store_sync = StoreSync(cast("Store", SimpleNamespace(is_shared=True)), SyncSettings())
    cache = Cache(CacheLimits(), encode, Verifier(), store_sync)
    metrics.show_cache(cache.gauges)
    metrics.show_cache_counts(cache.counters)
    metrics.show_store({("search", "ok"): 3})
    return count(metrics, ROUTED, DIRECT, DEGRADED, REFUSED, FAILED, BLOCKED, *CACHE)


async def encode(text: str) -> Encoded:
    """Never called here."""
    raise AssertionError(text)


def documented() -> dict[str, tuple[str, set[str], str]]:
    """Type, labels and meaning of each metric in the table of the README."""
    rows = re.findall(r"^\| `(llm_\w+)` \| (\w+) \| ([^|]*)\| (.+) \|$", (DASHBOARDS / "README.md").read_text(), re.MULTILINE)
    return {name: (kind, set(re.findall(r"\w+", words)), meaning) for name, kind, words, meaning in rows}


def described(page: str) -> dict[str, tuple[str, set[str], str]]:
    """Type, labels and meaning of each metric on a page."""
    return {name: (family.type, labels(family), family.documentation) for name, family in families(page).items()}


class TestMetrics:
    async def test_the_page_holds_what_the_documentation_says_and_nothing_else(self, metrics: Metrics) -> None:
        """It shows the same names, types, labels and help. The exporter adds no suffix, scope label or target line."""
        expected = {name: kind for name, kind in documented().items() if name not in SUPERVISORS}
        assert described(await everything(metrics)) == expected

    def test_the_supervisor_shows_the_rest(self) -> None:
        """The supervisor counts its workers."""
        page = page_of({"workers": {"wanted": 2, "up": 1}, "failed_starts": {"": 3}, "restarts": {"done": 1}})
        assert described(page.decode()) == {name: documented()[name] for name in SUPERVISORS}
        assert b'llm_router_workers{state="up"} 1.0' in page

    def test_a_block_is_counted_by_what_it_was(self, metrics: Metrics) -> None:
        """What was found is counted apart from what could not be read. Neither counts as a request to a model."""
        page = count(metrics, BLOCKED, UNREADABLE, UNREADABLE)
        assert 'llm_requests_blocked_total{decision="guard",reason="matched"} 1.0' in page
        assert 'llm_requests_blocked_total{decision="guard",reason="too_long"} 2.0' in page
        assert "llm_model_requests_total{" not in page

    @pytest.mark.parametrize(
        ("record", "asked", "decided"),
        [
            (ROUTED, True, "proofs"),
            (replace(ROUTED, ending="abandoned"), True, "proofs"),
            (replace(ROUTED, ending="failed"), True, "proofs"),
            (DIRECT, True, "explicit_model"),
            (CACHE[1], True, "faq"),
            (CACHE[2], True, "faq"),
            (HIT, False, "faq"),
            (BLOCKED, False, "guard"),
            (UNREADABLE, False, "guard"),
            (replace(HIT, ending="failed", response_path="upstream", cache="off"), False, "faq"),
            (REFUSED, False, ""),
            (FAILED, False, ""),
            (ExchangeRecord("replied", "models", response_path="models", http_status=200), False, ""),
            (ExchangeRecord("abandoned", "chat"), False, ""),
        ],
    )
    def test_only_what_a_model_was_asked_counts_as_its_request(
        self, metrics: Metrics, record: ExchangeRecord, asked: bool, decided: str
    ) -> None:
        """A hit, a block or an error does not count. The decision counts whatever followed."""
        page = families(count(metrics, record))
        models = {name for name, family in page.items() if name.startswith("llm_model_") and family.samples}
        assert bool(models) is asked, models
        decisions = [sample.labels["decision"] for sample in page["llm_decision_matches_total"].samples] if decided else []
        assert decisions == ([decided] if decided else [])
        assert decided or "llm_decision_matches_total" not in page
        assert sum(sample.value for sample in page["llm_router_exchanges_total"].samples) == 1

    def test_an_exchange_is_counted_once_under_its_model(self, metrics: Metrics) -> None:
        """The metrics have the numbers of its record."""
        page = count(metrics, ROUTED, ROUTED, DIRECT)
        assert 'llm_model_requests_total{model="large"} 2.0' in page
        assert 'llm_model_completion_tokens_total{model="large"} 14.0' in page
        assert 'llm_model_routing_modifications_total{source_model="auto",target_model="large"} 2.0' in page
        assert 'source_model="small"' not in page
        assert 'llm_category_classifications_total{category="math"} 2.0' in page
        assert 'llm_model_routing_latency_seconds_bucket{le="0.005",model="large"} 2.0' in page
        assert 'llm_model_ttft_seconds_sum{model="large"} 0.4' in page

    def test_what_went_wrong_has_a_reason(self, metrics: Metrics) -> None:
        """Refusals, faults and missing signals each have one."""
        page = count(metrics, REFUSED, FAILED, DEGRADED)
        assert 'llm_request_errors_total{model="unknown",reason="model_not_found"} 1.0' in page
        assert 'llm_request_errors_total{model="unknown",reason="failed"} 1.0' in page
        assert re.search(r'llm_signals_missing_total\{(reason="deadline",signal="intent"|.*)\} 1\.0', page)
        assert families(page)["llm_signals_missing_total"].samples[0].labels == {"signal": "intent", "reason": "deadline"}

    def test_open_exchanges_go_up_and_down(self, metrics: Metrics) -> None:
        """The gauge begins at zero."""
        assert "llm_router_active_exchanges 0.0" in metrics.render().decode()
        first, second = metrics.begin({}), metrics.begin({})
        assert "llm_router_active_exchanges 2.0" in metrics.render().decode()
        first.end(DIRECT)
        second.end(FAILED)
        assert "llm_router_active_exchanges 0.0" in metrics.render().decode()

    def test_two_in_one_process_share_nothing(self, metrics: Metrics) -> None:
        """Each has its own registry."""
        other = Metrics()
        count(other, ROUTED)
        assert "llm_model_requests_total" not in metrics.render().decode()
        other.close()

    async def test_a_loop_that_was_held_up_is_seen(self, metrics: Metrics) -> None:
        """A callback that computes for 0.05 s delays whatever was due meanwhile."""
        watching = asyncio.create_task(metrics.watch_loop())
        await asyncio.sleep(0)
        time.sleep(0.05)  # noqa: ASYNC251 - the situation under test
        await until(lambda: "llm_router_event_loop_lag_seconds" in metrics.render().decode())
        watching.cancel()
        lag = families(metrics.render().decode())["llm_router_event_loop_lag_seconds"]
        assert next(sample.value for sample in lag.samples if sample.name.endswith("_sum")) > 0.03

    async def test_workers_pages_merge_into_one(self, metrics: Metrics) -> None:
        """Every worker's sample appears once, with its label. Names, types and values stay."""
        page = await everything(metrics)
        merged = families(merge({"0": page, "1": page}).decode())
        single = families(page)
        assert {name: family.type for name, family in merged.items()} == {name: family.type for name, family in single.items()}
        for name, family in single.items():
            assert labels(merged[name]) == labels(family) | {"worker"}
            assert len(merged[name].samples) == 2 * len(family.samples)
        assert 'llm_model_requests_total{model="large",worker="1"} 1.0' in merge({"0": page, "1": page}).decode()

    async def test_a_worker_that_begins_again_resets_its_own_series_and_no_other(self, metrics: Metrics) -> None:
        """Prometheus takes a fall for a reset, series by series. A sum made here would lose what the dead worker had counted."""
        old, new = await everything(metrics), Metrics()
        fresh = new.render().decode()
        before, after = (families(merge({"0": page, "1": old}).decode()) for page in (old, fresh))
        for name, family in after.items():
            kept = [sample for sample in family.samples if sample.labels["worker"] == "1"]
            assert kept == [sample for sample in before[name].samples if sample.labels["worker"] == "1"]
        new.close()


class TestDashboards:
    def names(self, text: str) -> set[str]:
        """The metrics that expressions read; a histogram's series count as the histogram."""
        found = set(re.findall(r"\b(?:llm|envoy)_\w+(?=[\[{)\s]|$)", re.sub(r"by \([^)]*\)", "", text)))
        return {re.sub(r"_seconds_bucket$", "_seconds", name) for name in found}

    def expressions(self, file: str) -> list[str]:
        """Every PromQL expression of a file."""
        text = (DASHBOARDS / file).read_text()
        if file.endswith(".yaml"):
            return [rule["expr"] for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]
        return [target["expr"] for panel in json.loads(text)["panels"] for target in panel.get("targets", ())]

    @pytest.mark.parametrize("file", ["router.json", "alerts.yaml"])
    def test_expressions_read_metrics_that_exist(self, file: str) -> None:
        """A dashboard of empty panels, or an alert that cannot fire, is worse than none."""
        expressions = self.expressions(file)
        assert expressions
        for expression in expressions:
            names = self.names(expression)
            assert names, expression
            assert names <= ENVOYS | set(documented()), expression

    @pytest.mark.parametrize("file", ["router.json", "alerts.yaml"])
    def test_counters_are_read_by_their_growth_and_gauges_as_they_are(self, file: str) -> None:
        """A counter begins again with its process. Only its growth says something, taken per series before the sum."""
        for expression in self.expressions(file):
            for name in self.names(expression) & set(documented()):
                grows = re.findall(rf"\b(rate|increase) ?\({name}(?:_bucket)?[{{[]", expression)
                assert bool(grows) is (documented()[name][0] != "gauge"), expression

    @pytest.mark.parametrize("file", ["router.json", "alerts.yaml"])
    def test_expressions_ask_for_labels_that_exist(self, file: str) -> None:
        """Labels are our metrics' own, and those that Prometheus and the common port of several workers add."""
        for expression in self.expressions(file):
            ours = self.names(expression) & set(documented())
            asked = set(re.findall(r"(\w+)(?:=~|!~|!=|=)\"", expression))
            asked |= {label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")}
            known = {label for name in ours for label in documented()[name][1]} | {"le", "instance", "worker"}
            assert not ours or asked <= known, expression

    @pytest.mark.parametrize(
        "panel", json.loads((DASHBOARDS / "router.json").read_text())["panels"], ids=lambda panel: panel["title"]
    )
    def test_a_panels_unit_is_that_of_what_it_shows(self, panel: dict[str, Any]) -> None:
        """Entries are not a rate, and bytes are bytes."""
        unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit")
        for target in panel.get("targets", ()):
            if target["expr"].startswith("histogram_quantile"):
                assert unit == "s"
            elif unit in ("cps", "reqps", "percentunit"):
                assert "rate(" in target["expr"]
            else:
                assert "rate(" not in target["expr"]
                assert unit == ("bytes" if "_bytes" in target["expr"] else "none")

    def test_the_dashboard_shows_every_metric_of_ours(self) -> None:
        """Whatever is counted can be seen."""
        assert set(documented()) <= set().union(*map(self.names, self.expressions("router.json")))

    def test_a_bypass_is_alerted_on_and_errors_are_not_all_there_is(self) -> None:
        """A dead router behind a fail-open Envoy causes no 5xx."""
        assert set().union(*map(self.names, self.expressions("alerts.yaml"))) >= BYPASS

    def test_alerts_have_distinct_names_and_say_what_to_do(self) -> None:
        """Whoever is woken by an alert needs both."""
        groups = yaml.safe_load((DASHBOARDS / "alerts.yaml").read_text())["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        assert len({rule["alert"] for rule in rules}) == len(rules)
        for rule in rules:
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert rule["annotations"]["summary"]
            assert rule["annotations"]["description"]

    def test_panels_have_distinct_ids_and_do_not_overlap(self) -> None:
        """Grafana needs this."""
        panels = json.loads((DASHBOARDS / "router.json").read_text())["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)
        cells = [
            (x, y)
            for panel in panels
            for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
            for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
        ]
        assert len(cells) == len(set(cells))
        assert max(x for x, _ in cells) < 24


class Leaving:
    """One instrument sends a header upstream, and another reads it."""

    def __init__(self, headers: dict[str, str]) -> None:
        self.headers, self.seen = headers, dict[str, str]()
        self.ended, self.is_closed = list[ExchangeRecord](), False

    def begin(self, headers: Any) -> Leaving:
        """Begin with its own mark."""
        self.seen = dict(headers)
        return self

    def upstream_headers(self) -> dict[str, str]:
        """The headers as given."""
        return self.headers

    def end(self, record: ExchangeRecord) -> None:
        """Keep the record."""
        self.ended.append(record)

    def close(self) -> None:
        """Remember the call."""
        self.is_closed = True


def test_every_instrument_gets_the_record_and_the_later_ones_see_what_goes_upstream() -> None:
    """This is how the log line knows the trace that began here."""
    first, second = Leaving({"traceparent": "ours"}), Leaving({})
    telemetry = Telemetry([first, second])
    scope = telemetry.begin({"traceparent": "theirs", ":path": "/"})
    scope.end(ROUTED)
    telemetry.close()
    assert scope.upstream_headers() == {"traceparent": "ours"}
    assert first.seen == {"traceparent": "theirs", ":path": "/"}
    assert second.seen == {"traceparent": "ours", ":path": "/"}
    assert first.ended == second.ended == [ROUTED]
    assert first.is_closed
    assert second.is_closed


def test_with_no_instrument_nothing_goes_upstream() -> None:
    """The client's own trace passes unchanged."""
    scope = Telemetry([]).begin({"traceparent": "theirs"})
    scope.end(ROUTED)
    assert scope.upstream_headers() == {}
