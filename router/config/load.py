"""The router's configuration: what an operator may write, and what becomes of it. Strict: a key acts or is refused."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from router.config.cache import CacheConfig, read_cache
from router.config.reader import Notes, Section, suggest
from router.config.reader import parse as parse_yaml
from router.config.rules import EFFORTS, NAME, ModelCapabilities, RuleContext, check_name, read_custom, read_keywords, read_policy
from router.core.openai.bodysize import DEFAULTS, BodyBounds
from router.core.policy import Policy, TextMatches
from router.core.types import Model, ReasoningFamily
from router.errors import ConfigError, Problem
from router.files import read_text

VERSION = 1
_ADDRESS = r"(unix:/\S+|[^\s:]+:\d{1,5}|\[[0-9A-Fa-f:]+\]:\d{1,5})"
_HOST_NAME = r"[A-Za-z0-9]([\w.-]{0,251}[A-Za-z0-9])?"
_LAST_PORT = 65535
_ADDRESS_WORDS = "'host:port' or 'unix:/path'"
_DEEPEST = 500  # levels; Python's parser and encoder give up at about 900
_BODY_FIELDS = ("model", "messages", "prompt", "input", "stream", "stream_options", "tools")
"""Fields of a request that no reasoning switch may overwrite."""

FAMILIES: Mapping[str, ReasoningFamily] = {
    "qwen3": ReasoningFamily("chat_template_kwargs", "enable_thinking"),
    "deepseek": ReasoningFamily("chat_template_kwargs", "thinking"),
    "gpt-oss": ReasoningFamily("reasoning_effort", "reasoning_effort", "medium", "low"),  # it cannot be switched off
    "gpt": ReasoningFamily("reasoning_effort", "reasoning_effort", "medium", "minimal"),
}
"""The reasoning families that are built in; a config may override or add."""

SHIPPED_BUNDLE = Path(__file__).parents[1] / "models" / "intent"


@dataclass(frozen=True, slots=True)
class ServerConfig:
    address: str = "127.0.0.1:50051"
    """Where ext_proc is served; worker i listens on port + i, or on the socket's path with `.i` behind it."""
    workers: int = 1
    threads: int = 0
    """Encoder threads of each worker; 0 shares the cores out among the workers."""
    max_body_bytes: int = 16 * 1024 * 1024
    drain_s: float = 4.0
    """After SIGTERM: health says NOT_SERVING and new streams are served on, so that Envoy can notice."""
    grace_s: float = 30.0
    """Then: open exchanges may end."""
    max_values: int = DEFAULTS.max_values
    max_keys: int = DEFAULTS.max_keys
    max_depth: int = DEFAULTS.max_depth
    max_messages: int = DEFAULTS.max_messages
    state_path: Path | None = None
    """Folder for what outlives the process; None for the variable STATE_DIRECTORY's, or the configuration's own."""

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


@dataclass(frozen=True, slots=True)
class AdminConfig:
    enabled: bool = True
    address: str = "127.0.0.1:8802"
    allowed_hosts: tuple[str, ...] = ()
    """Names that the port is asked under, beside IP addresses, `localhost` and the name in `address`."""


@dataclass(frozen=True, slots=True)
class TracingConfig:
    enabled: bool = False
    endpoint: str = "http://127.0.0.1:4317"
    """OTLP over gRPC."""
    insecure: bool = True
    sample_ratio: float = 1.0
    """0 to 1, of the traces that begin here; a parent's decision is followed."""
    service_name: str = "semantic-router"


@dataclass(frozen=True, slots=True)
class TelemetryConfig:
    log_level: str = "info"
    access_log: bool = True
    metrics: bool = True
    usage: bool = False
    """Read token counts and the time to first token from answers; these then pass through the router."""
    tracing: TracingConfig = field(default_factory=TracingConfig)


@dataclass(frozen=True, slots=True)
class IntentConfig:
    enabled: bool = True
    threshold: float = 0.5
    """Confidence from which the intent counts as known; the bundle's own where the config names none."""
    bundle: Path = SHIPPED_BUNDLE
    """Folder of the classifier; a relative one in the file is meant from the file's own folder."""
    max_waiting: int = 64
    """Model passes that may wait at once; above it the reading is missing at once, not late."""
    max_windows: int = 16
    """Passes that a long text is scanned with for attacks and personal data; beyond them it counts as too long."""


@dataclass(frozen=True, slots=True)
class GuardsConfig:
    """Readings for rules that block."""

    deadline_ms: int = 30_000
    max_chars: int = 131_072
    """Of everything that the model will read; a longer prompt counts as unread."""
    max_waiting: int = 4
    """Prompts of `max_chars` that may wait for each guard and thread; of shorter ones more, by their characters."""


@dataclass(frozen=True, slots=True)
class SignalsConfig:
    deadline_ms: int = 250
    """For all signals of a request together."""
    intent: IntentConfig = field(default_factory=IntentConfig)
    guards: GuardsConfig = field(default_factory=GuardsConfig)
    custom: Mapping[str, Path] = field(default_factory=dict)
    """Folders of the operator's own signals, by name."""


@dataclass(frozen=True, slots=True)
class Config:
    """A configuration without contradictions."""

    server: ServerConfig
    admin: AdminConfig
    telemetry: TelemetryConfig
    virtual_models: tuple[str, ...]
    families: Mapping[str, ReasoningFamily]
    models: Mapping[str, Model]
    mock: frozenset[str]
    """Models for which `semantic-router up` starts a mock backend."""
    signals: SignalsConfig
    policy: Policy
    cache: CacheConfig = field(default_factory=CacheConfig)
    keywords: Mapping[str, TextMatches] = field(default_factory=dict)

    @property
    def default_model(self) -> Model:
        """The model that serves when no rule fires, and whose cluster serves when the router is down."""
        return self.policy.default.model


def load(path: Path) -> Config:
    """Read a configuration file.

    Raises:
        ConfigError: every problem in it, each with its line.
    """
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        hint = "; --config names another" if isinstance(error, FileNotFoundError) else ""
        raise ConfigError([Problem(str(path), 0, "", f"cannot be read: {reason}{hint}")]) from None
    return parse(text, str(path))


def parse(text: str, file: str) -> Config:
    """Read a configuration from its text; `file` names it in problems. Raises as `load` does."""
    config, notes = read(text, file)
    if any(problem.severity == "error" for problem in notes.problems):
        raise ConfigError(sorted(notes.problems, key=lambda problem: problem.line))
    return config


def read(text: str, file: str) -> tuple[Config, Notes]:
    """The configuration as far as it could be read, and what was noted on the way."""
    notes = Notes(file)
    top = parse_yaml(text, notes)
    version = top.item("version")
    if version is None:
        top.problem("version", f"is missing; write 'version: {VERSION}'")
    elif version.value != VERSION:
        version.problem(f"this router reads version {VERSION}")
    families = {**FAMILIES, **_families(top.section("reasoning_families"))}
    signals_section = top.section("signals")
    words = read_keywords(signals_section.section("keywords"))
    custom = read_custom(signals_section.section("custom"))
    signals, heads = _signals(signals_section)
    signals = replace(signals, custom={name: signal.folder for name, signal in custom.items()})
    models, mock = _models(top.section("models"), families, heads)
    server = _server(top.section("server"))
    admin = _admin(top.section("admin"), server)
    telemetry = _telemetry(top.section("telemetry"))
    virtual_models = _auto_models(top, models)
    cache = _cache(top.section("semantic_cache"), server)
    intent = signals.intent
    policy, cache_policy = read_policy(
        top, RuleContext(models, families, words, heads, custom, intent.enabled, intent.threshold, cache)
    )
    if cache.limits.allows_explicit_models:
        cache_policy["explicit_model"] = cache.default
    top.close()
    cache = replace(cache, cache_policy=cache_policy)
    return Config(server, admin, telemetry, virtual_models, families, models, mock, signals, policy, cache, words), notes


# -- sections --------------------------------------------------------------------------------------------------------


def _state_path(section: Section) -> Path | None:
    path = section.text("state_path", "")
    return (Path(section.notes.file).parent / path).absolute() if path else None


def _state_folder(server: ServerConfig, file: str) -> Path:
    """As configured, else where the service manager or the container wants it, else the configuration's folder."""
    found = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return server.state_path or (Path(file).parent / found).absolute()


def _server(section: Section) -> ServerConfig:
    default = ServerConfig()
    config = ServerConfig(
        _address(section, default.address),
        section.integer("workers", default.workers, 1, 64),
        section.integer("threads", default.threads, 0, 256),
        section.integer("max_body_bytes", default.max_body_bytes, 1024, 1024**3),
        section.number("drain_s", default.drain_s, 0, 600),
        section.number("shutdown_timeout_seconds", default.grace_s, 0, 3600),
        section.integer("max_values", default.max_values, 100, 100_000_000),
        section.integer("max_keys", default.max_keys, 10, 100_000_000),
        section.integer("max_depth", default.max_depth, 8, _DEEPEST),
        section.integer("max_messages", default.max_messages, 1, 100_000_000),
        _state_path(section),
    )
    host, port = _host_and_port(config.address)
    if host and port + config.workers - 1 > _LAST_PORT:
        section.problem("address", f"ports are 1 to {_LAST_PORT}, and each of the {config.workers} workers needs its own")
    section.close()
    return config


def _admin(section: Section, server: ServerConfig) -> AdminConfig:
    default = AdminConfig()
    config = AdminConfig(section.flag("enabled", default.enabled), _address(section, default.address), _allowed_hosts(section))
    host, port = _host_and_port(config.address)
    other, first = _host_and_port(server.address)
    is_same_host = host == other or {host, other} & {"0.0.0.0", "[::]"}  # noqa: S104 - looked for, not listened on
    if config.enabled and host and other and is_same_host and first <= port <= first + server.workers:
        which = f"worker {port - first}" if port < first + server.workers else "in a restart, a spare worker"
        section.problem("address", f"{which} listens on port {port} already (server.address)")
    section.close()
    return config


def _allowed_hosts(section: Section) -> tuple[str, ...]:
    item = section.item("allowed_hosts")
    names = item.texts("host names") if item else []
    for name in names:
        if not re.fullmatch(_HOST_NAME, name.text()):
            name.problem("a host name was expected, without port and scheme, such as router.monitoring.svc")
    return tuple(name.text().lower() for name in names)


def _address(section: Section, default: str) -> str:
    address = section.text("address", default, _ADDRESS, _ADDRESS_WORDS)
    host, port = _host_and_port(address)
    if host and not 0 < port <= _LAST_PORT:
        section.problem("address", f"ports are 1 to {_LAST_PORT}")
        return default
    return address


def _host_and_port(address: str) -> tuple[str, int]:
    """Both empty for a socket's path."""
    host, _, port = address.rpartition(":")
    return ("", 0) if address.startswith("unix:") or not port.isdecimal() else (host, int(port))


def _telemetry(section: Section) -> TelemetryConfig:
    default = TelemetryConfig()
    config = TelemetryConfig(
        section.choice("log_level", default.log_level, ("debug", "info", "warning", "error")),
        section.flag("access_log", default.access_log),
        section.flag("metrics", default.metrics),
        section.flag("usage", default.usage),
        _tracing(section.section("tracing")),
    )
    section.close()
    return config


def _tracing(section: Section) -> TracingConfig:
    default = TracingConfig()
    config = TracingConfig(
        section.flag("enabled", default.enabled),
        section.text("endpoint", default.endpoint, r"https?://[^\s/]+(:\d+)?/?", "a URL such as http://collector:4317"),
        section.flag("insecure", default.insecure),
        section.number("sample_ratio", default.sample_ratio, 0, 1),
        section.text("service_name", default.service_name),
    )
    if config.endpoint.startswith("https:") and config.insecure:
        section.problem("insecure", "must be false for an https endpoint")
    section.close()
    return config


def _families(section: Section) -> dict[str, ReasoningFamily]:
    families = {}
    for name, item in section.named():
        check_name(name, item)
        part = item.section()
        kind = part.choice("type", "", ("chat_template_kwargs", "reasoning_effort"))
        if not part.has("type"):
            part.problem("type", "is missing; chat_template_kwargs or reasoning_effort was expected")
        parameter = part.text("parameter", pattern=r"\w{1,64}", what="a parameter's name")
        if parameter in _BODY_FIELDS and kind == "reasoning_effort":
            part.problem("parameter", f"would overwrite the request's own '{parameter}'")
        default = part.choice("default_effort", "medium", EFFORTS)
        off = part.text("off_effort", "low", r"[a-z]{1,20}", "a word such as low, minimal or none")
        for key in ("default_effort", "off_effort"):
            if part.has(key) and kind == "chat_template_kwargs":
                part.problem(key, "could do nothing: chat_template_kwargs only knows on and off")
        part.close()
        families[name] = ReasoningFamily(kind, parameter, default, off)
    return families


def _models(
    section: Section, families: Mapping[str, ReasoningFamily], heads: ModelCapabilities
) -> tuple[dict[str, Model], frozenset[str]]:
    models, mock = {}, set()
    for name, item in section.named():
        check_name(name, item)
        part = item.section()
        family = part.text("reasoning_family", "")
        if family and family not in families:
            part.problem("reasoning_family", f"there is no family '{family}'{suggest(family, families)}")
        cluster = part.text("cluster", pattern=NAME, what="the name of a cluster in envoy.yaml")
        quality_profile = part.text("quality_profile", "")
        if quality_profile and heads.models and quality_profile not in heads.models:
            part.problem("quality_profile", f"there is no recorded model '{quality_profile}'{suggest(quality_profile, heads.models)}")
        models[name] = Model(
            name,
            cluster,
            part.text("served_name", name),
            family or None,
            part.number("price", 0.0, 0, 100_000),
            quality_profile,
        )
        if part.flag("mock", default=False):
            mock.add(name)
        part.close()
    if not models:
        section.notes.add(section.node, "models", "at least one model is needed")
    return models, frozenset(mock)


def _auto_models(top: Section, models: Mapping[str, Model]) -> tuple[str, ...]:
    item = top.item("virtual_models")
    if item is None:
        return ("auto", "MoM")
    names = item.texts("names")
    for name in names:
        check_name(name.text(), name)
        if name.text() in models:
            name.problem(f"'{name.text()}' is a model already; a name leaves the choice open or names a model, not both")
    return tuple(name.text() for name in names)


def _signals(section: Section) -> tuple[SignalsConfig, ModelCapabilities]:
    default = SignalsConfig()
    deadline_ms = section.integer("deadline_ms", default.deadline_ms, 1, 60_000)
    part = section.section("intent")
    enabled = part.flag("enabled", default=True)
    bundle = Path(section.notes.file).parent / part.text("bundle", str(SHIPPED_BUNDLE))
    # A disabled feature never loads and never fails: its files need not be there.
    manifest = _manifest(part, bundle) if enabled else {}
    known = manifest.get("thresholds", {}).get("intent", default.intent.threshold)
    threshold = part.number("threshold", float(known) if isinstance(known, int | float) else 0.5, 0, 1)
    waiting = part.integer("max_waiting", default.intent.max_waiting, 1, 100_000)
    windows = part.integer("max_windows", default.intent.max_windows, 1, 256)
    part.close()
    intent, guards = IntentConfig(enabled, threshold, bundle, waiting, windows), _guards(section.section("guards"))
    section.close()
    return SignalsConfig(deadline_ms, intent, guards), ModelCapabilities.of(manifest)


def _guards(section: Section) -> GuardsConfig:
    default = GuardsConfig()
    config = GuardsConfig(
        section.integer("deadline_ms", default.deadline_ms, 1, 100_000),
        section.integer("max_chars", default.max_chars, 1024, 16_777_216),
        section.integer("max_waiting", default.max_waiting, 2, 100_000),
    )
    section.close()
    return config


def _manifest(section: Section, bundle: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(read_text(bundle / "manifest.json"))
    except (OSError, ValueError):
        manifest = None
    if isinstance(manifest, dict) and manifest.get("labels"):
        return manifest
    section.problem("bundle", f"there is no model in {bundle}: manifest.json is missing or damaged; see `make train`")
    return {}


def _cache(section: Section, server: ServerConfig) -> CacheConfig:
    cache = read_cache(section, _state_folder(server, section.notes.file))
    if cache.enabled and cache.backend == "milvus" and cache.milvus.file and server.workers > 1:
        message = (
            "Milvus Lite keeps its file to one process, and there are several workers (server.workers): name a Milvus server "
            "in the file of backend_config_path, or set backend_type to memory, where each worker has a cache of its own"
        )
        section.problem("backend_type", message)
    return cache
