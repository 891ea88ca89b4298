"""Loads the router's configuration. It is strict: every key has an effect, or is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from router.config.cache import CacheConfig, CacheKeys, read_cache
from router.config.conditions import BUILT_IN_SIGNALS, ConditionContext
from router.config.keys import ListOf, Named, OwnSection, Texts, key, keys_of, read
from router.config.models import FAMILIES, FamilyKeys, ModelKeys, read_families, read_models, read_virtual_models
from router.config.reader import Notes, Section
from router.config.reader import parse as parse_yaml
from router.config.rules import DefaultKeys, RuleContext, RuleKeys, read_policy
from router.config.server import AdminConfig, ServerConfig, TelemetryConfig
from router.config.signals import SignalsConfig, read_signals
from router.core.conditions import TextMatches
from router.core.models import Model, ReasoningFamily
from router.core.policy import Policy
from router.errors import ConfigError, Problem
from router.files import read_text

VERSION = 1


@dataclass(frozen=True, slots=True)
class _Version:
    words: str = str(VERSION)

    @property
    def schema(self) -> dict[str, object]:
        """See `keys.Kind`."""
        return {"const": VERSION}


@dataclass(frozen=True, slots=True)
class ConfigKeys:
    """The keys at the top of the file. Each section has its own reader."""

    version: object = key(_Version(), "Layout of this file.", required=f"write 'version: {VERSION}'")
    server: object = key(OwnSection(ServerConfig), "The gRPC server that Envoy asks.", shown=" ")
    admin: object = key(OwnSection(AdminConfig), "The operator's HTTP port.", shown=" ")
    telemetry: object = key(OwnSection(TelemetryConfig), "Logs, metrics, traces.", shown=" ")
    virtual_models: object = key(
        Texts("names"),
        "Model names with which a client leaves the choice to the rules. None may be a model's.",
        shown="`[auto, MoM]`",
    )
    reasoning_families: object = key(
        Named(FamilyKeys, "families by name"),
        "How models are told to think or not; adds to the built-in `qwen3`, `deepseek`, `gpt-oss`, `gpt`, or replaces one.",
        shown=" ",
    )
    models: object = key(
        Named(ModelKeys, "models by name", at_least=1),
        "What clients may name; at least one.",
        required="at least one model is needed",
    )
    signals: object = key(OwnSection(SignalsConfig), "What is measured of a request.", shown=" ")
    semantic_cache: object = key(OwnSection(CacheKeys), "Cached answers; see [below](#semantic_cache).", shown=" ")
    rules: object = key(ListOf(RuleKeys, "list of rules"), "What decides; see below.", shown="`[]`")
    default: object = key(
        OwnSection(DefaultKeys),
        "What is chosen when no rule fires.",
        required="name the model that serves when no rule fires",
    )


@dataclass(frozen=True, slots=True)
class Config:
    """A configuration without contradictions."""

    server: ServerConfig
    admin: AdminConfig
    telemetry: TelemetryConfig
    virtual_models: tuple[str, ...]
    families: Mapping[str, ReasoningFamily]
    models: Mapping[str, Model]
    mocks: frozenset[str]
    """Models for which `semantic-router up` starts a mock backend."""
    signals: SignalsConfig
    policy: Policy
    cache: CacheConfig = field(default_factory=CacheConfig)

    @property
    def default_model(self) -> Model:
        """The model that serves when no rule fires, and whose cluster serves when the router is down."""
        return self.policy.default.model

    @property
    def keywords(self) -> Mapping[str, TextMatches]:
        """The keyword sets, by name."""
        return self.signals.keywords


def load(path: Path) -> Config:
    """Read a configuration file.

    Raises:
        ConfigError: with every problem in the file, each with its line.
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
    config, notes = read_config(text, file)
    if any(problem.severity == "error" for problem in notes.problems):
        raise ConfigError(sorted(notes.problems, key=lambda problem: problem.line))
    return config


def read_config(text: str, file: str) -> tuple[Config, Notes]:
    """The configuration as far as it could be read, and the problems found."""
    notes = Notes(file)
    top = parse_yaml(text, notes)
    _check_top(top)
    families = {**FAMILIES, **read_families(top.section("reasoning_families"))}
    signals, capabilities = read_signals(top.section("signals"), BUILT_IN_SIGNALS)
    models, mocks = read_models(top.section("models"), families, capabilities.models)
    server, admin = read(top.section("server"), ServerConfig), read(top.section("admin"), AdminConfig)
    admin.check_beside(server, top.section("admin"))
    cache = read_cache(top.section("semantic_cache"), server.state_folder(file))
    _check_workers(top.section("semantic_cache"), cache, server)
    conditions = ConditionContext(
        signals.keywords, capabilities, signals.custom, signals.encoder.enabled, signals.intent.threshold
    )
    policy, policies = read_policy(top, RuleContext(models, families, conditions, cache))
    if cache.eligibility.allows_explicit_models:
        policies["explicit_model"] = cache.default
    config = Config(
        server,
        admin,
        read(top.section("telemetry"), TelemetryConfig),
        read_virtual_models(top, models),
        families,
        models,
        mocks,
        signals,
        policy,
        replace(cache, policies=policies),
    )
    return config, notes


def _check_top(top: Section) -> None:
    """Check the version, and report undeclared keys."""
    for each in keys_of(ConfigKeys):
        top.has(each.name)
    version = top.item("version")
    if version is None:
        top.problem("version", f"is missing; write 'version: {VERSION}'")
    elif type(version.value) is not int or version.value != VERSION:  # true and 1.0 equal 1, too
        version.problem(f"this router reads version {VERSION}")
    top.close()


def _check_workers(section: Section, cache: CacheConfig, server: ServerConfig) -> None:
    if cache.enabled and cache.backend == "milvus" and cache.milvus.file and server.workers > 1:
        message = (
            "Milvus Lite keeps its file to one process, and there are several workers (server.workers): name a Milvus server "
            "in the file of backend_config_path, or set backend_type to memory, where each worker has a cache of its own"
        )
        section.problem("backend_type", message)
