"""The README's table of what happens when a part is down. A test runs every row on the real Envoy."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import httpx2 as httpx
import yaml

from tests.e2e.stack import ROOT, free_port, get, running, wait_for

FAILURES, ERRORS, CACHE = "e2e/test_failures.py", "e2e/test_errors.py", "e2e/test_cache.py"
ROWS = {
    "router dead": [
        (FAILURES, "test_with_the_router_dead_the_default_cluster_serves_and_nobody_can_choose_another"),
        (FAILURES, "test_with_the_router_dead_and_fail_closed_the_client_gets_a_clean_503"),
    ],
    "router hangs": [(FAILURES, "test_a_stalled_router_costs_a_second_and_then_the_default_cluster_serves")],
    "router dies during a stream": [
        (FAILURES, "test_a_stream_survives_the_death_of_the_router_that_routed_it"),
        (CACHE, "test_a_stream_that_is_recorded_survives_the_death_of_the_router"),
    ],
    "new configuration: `semantic-router restart`, or SIGHUP": [
        (FAILURES, "test_a_restart_with_one_worker_loses_and_bypasses_nothing"),
        (FAILURES, "test_a_bad_file_changes_nothing_and_a_good_one_everything_without_a_loss"),
    ],
    "router stopped (SIGTERM)": [
        (FAILURES, "test_a_router_that_is_stopped_beside_another_loses_nothing"),
        (FAILURES, "test_sigterm_ends_the_router_with_status_zero"),
    ],
    "encoder late, overloaded or failing": [
        (FAILURES, "test_an_unreachable_signal_deadline_costs_the_decision_and_not_the_request"),
        ("e2e/test_safety.py", "test_a_late_guard_asks_for_another_attempt"),
    ],
    "a model down": [(FAILURES, "test_a_model_that_dies_is_an_error_in_openais_shape")],
    "Milvus unavailable or slow": [
        ("e2e/test_failure_table.py", "test_a_store_and_a_collector_that_are_down_cost_no_request"),
        ("contract/test_cache.py", "test_a_server_that_hangs_costs_a_bounded_wait_and_soon_none"),
    ],
    "tracing collector or log reader down": [
        ("e2e/test_failure_table.py", "test_a_store_and_a_collector_that_are_down_cost_no_request"),
        ("contract/test_logs.py", "test_a_reader_that_stalls_costs_lines_and_never_time"),
    ],
}
"""For each row of the table, the test that runs it: file below tests/, and function."""


def rows() -> list[list[str]]:
    """The table, cell by cell, without its head."""
    section = (ROOT / "README.md").read_text().partition("## When something is down")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_row_is_run_by_a_test() -> None:
    """Every named test exists."""
    assert {what for what, *_ in rows()} == set(ROWS)
    for file, name in (run for runs in ROWS.values() for run in runs):
        tree = ast.parse((ROOT / "tests" / file).read_text())
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}, name


def test_what_it_is_seen_by_is_there() -> None:
    """The last column names headers and metrics that Envoy or the router sets."""
    code = "".join(path.read_text() for path in (ROOT / "router").rglob("*.py")) + (ROOT / "envoy" / "envoy.yaml").read_text()
    named = {word for *_, seen in rows() for word in re.findall(r"`([^`]+)`", seen)}
    assert named
    for word in named:
        assert word.partition(":")[0].removesuffix("_total") in code, word


def test_a_store_and_a_collector_that_are_down_cost_no_request(tmp_path: Path) -> None:
    """Nothing listens at the ports of Milvus and the collector. Questions are answered, and repeated ones come from memory.
    Metrics show the failure.
    """
    (tmp_path / "milvus.yaml").write_text(yaml.safe_dump({"connection": {"host": "127.0.0.1", "port": free_port()}}))

    def edit(config: dict[str, Any]) -> None:
        config["semantic_cache"] = {"enabled": True, "backend_type": "milvus", "backend_config_path": "milvus.yaml"}
        config["telemetry"]["tracing"] = {"enabled": True, "endpoint": f"http://127.0.0.1:{free_port()}", "sample_ratio": 1.0}

    with running(tmp_path, edit_config=edit) as stack:

        def ask() -> httpx.Response:
            body = {"model": "auto", "messages": [{"role": "user", "content": "What is a B-tree?"}]}
            pace = {"authorization": "Bearer a", "x-sim-token-ms": "1", "x-sim-answer-tokens": "20"}
            return httpx.post(f"{stack.url}/v1/chat/completions", json=body, headers=pace, timeout=30)

        first = ask()
        assert (first.status_code, first.headers["x-vsr-response-path"]) == (200, "upstream")
        wait_for(lambda: ask().headers["x-vsr-cache-hit"] == "true", "a hit from memory")
        assert ask().json()["choices"] == first.json()["choices"]
        assert "llm_cache_store_up 0.0" in get(f"{stack.admin_url}/metrics")[1]
