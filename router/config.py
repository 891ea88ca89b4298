"""The router's configuration: what an operator may write, and what becomes of it. Strict: a key acts or is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from router.cacheconfig import CacheConfig, decision_terms, read_cache
from router.core.policy import (
    AllOf,
    AnyOf,
    Condition,
    Default,
    FlagIs,
    HeaderMatches,
    LabelIs,
    Not,
    Policy,
    Rule,
    TextMatches,
    TokensWithin,
)
from router.core.types import Model, Reasoning, ReasoningFamily, SystemPrompt, Terms
from router.errors import ConfigError, Problem
from router.yamltree import Item, Notes, Section, suggest
from router.yamltree import parse as parse_yaml

VERSION = 1
NAME = r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,99}"
_NAME_WORDS = "a name of letters, digits and ._:/@+- (at most 100)"
_EFFORTS = ("minimal", "low", "medium", "high")
_RESERVED_RULES = ("default", "direct")
_FLAGS = ("has_tools", "has_images", "is_stream")
_ADDRESS = r"(unix:/\S+|[^\s:]+:\d{1,5}|\[[0-9A-Fa-f:]+\]:\d{1,5})"
_LAST_PORT = 65535
_ADDRESS_WORDS = "'host:port' or 'unix:/path'"
_BODY_FIELDS = ("model", "messages", "prompt", "input", "stream", "stream_options", "tools")
"""Fields of a request that no reasoning switch may overwrite."""

FAMILIES: Mapping[str, ReasoningFamily] = {
    "qwen3": ReasoningFamily("chat_template_kwargs", "enable_thinking"),
    "deepseek": ReasoningFamily("chat_template_kwargs", "thinking"),
    "gpt-oss": ReasoningFamily("reasoning_effort", "reasoning_effort", "medium", "low"),  # it cannot be switched off
    "gpt": ReasoningFamily("reasoning_effort", "reasoning_effort", "medium", "minimal"),
}
"""The reasoning families that are built in; a config may override or add."""

SHIPPED_BUNDLE = Path(__file__).parent / "models" / "intent"


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
    log_outcomes: bool = True
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
    """Encoder passes that may wait at once; above it the reading is missing at once, not late."""


@dataclass(frozen=True, slots=True)
class SignalsConfig:
    deadline_ms: int = 250
    """For all signals of a request together."""
    intent: IntentConfig = field(default_factory=IntentConfig)


@dataclass(frozen=True, slots=True)
class Config:
    """A configuration without contradictions."""

    server: ServerConfig
    admin: AdminConfig
    telemetry: TelemetryConfig
    auto_models: tuple[str, ...]
    families: Mapping[str, ReasoningFamily]
    models: Mapping[str, Model]
    simulated: frozenset[str]
    """Models for which `semantic-router up` starts a simulated backend."""
    signals: SignalsConfig
    policy: Policy
    cache: CacheConfig = field(default_factory=CacheConfig)

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
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError([Problem(str(path), 0, "", f"cannot be read: {reason}")]) from None
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
    models, simulated = _models(top.section("models"), families)
    server = _server(top.section("server"))
    admin = _admin(top.section("admin"), server)
    telemetry = _telemetry(top.section("telemetry"))
    auto_models = _auto_models(top, models)
    signals_section = top.section("signals")
    keywords = _keywords(signals_section.section("keywords"))
    signals, labels = _signals(signals_section)
    cache = _cache(top.section("semantic_cache"), server)
    policy, terms = _policy(top, _Words(models, families, keywords, labels, signals.intent, cache))
    if cache.limits.allows_concrete_models:
        terms["direct"] = cache.default
    top.close()
    cache = replace(cache, terms=terms)
    return Config(server, admin, telemetry, auto_models, families, models, simulated, signals, policy, cache), notes


# -- sections --------------------------------------------------------------------------------------------------------


def _server(section: Section) -> ServerConfig:
    default = ServerConfig()
    config = ServerConfig(
        _address(section, default.address),
        section.integer("workers", default.workers, 1, 64),
        section.integer("threads", default.threads, 0, 256),
        section.integer("max_body_bytes", default.max_body_bytes, 1024, 1024**3),
        section.number("drain_s", default.drain_s, 0, 600),
        section.number("grace_s", default.grace_s, 0, 3600),
    )
    host, port = _host_and_port(config.address)
    if host and port + config.workers - 1 > _LAST_PORT:
        section.problem("address", f"ports are 1 to {_LAST_PORT}, and each of the {config.workers} workers needs its own")
    section.close()
    return config


def _admin(section: Section, server: ServerConfig) -> AdminConfig:
    default = AdminConfig()
    config = AdminConfig(section.flag("enabled", default.enabled), _address(section, default.address))
    host, port = _host_and_port(config.address)
    other, first = _host_and_port(server.address)
    is_same_host = host == other or {host, other} & {"0.0.0.0", "[::]"}  # noqa: S104 - looked for, not listened on
    if config.enabled and host and other and is_same_host and first <= port < first + server.workers:
        section.problem("address", f"worker {port - first} listens on port {port} already (server.address)")
    section.close()
    return config


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
        section.flag("log_outcomes", default.log_outcomes),
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
        _check_name(name, item)
        part = item.section()
        kind = part.choice("type", "", ("chat_template_kwargs", "reasoning_effort"))
        if not part.has("type"):
            part.problem("type", "is missing; chat_template_kwargs or reasoning_effort was expected")
        parameter = part.text("parameter", pattern=r"\w{1,64}", what="a parameter's name")
        if parameter in _BODY_FIELDS and kind == "reasoning_effort":
            part.problem("parameter", f"would overwrite the request's own '{parameter}'")
        default = part.choice("default_effort", "medium", _EFFORTS)
        off = part.text("off_effort", "low", r"[a-z]{1,20}", "a word such as low, minimal or none")
        for key in ("default_effort", "off_effort"):
            if part.has(key) and kind == "chat_template_kwargs":
                part.problem(key, "could do nothing: chat_template_kwargs only knows on and off")
        part.close()
        families[name] = ReasoningFamily(kind, parameter, default, off)
    return families


def _check_name(name: str, item: Item) -> None:
    # Names travel in headers, metrics and messages.
    if not re.fullmatch(NAME, name):
        item.problem(f"{_NAME_WORDS} was expected")


def _models(section: Section, families: Mapping[str, ReasoningFamily]) -> tuple[dict[str, Model], frozenset[str]]:
    models, simulated = {}, set()
    for name, item in section.named():
        _check_name(name, item)
        part = item.section()
        family = part.text("reasoning_family", "")
        if family and family not in families:
            part.problem("reasoning_family", f"there is no family '{family}'{suggest(family, families)}")
        cluster = part.text("cluster", pattern=NAME, what="the name of a cluster in envoy.yaml")
        models[name] = Model(name, cluster, part.text("served_name", name), family or None)
        if part.flag("simulated", default=False):
            simulated.add(name)
        part.close()
    if not models:
        section.notes.add(section.node, "models", "at least one model is needed")
    return models, frozenset(simulated)


def _auto_models(top: Section, models: Mapping[str, Model]) -> tuple[str, ...]:
    item = top.item("auto_models")
    if item is None:
        return ("auto", "MoM")
    names = item.texts("names")
    for name in names:
        _check_name(name.text(), name)
        if name.text() in models:
            name.problem(f"'{name.text()}' is a model already; a name leaves the choice open or names a model, not both")
    return tuple(name.text() for name in names)


def _keywords(section: Section) -> dict[str, TextMatches]:
    sets = {}
    for name, item in section.named():
        _check_name(name, item)
        part = item.section()
        flags = re.NOFLAG if part.flag("case_sensitive", default=False) else re.IGNORECASE
        words, regexes = part.item("words"), part.item("regex")
        patterns = [_word_pattern([word.text() for word in words.texts("words")], flags)] if words else []
        patterns += [pattern for each in (regexes.texts("patterns") if regexes else ()) if (pattern := _regex(each, flags))]
        if not words and not regexes:
            item.problem("'words' or 'regex' was expected")
        part.close()
        sets[name] = TextMatches(name, tuple(patterns))
    return sets


def _word_pattern(words: list[str], flags: re.RegexFlag) -> re.Pattern[str]:
    # Not \b: a word may begin or end with a character that is none of a word's, as C++ or .NET do.
    return re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, words)) + r")(?!\w)", flags)


def _regex(item: Item, flags: re.RegexFlag) -> re.Pattern[str] | None:
    try:
        pattern = re.compile(item.text(), flags)
    except (re.error, OverflowError, RecursionError) as error:
        item.problem(f"is no regular expression: {error}")
        return None
    if pattern.search("") and pattern.search("\0"):
        item.problem("matches every text; is there a '*' or '?' too many?")
    return pattern


def _signals(section: Section) -> tuple[SignalsConfig, tuple[str, ...]]:
    default = SignalsConfig()
    deadline_ms = section.integer("deadline_ms", default.deadline_ms, 1, 60_000)
    part = section.section("intent")
    enabled = part.flag("enabled", default=True)
    bundle = Path(section.notes.file).parent / part.text("bundle", str(SHIPPED_BUNDLE))
    # A disabled feature never loads and never fails: its files need not be there.
    manifest = _manifest(part, bundle) if enabled else {}
    known = manifest.get("threshold", default.intent.threshold)
    threshold = part.number("threshold", float(known) if isinstance(known, int | float) else 0.5, 0, 1)
    waiting = part.integer("max_waiting", default.intent.max_waiting, 1, 100_000)
    part.close()
    section.close()
    labels = manifest.get("labels")
    names = tuple(map(str, labels)) if isinstance(labels, list) else ()
    return SignalsConfig(deadline_ms, IntentConfig(enabled, threshold, bundle, waiting)), names


def _manifest(section: Section, bundle: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        manifest = None
    if isinstance(manifest, dict) and manifest.get("labels"):
        return manifest
    section.problem("bundle", f"there is no model in {bundle}: manifest.json is missing or damaged; see `make train`")
    return {}


def _cache(section: Section, server: ServerConfig) -> CacheConfig:
    cache = read_cache(section)
    if cache.enabled and cache.backend == "milvus" and cache.milvus.file and server.workers > 1:
        message = (
            "Milvus Lite keeps its file to one process, and there are several workers (server.workers): name a Milvus server "
            "in the file of backend_config_path, or set backend_type to memory, where each worker has a cache of its own"
        )
        section.problem("backend_type", message)
    return cache


# -- rules -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Words:
    """What rules may refer to."""

    models: Mapping[str, Model]
    families: Mapping[str, ReasoningFamily]
    keywords: Mapping[str, TextMatches]
    labels: tuple[str, ...]
    intent: IntentConfig
    cache: CacheConfig


_NO_MODEL = Model("", "", "")
_NO_CONDITION = AllOf(())


def _policy(top: Section, words: _Words) -> tuple[Policy, dict[str, Terms]]:
    """The rules; and on which terms the answers to what they decide are cached, by their names."""
    listed = top.item("rules")
    items = listed.items("a list of rules") if listed else []
    terms: dict[str, Terms] = {}
    rules = [_rule(item, words, terms) for item in items]
    _check_rules(rules, items)
    section = top.section("default")
    if not top.has("default"):
        top.problem("default", "is missing; name the model that serves when no rule fires")
    model = _model(section, words)
    default = Default(model, _reasoning(section, model, words), _system_prompt(section))
    if default_terms := decision_terms(section, words.cache):
        terms["default"] = default_terms
    section.close()
    return Policy.of(tuple(rules), default, words.intent.threshold), terms


def _check_rules(rules: list[Rule], items: list[Item]) -> None:
    """Names differ, and no rule stands in the full shadow of one that is asked before it."""
    names: set[str] = set()
    for rule, item in zip(rules, items, strict=True):
        if rule.name in names:
            item.problem(f"there is a rule '{rule.name}' already; names tell rules apart in headers and metrics")
        names.add(rule.name or item.path)
    first: dict[Condition, str] = {}
    for rule, item in sorted(zip(rules, items, strict=True), key=lambda pair: -pair[0].priority):
        if rule.when in first and rule.when != _NO_CONDITION:
            item.problem(f"can never win: rule '{first[rule.when]}' asks the same and is asked before it")
        first.setdefault(rule.when, rule.name)


def _rule(item: Item, words: _Words, terms: dict[str, Terms]) -> Rule:
    section = item.section()
    name = section.text("name", pattern=NAME, what=_NAME_WORDS)
    if name in _RESERVED_RULES:
        section.problem("name", f"'{name}' is the router's own word; choose another")
    when = section.item("when")
    if when is None:
        section.problem("when", "is missing; say when the rule holds")
    model = _model(section, words)
    rule = Rule(
        name,
        _condition(when, words) if when else _NO_CONDITION,
        model,
        section.integer("priority", 0, -1_000_000, 1_000_000),
        _reasoning(section, model, words),
        _system_prompt(section),
    )
    if own_terms := decision_terms(section, words.cache):
        terms[name] = own_terms
    section.close()
    return rule


def _model(section: Section, words: _Words) -> Model:
    if section.node is None:
        return _NO_MODEL
    name = section.text("model", what="the name of a model")
    if name and name not in words.models:
        section.problem("model", f"there is no model '{name}'{suggest(name, words.models)}")
    return words.models.get(name, _NO_MODEL)


def _reasoning(section: Section, model: Model, words: _Words) -> Reasoning | None:
    if not section.has("reasoning"):
        return None
    part = section.section("reasoning")
    enabled = part.flag("enabled", default=True)
    effort = part.choice("effort", "", _EFFORTS)
    if not part.has("enabled"):
        part.problem("enabled", "is missing; true or false was expected")
    if effort and not enabled:
        part.problem("effort", "says how hard to think while 'enabled' is false; remove one of them")
    if model.name and model.reasoning_family is None:
        part.problem("enabled", f"the model '{model.name}' has no reasoning_family, so this could do nothing")
    family = words.families.get(model.reasoning_family or "")
    if effort and family and family.kind == "chat_template_kwargs":
        part.problem("effort", f"could do nothing: the family '{model.reasoning_family}' only knows on and off")
    part.close()
    return Reasoning(enabled, effort or None)


def _system_prompt(section: Section) -> SystemPrompt | None:
    if not section.has("system_prompt"):
        return None
    part = section.section("system_prompt")
    prompt = SystemPrompt(part.text("text", what="the prompt's text"), part.choice("mode", "insert", ("insert", "replace")))
    part.close()
    return prompt


# -- conditions ------------------------------------------------------------------------------------------------------


def _condition(item: Item, words: _Words) -> Condition:
    """A mapping of one condition, or of several that all have to hold."""
    section = item.section()
    found = [
        condition for key, read in _CONDITIONS.items() if (part := section.item(key)) for condition in read(key, part, words)
    ]
    section.close()
    if not found and not any(problem.path.startswith(item.path) for problem in item.notes.problems):
        item.problem(f"a condition was expected, one of {', '.join(_CONDITIONS)}")
    return found[0] if len(found) == 1 else AllOf(tuple(found))


def _tree(key: str, item: Item, words: _Words) -> list[Condition]:
    parts = tuple(_condition(part, words) for part in item.items("a list of conditions"))
    if not parts:
        item.problem("at least one condition was expected")
    return [AllOf(parts) if key == "all" else AnyOf(parts)]


def _not(key: str, item: Item, words: _Words) -> list[Condition]:
    return [Not(_condition(item, words))]


def _label_is(key: str, item: Item, words: _Words) -> list[Condition]:
    at_least, labels = words.intent.threshold, item
    if item.is_mapping:
        section = item.section()
        at_least = section.number("at_least", at_least, 0, 1)
        labels = section.item("labels") or item
        section.close()
    if not words.intent.enabled:
        item.problem("the signal is switched off (signals.intent.enabled), so this could never hold")
        return []
    names = labels.texts("categories")
    for name in names:
        if words.labels and name.text() not in words.labels:
            name.problem(f"there is no category '{name.text()}'{suggest(name.text(), words.labels)}")
    return [LabelIs("intent", frozenset(name.text() for name in names), at_least)]


def _text_matches(key: str, item: Item, words: _Words) -> list[Condition]:
    name = item.text("the name of a keyword set")
    if name in words.keywords:
        return [words.keywords[name]]
    if name:
        item.problem(f"there is no keyword set '{name}' in signals.keywords{suggest(name, words.keywords)}")
    return []


def _tokens_within(key: str, item: Item, words: _Words) -> list[Condition]:
    section = item.section()
    least = section.integer("min", 0, 0, 1_000_000_000)
    most = section.integer("max", 1_000_000_000, 0, 1_000_000_000) if section.has("max") else None
    if not section.has("min") and most is None:
        item.problem("'min', 'max' or both were expected")
    if most is not None and most < least:
        section.problem("max", f"is below min ({least}), so this could never hold")
    section.close()
    return [TokensWithin(least, most)]


def _flag_is(key: str, item: Item, words: _Words) -> list[Condition]:
    value = item.value
    if not isinstance(value, bool):
        item.problem("true or false was expected")
    return [FlagIs(key, value is True)]


def _header_matches(key: str, item: Item, words: _Words) -> list[Condition]:
    section = item.section()
    name = section.text("name", pattern=r"[A-Za-z0-9-]{1,100}", what="a header's name").lower()
    tests = [test for test in ("equals", "regex", "present") if section.has(test)]
    pattern: re.Pattern[str] | None = re.compile(re.escape(section.text("equals", "")))
    if len(tests) != 1:
        item.problem("exactly one of 'equals', 'regex' and 'present' was expected")
    elif tests == ["regex"] and (regex := section.item("regex")):
        pattern = _regex(regex, re.NOFLAG)
    elif tests == ["present"]:
        if not section.flag("present", default=True):
            section.problem("present", "only true makes sense; for an absent header write not: {header: ...}")
        pattern = re.compile(".*", re.DOTALL)
    section.close()
    return [HeaderMatches(name, pattern)] if pattern else []


_CONDITIONS = {
    "all": _tree,
    "any": _tree,
    "not": _not,
    "intent": _label_is,
    "keywords": _text_matches,
    "prompt_tokens": _tokens_within,
    **dict.fromkeys(_FLAGS, _flag_is),
    "header": _header_matches,
}
"""What may stand in `when`, and its reader."""
