"""The sections `server`, `admin` and `telemetry`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from router.config.keys import Choice, FilePath, Flag, Integer, Number, Text, Texts, key, subsection
from router.config.reader import Section
from router.core.openai.bodysize import DEFAULTS, BodyBounds
from router.files import is_usable

_HOST_NAME = r"[A-Za-z0-9]([\w.-]{0,251}[A-Za-z0-9])?"
_LAST_PORT = 65535
_MAX_SOCKET_BYTES = 107
"""Of a socket's path, on Linux."""
_MAX_DEPTH = 500  # Python's parser and encoder give up at about 900 levels
ADDRESS = Text("address", "'host:port' or 'unix:/path'", r"(unix:/\S+|[^\s:]+:\d{1,5}|\[[0-9A-Fa-f:]+\]:\d{1,5})")
LOG_LEVEL = Choice(("debug", "info", "warning", "error"))


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Where and how Envoy is served."""

    address: str = key(
        ADDRESS,
        "Where worker 0 serves ext_proc. Worker i listens on port + i, or on the socket's path with `.i` appended.",
        "127.0.0.1:50051",
    )
    workers: int = key(
        Integer(1, 64),
        "Serving processes, under one that starts them. Each needs its own endpoint in envoy.yaml, and a restart needs one more "
        "for its spare worker (the shipped file has five).",
        1,
    )
    threads: int = key(
        Integer(0, 256),
        "Encoder threads of each worker. 0 divides the cores that this process may use among the workers, at least one thread "
        "each. That is the machine's cores, limited by affinity and by the container's CPU limit (cgroup v2 `cpu.max`, v1 "
        "`cpu.cfs_quota_us`); a fraction counts as one. A Kubernetes CPU request without a limit bounds nothing: set the threads "
        "there.",
        0,
    )
    max_body_bytes: int = key(
        Integer(1024, 1024**3),
        "Largest message from Envoy; not below envoy.yaml's `per_connection_buffer_limit_bytes`, or larger requests "
        "bypass the router.",
        16 * 1024 * 1024,
    )
    max_values: int = key(
        Integer(100, 100_000_000),
        "Elements, members, arrays and objects of a request body together (nested arrays and objects count twice). Text does not "
        "count, however long. Above it: 413, code `body_too_complex`.",
        DEFAULTS.max_values,
    )
    max_keys: int = key(
        Integer(10, 100_000_000),
        "Keys of all objects of a body together. 2,000 messages with 200 tools of ten parameters have 19,605. Above it: 413, "
        "code `body_too_complex`.",
        DEFAULTS.max_keys,
    )
    max_depth: int = key(
        Integer(8, _MAX_DEPTH), "Levels of nested arrays and objects. Deeper: 400, code `nested_too_deeply`.", DEFAULTS.max_depth
    )
    max_messages: int = key(
        Integer(1, 100_000_000),
        "Messages and parts of their contents together. Above it: 413, code `body_too_complex`.",
        DEFAULTS.max_messages,
    )
    drain_seconds: float = key(
        Number(0, 600),
        "How long a leaving worker still accepts exchanges while it answers Envoy's health check with NOT_SERVING. At least that "
        "check's `interval` times its `unhealthy_threshold`, plus its `timeout` (3 with the shipped envoy.yaml); `check` "
        "compares them. If it is shorter, requests meet a worker that has left, and Envoy retries them at another. During eight "
        "restarts with 0 and 0.5, none of 1,429 requests bypassed the router; with 0.5 and without the predicate "
        "`previous_hosts` in envoy.yaml's `retry_policy`, 8 of 445 did.",
        4.0,
    )
    shutdown_timeout_seconds: float = key(
        Number(0, 3600), "How long exchanges that are still open after that may take to end.", 30.0
    )
    state_path: str = key(
        FilePath("folder"), "For what outlives the process: Milvus Lite's folder, rejected pairs.", "", shown="see below"
    )

    @property
    def bounds(self) -> BodyBounds:
        """What a request body may hold."""
        return BodyBounds(self.max_values, self.max_keys, self.max_depth, self.max_messages)

    def address_of(self, worker: int) -> str:
        """Where worker `worker`, from 0, listens."""
        if self.address.startswith("unix:"):
            return f"{self.address}.{worker}" if worker else self.address
        host, _, port = self.address.rpartition(":")
        return f"{host}:{int(port) + worker}"

    def state_folder(self, file: str) -> Path:
        """The folder for data that outlives the process: as configured, else from STATE_DIRECTORY, else the folder of `file`."""
        found = self.state_path or os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
        return (Path(file).parent / found).absolute()

    def check(self, section: Section) -> None:
        """Require a port, or the path of a socket, for every worker and for the spare one of a restart."""
        _check_address(section, self.address, self.address_of(self.workers))
        host, port = _host_and_port(self.address)
        if host and _LAST_PORT >= port > _LAST_PORT - self.workers:
            each = f"each of the {self.workers} workers" if self.workers > 1 else "the worker"
            section.problem("address", f"ports are 1 to {_LAST_PORT}, and {each} and a restart's spare worker needs its own")


@dataclass(frozen=True, slots=True)
class AdminConfig:
    """The operator's port."""

    enabled: bool = key(
        Flag(),
        "`/healthz`, `/readyz`, `/metrics`, `/explain`, `/config`, `/version`, `/restart`, `/cache/OPERATION`.",
        True,
    )
    address: str = key(
        ADDRESS,
        "The port has no passwords: an address beyond this machine is for networks that admit only those who may ask.",
        "127.0.0.1:8802",
    )
    allowed_hosts: tuple[str, ...] = key(
        Texts("host names", folds_case=True),
        "Host names by which the port may be asked, such as a Kubernetes Service's. IP addresses, `localhost`, the name in "
        "`admin.address` and, for `/healthz` and `/readyz`, all names are allowed anyway. Requests that a web page of another "
        "site sends get a 403; bodies have to be `application/json`.",
        (),
        shown="none",
    )

    def check(self, section: Section) -> None:
        """Check the host names and the port."""
        _check_address(section, self.address, self.address)
        item = section.item("allowed_hosts")
        for name in item.items() if item else ():
            if not re.fullmatch(_HOST_NAME, name.text()):
                name.problem("a host name was expected, without port and scheme, such as router.monitoring.svc")

    def check_beside(self, server: ServerConfig, section: Section) -> None:
        """Refuse an address on which a worker listens."""
        workers = range(server.workers + 1)
        if (
            self.enabled
            and (taken := next((each for each in workers if _meet(self.address, server.address_of(each))), None)) is not None
        ):
            which = f"worker {taken}" if taken < server.workers else "in a restart, a spare worker"
            _, port = _host_and_port(self.address)
            where = f"port {port}" if port else self.address
            section.problem("address", f"{which} listens on {where} already (server.address)")


def _check_address(section: Section, address: str, longest: str) -> None:
    """Check a port's range and a socket's path. `longest` is the longest address that is made of this one."""
    host, port = _host_and_port(address)
    if host and not 0 < port <= _LAST_PORT:
        section.problem("address", f"ports are 1 to {_LAST_PORT}")
    path = longest.removeprefix("unix:")
    if path == longest:
        return
    if not is_usable(path):
        section.problem("address", "is no path that a socket could have: it holds a forbidden character, or is too long")
    elif len(os.fsencode(path)) > _MAX_SOCKET_BYTES:
        suffix = f" with the suffix {longest.removeprefix(address)}" if longest != address else ""
        section.problem("address", f"a socket's path has at most {_MAX_SOCKET_BYTES} bytes, this one{suffix} is longer")


def _meet(one: str, other: str) -> bool:
    """Whether two cannot listen on these addresses at once."""
    (host, port), (another, its_port) = _host_and_port(one), _host_and_port(other)
    if not host or not another:
        return not host and not another and _socket(one) == _socket(other)
    is_same_host = host == another or {host, another} & {"0.0.0.0", "[::]"}  # noqa: S104 - looked for, not listened on
    return port == its_port and bool(is_same_host)


def _socket(address: str) -> str:
    return os.path.normpath("/" + address.removeprefix("unix:").lstrip("/"))


def _host_and_port(address: str) -> tuple[str, int]:
    """Both empty for a socket's path. `localhost` is 127.0.0.1."""
    host, _, port = address.rpartition(":")
    if address.startswith("unix:") or not port.isdecimal():
        return "", 0
    return "127.0.0.1" if host.lower() == "localhost" else host, int(port)


@dataclass(frozen=True, slots=True)
class TracingConfig:
    """OpenTelemetry spans."""

    enabled: bool = key(Flag(), "One span per exchange; its context goes upstream.", False)
    endpoint: str = key(
        Text("http or https URL", "a URL such as http://collector:4317", r"https?://[^\s/]+(:\d+)?/?"),
        "The collector.",
        "http://127.0.0.1:4317",
    )
    insecure: bool = key(Flag(), "No TLS; has to be false for https.", True)
    sample_ratio: float = key(
        Number(0, 1), "Share of the traces that begin here; the sampling decision of a parent is followed.", 1.0
    )
    service_name: str = key(Text(), "`service.name` of the spans.", "semantic-router")

    def check(self, section: Section) -> None:
        """https means TLS."""
        if self.endpoint.startswith("https:") and self.insecure:
            section.problem("insecure", "must be false for an https endpoint")


@dataclass(frozen=True, slots=True)
class TelemetryConfig:
    """Logs, metrics, traces."""

    log_level: str = key(LOG_LEVEL, "Lowest level that is logged.", "info")
    access_log: bool = key(Flag(), "One JSON line per exchange, without text of prompts or answers.", True)
    metrics: bool = key(Flag(), "Metrics for `/metrics` on the admin port.", True)
    track_token_usage: bool = key(
        Flag(),
        "Reads token counts and the time to first token from answers, which then pass through the router. A JSON answer of more "
        "than 2 MiB passes unread, and so does a stream from an event of more than 1 MiB on.",
        False,
    )
    tracing: TracingConfig = subsection(TracingConfig, "OpenTelemetry spans over OTLP gRPC.")
