"""What happens when a part is down, slow, or dies during a request: the client is served, or gets a clean error."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2 as httpx
import pytest
import yaml

from tests.e2e.stack import Stack, get, wait_for

CODE = "Write a Python function that merges two sorted lists."
Start = Callable[..., Stack]


def post(stack: Stack, text: str = CODE, timeout_s: float = 30, **fields: Any) -> httpx.Response:
    """Send one question and let the router choose the model."""
    headers = {"x-upstream-cluster": "large", **fields.pop("headers", {})}
    body = {"model": "auto", "messages": [{"role": "user", "content": text}], "max_tokens": 5, **fields}
    return httpx.post(f"{stack.url}/v1/chat/completions", json=body, headers=headers, timeout=timeout_s)


def fail_closed(envoy: dict[str, Any]) -> None:
    """Configure Envoy to return an error rather than an unrouted answer."""
    manager = envoy["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"][0]["typed_config"]["failure_mode_allow"] = False


def test_with_the_router_dead_the_default_cluster_serves_and_nobody_can_choose_another(own_stack: Start) -> None:
    """The answer says that nobody routed it. When the router is back, routing resumes without a restart of Envoy."""
    stack = own_stack()
    assert post(stack).headers["x-vsr-selected-model"] == "coder"
    stack.kill("router")
    response = post(stack)
    assert (response.status_code, response.headers["x-vsr-response-path"]) == (200, "bypass")
    assert response.json()["model"] in ("auto", "small")
    assert httpx.get(f"{stack.url}/v1/models", timeout=10).status_code == 200
    stack.start_router()
    stack.wait_until_routing()
    assert post(stack).headers["x-vsr-selected-model"] == "coder"


def test_with_the_router_dead_and_fail_closed_the_client_gets_a_clean_503(own_stack: Start) -> None:
    """It has OpenAI's shape."""
    stack = own_stack(edit_envoy=fail_closed)
    assert post(stack).headers["x-vsr-selected-model"] == "coder"
    stack.kill("router")
    response = post(stack)
    assert response.status_code == 503
    assert response.json()["error"]["type"] == "server_error"


def test_a_stalled_router_costs_a_second_and_then_the_default_cluster_serves(own_stack: Start) -> None:
    """After SIGSTOP the sockets are open and nobody answers."""
    stack = own_stack()
    os.killpg(stack.processes["router"].pid, signal.SIGSTOP)
    began = time.monotonic()
    response = post(stack)
    assert (response.status_code, response.headers["x-vsr-response-path"]) == (200, "bypass")
    assert time.monotonic() - began < 5
    os.killpg(stack.processes["router"].pid, signal.SIGCONT)
    stack.wait_until_routing()
    wait_for(lambda: post(stack).headers["x-vsr-response-path"] == "upstream", "routing after the stall")


def test_a_stream_survives_the_death_of_the_router_that_routed_it(own_stack: Start) -> None:
    """Every event arrives, for the router had left the stream before the first token."""
    stack = own_stack()
    lines = []
    body = {"model": "auto", "messages": [{"role": "user", "content": CODE}], "stream": True}
    pace = {"x-sim-token-ms": "30", "x-sim-answer-tokens": "40"}
    with httpx.stream("POST", f"{stack.url}/v1/chat/completions", json=body, headers=pace, timeout=30) as response:
        assert response.headers["x-vsr-selected-model"] == "coder"
        for line in response.iter_lines():
            if not lines:
                stack.kill("router")
            lines.append(line)
    assert "data: [DONE]" in lines
    assert sum(line.startswith("data: {") for line in lines) >= 40


@pytest.mark.parametrize("edit_envoy", [None, fail_closed])
def test_requests_in_the_router_when_it_is_killed_are_served_or_refused_cleanly(own_stack: Start, edit_envoy: Any) -> None:
    """With fail-open, every request gets a 200. With fail-closed, it gets a 200 or a 503 with a readable body."""
    stack = own_stack(**({"edit_envoy": edit_envoy} if edit_envoy else {}))
    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(post, stack, f"{CODE} Number {number}.") for number in range(120)]
        wait_for(lambda: sum(asking.done() for asking in asked) >= 16, "the first answers, while others are under way")
        stack.kill("router")
        answers = [asking.result() for asking in asked]
    allowed = {200} if edit_envoy is None else {200, 503}
    assert {answer.status_code for answer in answers} <= allowed
    assert all("error" in answer.json() for answer in answers if answer.status_code != 200)


@contextlib.contextmanager
def load(stack: Stack) -> Iterator[list[tuple[int, str, str]]]:
    """Four clients ask without pause. Return status, response path and model of each answer."""
    stop, seen = threading.Event(), list[tuple[int, str, str]]()

    def ask() -> None:
        while not stop.is_set():
            response = post(stack, "hi", headers={"x-sim-first-token-ms": "1", "x-sim-token-ms": "1"})
            headers = response.headers
            seen.append((response.status_code, headers["x-vsr-response-path"], headers.get("x-vsr-selected-model", "")))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: len(seen) > 20, "the load")
        yield seen
        before = len(seen)
        wait_for(lambda: len(seen) > before + 20, "the load after it")
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)


def enough_drain(config: dict[str, Any]) -> None:
    """Drain for two seconds, for Envoy notices within one that a worker leaves. The shipped configuration drains for four."""
    config["server"].update(drain_seconds=2)


def change_default(stack: Stack, model: str) -> None:
    """Change in the file what the router decides for small talk."""
    config = yaml.safe_load(stack.config_path.read_text())
    config["default"]["model"] = model
    stack.config_path.write_text(yaml.safe_dump(config, sort_keys=False))


def restart(stack: Stack) -> subprocess.CompletedProcess[str]:
    """Run `semantic-router restart` as an operator does."""
    command = [sys.executable, "-m", "router", "restart", "--config", str(stack.config_path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def never_unhealthy(envoy: dict[str, Any]) -> None:
    """Keep Envoy's health check from removing an endpoint, as between a worker's death and the next check."""
    cluster = next(one for one in envoy["static_resources"]["clusters"] if one["name"] == "ext_proc")
    cluster["health_checks"][0]["unhealthy_threshold"] = 1000


def test_with_one_of_two_workers_killed_the_other_one_reads_every_request(own_stack: Start) -> None:
    """A request that meets the dead worker is retried on the other. By chance alone, one in eight would meet it twice."""
    stack = own_stack(workers=2, edit_envoy=never_unhealthy)
    workers = json.loads(get(f"{stack.admin_url}/readyz")[1])["workers"]
    os.kill(stack.processes["router"].pid, signal.SIGSTOP)  # so that no worker replaces it
    os.kill(workers[0]["pid"], signal.SIGKILL)
    fast = {"x-sim-first-token-ms": "1", "x-sim-token-ms": "1"}
    paths = [post(stack, "hi", headers=fast).headers["x-vsr-response-path"] for _ in range(100)]
    assert stack.healthy_workers() == 2
    assert paths.count("bypass") == 0, f"{paths.count('bypass')} of 100 bypassed the living worker"


def test_a_restart_with_one_worker_loses_and_bypasses_nothing(own_stack: Start) -> None:
    """The spare worker serves meanwhile. Afterwards the new configuration is in force."""
    stack = own_stack(edit_config=enough_drain)
    with load(stack) as seen:
        change_default(stack, "large")
        done = restart(stack)
    assert done.returncode == 0, done.stderr
    assert {answer[:2] for answer in seen} == {(200, "upstream")}
    assert (seen[0][2], seen[-1][2]) == ("small", "large")


def test_a_bad_file_changes_nothing_and_a_good_one_everything_without_a_loss(own_stack: Start) -> None:
    """A worker that ends returns unchanged. SIGHUP and the command refuse the bad file. A corrected one replaces both."""
    stack = own_stack(workers=2, edit_config=enough_drain)
    good = stack.config_path.read_text()
    with load(stack) as seen:
        stack.config_path.write_text(good.replace("deadline_ms", "dedline_ms"))
        workers = json.loads(get(f"{stack.admin_url}/readyz")[1])["workers"]
        os.kill(workers[0]["pid"], signal.SIGTERM)
        wait_for(lambda: stack.healthy_workers() == 1, "the worker to leave")
        wait_for(lambda: stack.healthy_workers() == 2, "the worker to come back")
        os.killpg(stack.processes["router"].pid, signal.SIGHUP)  # a terminal sends it to the workers too
        wait_for(lambda: "nothing was changed" in stack.output("router"), "the refusal")
        assert f"{stack.config_path}:" in stack.output("router")
        done = restart(stack)
        assert done.returncode == 2
        assert "signals.dedline_ms" in done.stderr
        assert json.loads(get(f"{stack.admin_url}/readyz")[1])["workers"][1]["pid"] == workers[1]["pid"]
        stack.config_path.write_text(good)
        change_default(stack, "large")
        assert restart(stack).returncode == 0
    assert {answer[:2] for answer in seen} == {(200, "upstream")}
    assert (seen[0][2], seen[-1][2]) == ("small", "large")


def test_a_router_that_is_stopped_beside_another_loses_nothing(own_stack: Start) -> None:
    """SIGTERM drains: health changes first, requests in flight end, and the other router in Envoy's cluster serves."""
    stack = own_stack(edit_config=enough_drain)
    config = yaml.safe_load(stack.config_path.read_text())
    config["server"]["address"], config["admin"]["enabled"] = f"127.0.0.1:{stack.router_port + 2}", False
    (stack.folder / "other.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    other = subprocess.Popen([sys.executable, "-m", "router", "serve", "--config", str(stack.folder / "other.yaml")])
    try:
        wait_for(lambda: stack.healthy_workers() == 2, "the other router")
        with load(stack) as seen:
            assert stack.kill("router", signal.SIGTERM) == 0
        assert {answer[:2] for answer in seen} == {(200, "upstream")}
    finally:
        other.send_signal(signal.SIGINT)
        other.wait(10)


def test_after_the_supervisor_was_killed_another_router_can_start_at_once(own_stack: Start) -> None:
    """Its workers release their ports, whatever they still have to finish."""
    stack = own_stack(edit_config=enough_drain)
    with stack.processes.pop("router") as supervisor:
        supervisor.kill()
    stack.start_router()
    stack.wait_until_routing()
    assert post(stack).headers["x-vsr-response-path"] == "upstream"


def test_sigterm_ends_the_router_with_status_zero(own_stack: Start) -> None:
    """It ends cleanly within the drain's time."""
    stack = own_stack()
    assert stack.kill("router", signal.SIGTERM) == 0


def test_sigint_ends_it_at_once(own_stack: Start) -> None:
    """A terminal sends SIGINT on Ctrl-C."""
    stack = own_stack()
    began = time.monotonic()
    assert stack.kill("router", signal.SIGINT) == 0
    assert time.monotonic() - began < 2


def test_a_client_that_leaves_mid_stream_stops_the_model(own_stack: Start) -> None:
    """No GPU works in vain."""
    stack = own_stack()
    body = {"model": "auto", "messages": [{"role": "user", "content": CODE}], "stream": True}
    pace = {"x-sim-token-ms": "50", "x-sim-answer-tokens": "400"}
    with httpx.stream("POST", f"{stack.url}/v1/chat/completions", json=body, headers=pace, timeout=30) as response:
        next(response.iter_lines())
    wait_for(lambda: json.loads(get(f"{stack.model_url('coder')}/sim/count")[1])["aborted"] == 1, "the model to stop")


def test_a_client_that_leaves_mid_request_leaves_nothing_behind(own_stack: Start) -> None:
    """The body never ends, and the router goes on serving."""
    stack = own_stack()
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", stack.envoy_port)) as connection:
            connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{")
    assert post(stack).headers["x-vsr-selected-model"] == "coder"
    wait_for(lambda: "llm_router_active_exchanges 0" in get(f"{stack.admin_url}/metrics")[1], "no open exchange")


def test_a_model_that_dies_is_an_error_in_openais_shape(own_stack: Start) -> None:
    """The connection is refused. The answer is a 503 with a body that OpenAI's client can read."""
    stack = own_stack()
    stack.kill("models")
    response = post(stack)
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "upstream_unavailable"


def test_an_unreachable_signal_deadline_costs_the_decision_and_not_the_request(own_stack: Start) -> None:
    """No encoder can meet this deadline. The default decision is taken, and a header says why."""

    def no_time(config: dict[str, Any]) -> None:
        config["signals"]["deadline_ms"] = 1

    stack = own_stack(edit_config=no_time)
    response = post(stack, "Explain why the sky is blue. " * 200)
    assert (response.status_code, response.headers["x-vsr-response-path"]) == (200, "upstream")
    assert response.headers["x-vsr-decision-reason"] == "intent_missing"
    assert response.headers["x-vsr-selected-category"] == "unknown"


def test_two_workers_share_the_load(own_stack: Start) -> None:
    """Each has its own port, and both serve."""
    stack = own_stack(workers=2)
    with ThreadPoolExecutor(8) as pool:
        assert all(answer.status_code == 200 for answer in pool.map(lambda _: post(stack, "hi"), range(60)))
    metrics = get(f"{stack.admin_url}/metrics")[1]
    served = [line for line in metrics.splitlines() if line.startswith("llm_model_requests_total{")]
    assert any('worker="0"' in line for line in served)
    assert any('worker="1"' in line for line in served)


def test_usage_is_recorded_and_the_extra_chunk_is_not_shown(own_stack: Start) -> None:
    """With `telemetry.track_token_usage` the router reads token counts. The client sees only what it asked for."""

    def with_usage(config: dict[str, Any]) -> None:
        config["telemetry"]["track_token_usage"] = True

    stack = own_stack(edit_config=with_usage)
    body = {"model": "coder", "messages": [{"role": "user", "content": CODE}], "stream": True}
    response = httpx.post(f"{stack.url}/v1/chat/completions", json=body, headers={"x-sim-answer-tokens": "12"}, timeout=30)
    frames = [line for line in response.text.splitlines() if line.startswith("data: ")]
    assert frames[-1] == "data: [DONE]"
    assert all(json.loads(frame[6:])["choices"] for frame in frames[:-1])
    wait_for(
        lambda: 'llm_model_completion_tokens_total{model="coder"} 12.0' in get(f"{stack.admin_url}/metrics")[1],
        "usage metric",
    )
    asked = httpx.post(f"{stack.url}/v1/chat/completions", json={**body, "stream_options": {"include_usage": True}}, timeout=30)
    assert '"choices":[]' in asked.text.replace(" ", "")


def test_prompts_and_answers_are_in_no_log(own_stack: Start) -> None:
    """This covers the router's log and Envoy's, for requests that were served, refused or failed."""
    stack = own_stack()
    secret = "the purple elephant of Ulaanbaatar"
    assert post(stack, secret).status_code == 200
    httpx.post(f"{stack.url}/v1/chat/completions", content=f'{{"model": "auto", "{secret}": ', timeout=10)
    stack.kill("models")
    post(stack, secret)
    httpx.post(f"{stack.url}/v1/chat/completions?api_key=sesame", json={"model": "small", "messages": []}, timeout=10)
    httpx.get(f"{stack.url}/v1/files?api_key=sesame", timeout=10)
    stack.kill("envoy", signal.SIGTERM)  # Envoy writes its access log every ten seconds, and at its end
    stack.kill("router", signal.SIGTERM)
    assert '"path":"/v1/files"' in stack.output("envoy")
    assert "sesame" not in stack.output("envoy") + stack.output("router")
    assert secret not in stack.output("router") + stack.output("envoy")
    assert '"decision"' in stack.output("router")
