"""The real system on free ports: Envoy with the project's envoy.yaml, the router as users start it, mock vLLM backends."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import yaml

from router.envoy.binary import find_envoy

ROOT = Path(__file__).parents[2]
MODELS = ("small", "large", "coder")
ENDPOINTS = 5
"""Endpoints of the cluster ext_proc in envoy.yaml: the workers, and the spare one of a restart."""
Edit = Callable[[dict[str, Any]], None]


STACKS: dict[str, Stack] = {}
"""Running stacks by the base URL of their clients."""
_given: set[int] = set()


def free_port() -> int:
    """A TCP port that was free a moment ago; each is given once.

    Not one that the system would name: it gives those to outgoing connections too, before the port is used.
    """
    while True:
        port = random.SystemRandom().randrange(12_000, 32_000)  # below the range of ports for outgoing connections
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 30) -> None:
    """Poll until `condition` holds; fail with `what` when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"timed out waiting for {what}"
        time.sleep(0.03)


def get(url: str, timeout_s: float = 5) -> tuple[int, str]:
    """Status and text of a GET; status 0 when nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:  # noqa: S310 - loopback only
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


@dataclass
class Stack:
    """Envoy, router and mock vLLM backends, each killable on its own. Everything that they write is in `folder`."""

    folder: Path
    edit_config: Edit = lambda config: None
    """Changes the router's configuration before it is written."""
    edit_envoy: Edit = lambda envoy: None
    workers: int = 1
    envoy_port: int = field(default_factory=free_port)
    envoy_admin_port: int = field(default_factory=free_port)
    admin_port: int = field(default_factory=free_port)
    model_ports: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in MODELS})
    router_port: int = 0
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self) -> Stack:
        """Start all parts, and wait until the router would answer a request."""
        self.router_port = self.consecutive_ports(ENDPOINTS)
        self.write_files()
        self.start_models()
        self.start_router()
        self.start_envoy()
        self.wait_until_routing()
        return self

    def wait_until_idle(self) -> None:
        """Wait until no exchange is open. Every answer that may be stored is then stored."""

        def open_exchanges() -> list[str]:
            page = get(f"{self.admin_url}/metrics")[1]
            return re.findall(r"^llm_router_active_exchanges(?:\{.*\})? (\S+)$", page, re.MULTILINE)

        wait_for(lambda: set(open_exchanges()) == {"0.0"}, "no open exchange")

    def stop(self) -> None:
        """End every part, and show the output of one that did not end well."""
        for name in list(self.processes):
            self.kill(name, signal.SIGKILL)

    def write_files(self) -> None:
        """Write the project's own two files, with free ports and the test's edits."""
        config = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
        config["server"] = {
            **config.get("server", {}),
            "address": f"127.0.0.1:{self.router_port}",
            "workers": self.workers,
            "drain_seconds": 0.5,
            "shutdown_timeout_seconds": 5,
        }
        config["admin"] = {"enabled": True, "address": f"127.0.0.1:{self.admin_port}"}
        self.edit_config(config)
        self.config_path.write_text(yaml.safe_dump(config, sort_keys=False))
        envoy = yaml.safe_load((ROOT / "envoy" / "envoy.yaml").read_text())
        envoy["admin"]["address"]["socket_address"]["port_value"] = self.envoy_admin_port
        envoy["static_resources"]["listeners"][0]["address"]["socket_address"] = {
            "address": "127.0.0.1",
            "port_value": self.envoy_port,
        }
        for cluster in envoy["static_resources"]["clusters"]:
            is_router = cluster["name"] == "ext_proc"
            first = self.router_port if is_router else self.model_ports[cluster["name"]]
            for offset, endpoint in enumerate(cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]):
                endpoint["endpoint"]["address"]["socket_address"]["port_value"] = first + offset
        self.edit_envoy(envoy)
        self.envoy_path.write_text(yaml.safe_dump(envoy, sort_keys=False))

    def start_models(self) -> None:
        """Start one process for all mock vLLM backends."""
        backends = [f"{name}=127.0.0.1:{port}" for name, port in self.model_ports.items()]
        self._run("models", [sys.executable, "-m", "router", "mock-vllm", *backends])
        self._wait_for("models", lambda: all(get(f"{self.model_url(name)}/health")[0] == 200 for name in MODELS))

    def start_router(self) -> None:
        """Start `semantic-router serve`, and wait until it is ready."""
        self._run("router", [sys.executable, "-m", "router", "serve", "--config", str(self.config_path)])
        self._wait_for("router", lambda: get(f"{self.admin_url}/readyz")[0] == 200)

    def start_envoy(self) -> None:
        """Start the real Envoy."""
        self._run(
            "envoy",
            [find_envoy(), "-c", str(self.envoy_path), "-l", "warning", "--use-dynamic-base-id", "--concurrency", "1"],
        )
        self._wait_for("envoy", lambda: get(f"{self.envoy_admin_url}/ready")[0] == 200)

    def kill(self, name: str, signum: int = signal.SIGKILL, timeout_s: float = 20) -> int:
        """Signal a part with all its children, wait for its end, and return its exit status."""
        process = self.processes.pop(name)
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signum)
        return process.wait(timeout_s)

    def wait_until_routing(self) -> None:
        """Wait until Envoy's health check has seen every worker."""
        wanted = self.workers
        wait_for(lambda: self.healthy_workers() == wanted, f"{wanted} healthy workers")

    def healthy_workers(self) -> int:
        """The number of ext_proc endpoints that Envoy would use now."""
        return self.envoy_stat("cluster.ext_proc.membership_healthy")

    # -- places --------------------------------------------------------------------------------------------------

    @property
    def config_path(self) -> Path:
        """The router's configuration."""
        return self.folder / "config.yaml"

    @property
    def envoy_path(self) -> Path:
        """Envoy's configuration."""
        return self.folder / "envoy.yaml"

    @property
    def url(self) -> str:
        """The address for clients."""
        return f"http://127.0.0.1:{self.envoy_port}"

    @property
    def admin_url(self) -> str:
        """The router's admin port."""
        return f"http://127.0.0.1:{self.admin_port}"

    @property
    def envoy_admin_url(self) -> str:
        """Envoy's admin port."""
        return f"http://127.0.0.1:{self.envoy_admin_port}"

    def model_url(self, name: str) -> str:
        """A mock vLLM backend, without Envoy."""
        return f"http://127.0.0.1:{self.model_ports[name]}"

    # -- what happened -------------------------------------------------------------------------------------------

    def envoy_stat(self, name: str) -> int:
        """One of Envoy's counters or gauges, or 0 if it was never touched."""
        _, text = get(f"{self.envoy_admin_url}/stats?filter=^{name}$")
        return int(text.rsplit(":", 1)[1]) if ":" in text else 0

    def seen(self, model: str, request_id: str) -> dict[str, Any]:
        """The request that a mock vLLM backend received: `body` as text, and `headers`."""
        status, text = get(f"{self.model_url(model)}/sim/requests/{request_id}")
        assert status == 200, f"{model} never saw {request_id}"
        document: dict[str, Any] = json.loads(text)
        return document

    def output(self, name: str) -> str:
        """The output of a part so far."""
        return (self.folder / f"{name}.log").read_text()

    def _run(self, name: str, command: list[str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, start_new_session=True)

    def _wait_for(self, name: str, condition: Callable[[], bool]) -> None:
        """Wait until a part answers. A part that has ended never will."""
        wait_for(lambda: condition() or self.processes[name].poll() is not None, name)
        assert self.processes[name].poll() is None, f"{name} ended: {self.output(name)[-2000:]}"

    def client(self, api_key: str = "test-token", timeout_s: float = 30) -> openai.OpenAI:
        """The real OpenAI client, pointed at Envoy. It never retries."""
        made = openai.OpenAI(base_url=f"{self.url}/v1", api_key=api_key, max_retries=0, timeout=timeout_s)
        STACKS[str(made.base_url)] = self
        return made

    @staticmethod
    def consecutive_ports(count: int) -> int:
        """The first of several consecutive free ports. Worker i listens on the i-th."""
        for _ in range(50):
            first = free_port()
            with contextlib.ExitStack() as held, contextlib.suppress(OSError):
                rest = range(first + 1, first + count)
                for port in rest:
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
                if _given.isdisjoint(rest):
                    _given.update(rest)
                    return first
        raise AssertionError("no consecutive free ports")


def decided(client: openai.OpenAI, text: str, model: str = "auto") -> dict[str, str]:
    """The router's headers of an answer."""
    raw = client.chat.completions.with_raw_response.create(
        model=model, messages=[{"role": "user", "content": text}], max_tokens=5
    )
    return {name: value for name, value in raw.headers.items() if name.startswith("x-vsr-")}


@contextlib.contextmanager
def running(folder: Path, **options: Any) -> Iterator[Stack]:
    """A started stack that is stopped afterwards. Its output is shown when the test fails."""
    stack = Stack(folder, **options)
    try:
        yield stack.start()
    except BaseException:
        for log in sorted(folder.glob("*.log")):
            print(f"--- {log.name}\n{log.read_text()[-4000:]}")
        raise
    finally:
        stack.stop()
