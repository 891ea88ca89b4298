"""envoy/README.md says that `semantic-router check` notices each missing line of its table. Here each line is removed in turn."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.contract.test_check_findings import CONFIG, ROOT, problems, without_envoy
from tests.contract.test_check_guards import CACHING, GUARDED, SWITCHED, behind_the_router

__all__ = ["without_envoy"]
USAGE = CONFIG + "telemetry: { track_token_usage: true }\n"
WAITING = CONFIG + "semantic_cache: { enabled: true, backend_type: memory, coalesce_timeout_seconds: 30 }\n"


@dataclass(frozen=True)
class Damage:
    """A change to envoy.yaml, part of the expected message, and the configuration beside it."""

    old: str
    new: str
    said: str
    config: str = CONFIG


_POLICY = re.search(r"( +)retry_policy:\n(\1  .*\n)+", (ROOT / "envoy/envoy.yaml").read_text())
_REPLIES = re.search(r"( +)local_reply_config:\n(\1  .*\n)+", (ROOT / "envoy/envoy.yaml").read_text())
_RULES = re.search(r"( +)mutation_rules:\n(\1  .*\n)+", (ROOT / "envoy/envoy.yaml").read_text())
assert _POLICY
assert _REPLIES
assert _RULES

ROWS: dict[str, tuple[Damage, ...]] = {
    "`early_header_mutation_extensions` overwrites": (
        Damage("key: x-upstream-cluster, value: small", "key: x-a, value: small", "must overwrite"),
    ),
    "the same presets": (
        Damage("key: x-vsr-response-path, value: bypass", "key: x-a, value: bypass", "a client may send x-vsr-response-path"),
        Damage("- remove: x-vsr-selected-model\n", "\n", "a client may send x-vsr-selected-model"),
    ),
    "`route: cluster_header`": (
        Damage("cluster_header: x-upstream-cluster,", "cluster: small,", "needs 'cluster_header: x-upstream-cluster'"),
    ),
    "`cluster_not_found_response_code": (Damage("code: SERVICE_UNAVAILABLE, ", "code: NOT_FOUND, ", "with a 404"),),
    "`timeout: 0s`, `idle_timeout: 600s`": (
        Damage("timeout: 0s, idle_timeout: 600s }", "idle_timeout: 600s }", "15 s"),
        Damage("timeout: 0s, idle_timeout: 600s }", "timeout: 0s, idle_timeout: 5s }", "longer than 5 s"),
    ),
    "`request_body_mode: BUFFERED`": (Damage("request_body_mode: BUFFERED", "request_body_mode: STREAMED", "must be BUFFERED"),),
    "`response_*_mode: SEND`/`STREAMED`": (
        Damage("response_body_mode: STREAMED", "response_body_mode: NONE", "must be STREAMED", USAGE),
        Damage("response_header_mode: SEND", "response_header_mode: SKIP", "must be SEND", USAGE),
        Damage("response_header_mode: SKIP", "response_header_mode: SEND", "requests that are not HTTP"),
    ),
    "`request_headers_to_remove": (
        Damage("headers_to_remove: [ x-upstream-cluster ]", "headers_to_remove: [ x-a ]", "would see it"),
    ),
    "`response_headers_to_add": (Damage("header: { key: x-vsr-decision-reason,", "header: { key: x-a,", "do not see"),),
    "`mutation_rules` with": (
        Damage(_RULES[0], "", "could change any header"),
        Damage("disallow_all: true", "disallow_all: true\n                disallow_is_error: true", "500"),
    ),
    "`per_connection_buffer_limit_bytes": (
        Damage("per_connection_buffer_limit_bytes: 16777216", "", "413"),
        Damage("limit_bytes: 16777216", "limit_bytes: 32768", "is small"),
        Damage("limit_bytes: 16777216", "limit_bytes: 16777217", "must not exceed"),
    ),
    "`local_reply_config` turns 504": (
        Damage(_REPLIES[0], "", "local_reply_config is missing"),
        Damage("              status_code: 503\n", "", "turns a 504 into a 503"),
    ),
    "`message_timeout: 1s`": (Damage("message_timeout: 1s", "message_timeout: 0.2s", "Envoy gives up"),),
    "`max_message_timeout": (
        Damage("max_message_timeout: 120s", "max_message_timeout: 10s", "coalesce_timeout_seconds is 30", WAITING),
    ),
    "`local_reply_config`, first of all": (Damage("startsWith('sr_')", "startsWith('a')", "would lose their messages"),),
    "`retry_back_off`": (
        Damage(_POLICY[0], "", "retry_policy is missing"),
        Damage("retry_back_off: { base_interval: 0.005s, max_interval: 0.02s }", "", "retry_back_off is missing"),
    ),
    "`previous_hosts`": (
        Damage("v3.PreviousHostsPredicate", "v3.OtherPredicate", "no previous_hosts predicate"),
        Damage("                  host_selection_retry_max_attempts: 50\n", "", "host_selection_retry_max_attempts .1. is small"),
    ),
    "cluster `ext_proc`: `healthy_panic": (Damage("threshold: { value: 0 }", "threshold: { value: 50 }", "is not 0"),),
    "cluster `ext_proc`: gRPC health": (
        Damage(
            "grpc_health_check: { service_name: envoy.service.ext_proc.v3.ExternalProcessor }",
            "tcp_health_check: {}",
            "has no grpc",
        ),
        Damage("      no_traffic_interval: 1s\n", "", "no_traffic_interval is not set"),
    ),
    "cluster `ext_proc`: circuit": (
        Damage("max_requests: 20000, ", "", "1024 exchanges"),
        Damage(", max_retries: 1000", "", "retry_policy has no effect"),
    ),
    "`normalize_path`": (
        Damage("normalize_path: true", "", "normalize_path must be true", GUARDED),
        Damage("merge_slashes: true", "", "merge_slashes must be true"),
        Damage("path_with_escaped_slashes_action: UNESCAPE_AND_FORWARD", "", "UNESCAPE_AND_FORWARD"),
    ),
    "`/v1/models`": (
        Damage("{ prefix: /v1/models/, headers: *reading }", "{ prefix: /v1/models/ }", "/v1/models/ unread", GUARDED),
    ),
    "GUARDED": (Damage("numerator: 0 }", "numerator: 99 }", "GUARDED, numerator: 100", GUARDED),),
    "`upgrade_configs: websocket`": (
        Damage(
            "stat_prefix: openai\n", "stat_prefix: openai\n          upgrade_configs: [ { upgrade_type: websocket } ]\n", "hang"
        ),
    ),
    "ext_proc before the router": (Damage(*behind_the_router("rbac"), "is behind ext_proc", CACHING),),
    "`request_timeout": (Damage("          request_timeout: 120s", "         ", "any time to send its body"),),
    "`common_http_protocol_options": (Damage("common_http_protocol_options: { idle_timeout: 300s }", "", "an hour"),),
    "`overload_manager`: `global": (
        Damage("envoy.resource_monitors.global_downstream_max_connections\n", "envoy.a\n", "number of connections"),
    ),
    "`overload_manager`: `fixed_heap`": (
        Damage("  - name: envoy.resource_monitors.fixed_heap\n", "  - name: a\n", "the memory that clients"),
        Damage("name: envoy.overload_actions.stop_accepting_requests", "name: a", "stop_accepting_requests"),
    ),
    "access log": (Damage("%PATH(NQ)%", "%REQ(:path)%", "logs the query"),),
    "admin on 127.0.0.1": (
        Damage("address: 127.0.0.1, port_value: 9901", "address: 0.0.0.0, port_value: 9901", "can stop Envoy"),
    ),
    "one endpoint": (Damage("port_value: 50051", "port_value: 50061", "worker 0 listens"),),
}


def rows() -> list[str]:
    """The first cell of each row of the table."""
    lines = (ROOT / "envoy/README.md").read_text(encoding="utf-8").splitlines()
    cells = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    assert cells[0] == "what"
    return cells[1:]


def test_every_row_is_taken_away_below() -> None:
    """The table has no other rows. The first words of a row identify it."""
    meant = [[key for key in ROWS if row.startswith(key)] for row in rows()]
    assert sorted(meant) == sorted([key] for key in ROWS)


@pytest.mark.usefixtures("without_envoy")
@pytest.mark.parametrize("row", ROWS)
def test_a_row_that_is_missing_is_told(tmp_path: Path, row: str) -> None:
    """It is reported however it is missing or reversed, and only then."""
    for damage in ROWS[row]:
        switch = [] if "numerator" in damage.old else [SWITCHED]
        if switch:
            assert not [p for p in problems(tmp_path, *switch, config=damage.config) if re.search(damage.said, p.message)]
        found = problems(tmp_path, *switch, (damage.old, damage.new), config=damage.config)
        assert [p for p in found if re.search(damage.said, p.message)], "\n".join(map(str, found))
