"""The measured system: the project's own Envoy and router, a way that bypasses the router, and backends that cost next to
nothing.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from router.envoy.binary import find_envoy
from tests.e2e.stack import Stack, free_port, get, wait_for

_MESSAGE = {"role": "assistant", "content": "word " * 99}
_CHOICE = {"index": 0, "message": _MESSAGE, "finish_reason": "stop"}
_USAGE = {"prompt_tokens": 9, "completion_tokens": 99, "total_tokens": 108}
ANSWER = json.dumps({"id": "x", "object": "chat.completion", "model": "small", "choices": [_CHOICE], "usage": _USAGE})
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass
class Rig(Stack):
    """A stack whose models are an Envoy that answers at once. `coder` is different: it streams stamped events."""

    plain_port: int = field(default_factory=free_port)
    """Leads to `small` without the router."""
    plain_stream_port: int = field(default_factory=free_port)
    """Leads to `coder` without the router."""

    def start_models(self) -> None:
        """A second Envoy with a fixed answer, and the streaming backend."""
        path = self.folder / "models.yaml"
        listeners = [_fixed(name, port) for name, port in self.model_ports.items() if name != "coder"]
        path.write_text(yaml.safe_dump({"static_resources": {"listeners": listeners}}))
        self._run("models", [find_envoy(), "-c", str(path), "-l", "error", "--use-dynamic-base-id", "--concurrency", "1"])
        self._run("stream", [sys.executable, str(Path(__file__).parent / "upstream.py"), str(self.model_ports["coder"])])
        wait_for(lambda: get(self.model_url("small"))[0] == 200, "models")

    def cpu_s(self, name: str) -> float:
        """Processor seconds that a part and its children have used (Linux)."""
        pids = [self.processes[name].pid]
        children = subprocess.run(["pgrep", "-P", str(pids[0])], capture_output=True, text=True, check=False).stdout.split()
        return sum(_cpu_s(pid) for pid in [*pids, *map(int, children)])


def add_plain(rig: Rig, envoy: dict[str, Any]) -> None:
    """Add two listeners that differ from the first only in lacking the router. They show what Envoy alone costs."""
    listeners = envoy["static_resources"]["listeners"]
    for port, cluster in ((rig.plain_port, "small"), (rig.plain_stream_port, "coder")):
        listener = copy.deepcopy(listeners[0])
        listener["name"] = f"plain-{cluster}"
        listener["address"]["socket_address"]["port_value"] = port
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        manager["stat_prefix"] = listener["name"]
        del manager["http_filters"][0]
        manager["early_header_mutation_extensions"][0]["typed_config"]["mutations"][0]["append"]["header"]["value"] = cluster
        [host] = manager["route_config"]["virtual_hosts"]
        for route in (host, *host["routes"]):
            route.pop("typed_per_filter_config", None)
        listeners.append(listener)


def make_rig(folder: Path, workers: int = 1, threads: int = 0) -> Rig:
    """A rig. `start` starts it and `stop` ends it."""
    folder.mkdir(parents=True, exist_ok=True)

    def edit(config: dict[str, Any]) -> None:
        config["server"]["threads"] = threads

    rig = Rig(folder, edit_config=edit, workers=workers)
    rig.edit_envoy = lambda envoy: add_plain(rig, envoy)
    return rig


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def _fixed(name: str, port: int) -> dict[str, Any]:
    """A listener that answers everything with the same JSON."""
    route = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 200, "body": {"inline_string": ANSWER}},
        "response_headers_to_add": [{"header": {"key": "content-type", "value": "application/json"}}],
    }
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "route_config": {"virtual_hosts": [{"name": name, "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    return {
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}],
    }


@dataclass
class LiteLLM:
    """LiteLLM's proxy in its own environment, which routes to the same backend by model name."""

    folder: Path
    backend_url: str
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self, venv: Path) -> None:
        """Install it on first use, then start it with one worker and without logging."""
        program = venv / "bin" / "litellm"
        if not program.exists():
            print(f"installing litellm[proxy] into {venv} (a minute, once) ...", flush=True)
            subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
            subprocess.run([str(venv / "bin" / "pip"), "install", "-q", "litellm[proxy]"], check=True)
        config = self.folder / "litellm.yaml"
        parameters = {"model": "openai/small", "api_base": f"{self.backend_url}/v1", "api_key": "none"}
        settings = {"model_list": [{"model_name": "small", "litellm_params": parameters}]}
        config.write_text(yaml.safe_dump(settings))
        environment = {
            **os.environ,
            "LITELLM_LOG": "ERROR",
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            # It is fastest without keys to check.
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        }
        with (self.folder / "litellm.log").open("wb") as log:
            self.process = subprocess.Popen(
                [str(program), "--config", str(config), "--port", str(self.port), "--host", "127.0.0.1"],
                stdout=log, stderr=log, env=environment, cwd=self.folder,
            )  # fmt: skip
        url, process = f"http://127.0.0.1:{self.port}/health/liveliness", self.process
        wait_for(lambda: get(url)[0] == 200 or process.poll() is not None, "litellm", 120)
        if process.poll() is not None:
            raise RuntimeError((self.folder / "litellm.log").read_text()[-2000:])

    def stop(self) -> None:
        """End it."""
        if self.process:
            self.process.kill()
            self.process.wait()
