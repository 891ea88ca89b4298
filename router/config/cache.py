"""The `semantic_cache` block and the Milvus file beside it: what an operator may write, and what becomes of it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from router.cache.checks import AMONG_STRANGERS, GUARDS, GUARDS_ALONE, GUARDS_BESIDE_VERIFIER
from router.cache.settings import DIMENSION, POLICIES, CacheLimits, MilvusSettings, SyncSettings
from router.config.calibration import CalibrationTable, read_bars
from router.config.reader import Notes, Section
from router.config.reader import parse as parse_yaml
from router.core.cache_key import Eligibility
from router.core.cache_policy import CONTROLS, CachePlan, ScopePlan
from router.core.lookup import CachePolicy
from router.files import read_text

_INDEXES: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "HNSW": {"M": (4, 64), "efConstruction": (8, 512)},
    "IVF_FLAT": {"nlist": (1, 65_536)},
    "FLAT": {},
    "AUTOINDEX": {},
}
"""Index types with their parameters and ranges."""
_SEARCH = {"HNSW": "ef", "IVF_FLAT": "nprobe"}
SHIPPED_VERIFIER = Path(__file__).parents[1] / "models" / "verifier"
_LEVELS = ("Strong", "Session", "Bounded", "Eventually")
_MOST_ANSWER_BYTES = 256 * 1024
LITE_FOLDER, REJECTIONS_FILE = "semantic_cache.db", "semantic_cache.rejections"
_WORDS = "a name of letters, digits and _"
_SECRET = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """The cache as the operator wants it."""

    enabled: bool = False
    backend: str = "milvus"
    """`memory` or `milvus`."""
    milvus: MilvusSettings = field(default_factory=MilvusSettings)
    sizes: CacheLimits = field(default_factory=CacheLimits)
    pace: SyncSettings = field(default_factory=SyncSettings)
    default: CachePolicy = field(default_factory=lambda: CachePolicy(0.8, 3600.0, GUARDS_ALONE))
    """Of decisions that say nothing of their own."""
    verifier: Path | None = None
    """The bundle of the model that confirms candidates; None when the guards judge alone."""
    bars: CalibrationTable = field(default_factory=CalibrationTable)
    cache_policy: Mapping[str, CachePolicy] = field(default_factory=dict)
    """By decision; one that is not here is not cached."""
    scope_header: str = "authorization"
    """Empty: all share."""
    required_header: str = ""
    """As of `ScopePlan`."""
    limits: Eligibility = field(default_factory=Eligibility)
    controls: frozenset[str] = frozenset(CONTROLS)
    most_ttl_s: float = 86_400.0
    most_answer_bytes: int = _MOST_ANSWER_BYTES
    rejections_file: Path | None = None
    """Where reported pairs are kept without a store; None when the store has them."""

    def plan(self, key: bytes, versions: str) -> CachePlan:
        """What exchanges need of it."""
        scope = ScopePlan(self.scope_header, key, self.required_header)
        return CachePlan(scope, self.limits, self.cache_policy, versions, self.most_answer_bytes, self.controls, self.most_ttl_s)


def read_cache(section: Section, state_path: Path | None = None) -> CacheConfig:
    """The block `semantic_cache`; the terms of decisions are added by whoever reads the rules.

    `state_path` is the folder for what outlives the process; None for that of the file.
    """
    state_path = state_path or Path(section.notes.file).parent.absolute()
    default = CacheConfig()
    enabled = section.flag("enabled", default=False)
    backend = section.choice("backend_type", default.backend, ("memory", "milvus", "hybrid"))
    sizes = CacheLimits(
        section.integer("max_entries", default.sizes.max_entries, 1, 100_000_000),
        section.choice("eviction_policy", default.sizes.eviction_policy, POLICIES),
        section.integer("max_memory_bytes", default.sizes.most_held_bytes, 1, 2**40),
        section.integer("lookup_timeout_ms", 100, 1, 10_000) / 1000,
        section.integer("store_timeout_ms", 50, 1, 10_000) / 1000,
    )
    most_answer_bytes = section.integer("max_answer_bytes", default.most_answer_bytes, 1, 16 * 1024 * 1024)
    verifier = _verifier(section.section("verifier"), enabled)
    bars = read_bars(section, has_verifier=verifier is not None, is_caching=enabled)
    scope_header, required_header = _scope(section)
    cache_policy = _default_terms(section, bars, shares_with_all=not scope_header)
    limits = _limits(section.section("eligibility"))
    controls, most_ttl_s = _controls(section.section("client_controls"), default)
    milvus, pace = _store(section, backend, enabled, state_path)
    section.close()
    return CacheConfig(
        enabled, "memory" if backend == "memory" else "milvus", milvus, sizes, pace, cache_policy, verifier, bars, {},
        scope_header, required_header, limits, controls, most_ttl_s, most_answer_bytes,
        state_path / REJECTIONS_FILE if backend == "memory" else None,
    )  # fmt: skip


def _verifier(section: Section, is_caching: bool) -> Path | None:
    """The bundle of the model that confirms candidates; None when it is switched off."""
    if not section.flag("enabled", default=True):
        if section.has("bundle"):
            section.problem("bundle", "could do nothing: the verifier is switched off")
        section.close()
        return None
    bundle = Path(section.notes.file).parent / section.text("bundle", str(SHIPPED_VERIFIER))
    if is_caching and not (bundle / "manifest.json").is_file():
        section.problem("bundle", f"there is no model in {bundle}: manifest.json is missing")
    section.close()
    return bundle


def _default_terms(section: Section, bars: CalibrationTable, *, shares_with_all: bool) -> CachePolicy:
    usual = GUARDS_BESIDE_VERIFIER if bars.has_verifier else GUARDS_ALONE
    guards = _guards(section, (*usual, *AMONG_STRANGERS) if shares_with_all else usual)
    default = CachePolicy(bars.similarity, 3600.0, guards, bars.at_least, false_hit_budget=bars.default_budget)
    threshold, at_least, budget = bars.read(section, default, guards)
    return CachePolicy(
        threshold,
        section.number("ttl_seconds", default.ttl_s, 1, 10 * 365 * 86_400),
        guards,
        at_least,
        section.number("coalesce_timeout_seconds", 0.0, 0, 600),
        section.flag("shadow", default=False),
        section.flag("semantic", default=True),
        false_hit_budget=budget,
    )


def _guards(section: Section, default: tuple[str, ...]) -> tuple[str, ...]:
    item = section.item("guards")
    if item is None:
        return default
    names = item.texts("guards")
    for name in names:
        if name.text() not in GUARDS:
            name.problem(f"there is no guard '{name.text()}'; known are: {', '.join(GUARDS)}")
    return tuple(name.text() for name in names)


def _scope(section: Section) -> tuple[str, str]:
    """The header whose value keeps answers apart, empty for none; and the one that a request must have where all share."""
    item = section.item("scope")
    if item is None:
        return "authorization", ""
    if not item.is_mapping:
        if item.text() != "global":
            item.problem("'global', or a mapping such as {header: x-tenant-id} or {require_header: authorization}, was expected")
        return "", ""
    part = item.section()
    if part.has("header") and part.has("require_header"):
        part.problem("require_header", "could do nothing: without the scope's own header nothing is cached anyway")
    key = "require_header" if part.has("require_header") and not part.has("header") else "header"
    name = part.text(key, pattern=r"[A-Za-z0-9-]{1,100}", what="a header's name").lower()
    part.close()
    return ("", name) if key == "require_header" else (name or "authorization", "")


def _limits(section: Section) -> Eligibility:
    default = Eligibility()
    limits = Eligibility(
        section.number("max_temperature", default.max_temperature, 0, 2),
        section.integer("max_text_chars", default.max_text_chars, 1, 4000),
        section.flag("tools", default.allows_tools),
        section.flag("time_dependent", default.allows_time_dependent),
        section.flag("personal", default.allows_user_specific),
        section.flag("multi_turn", default.allows_multi_turn),
        section.flag("explicit_models", default.allows_explicit_models),
        section.flag("ignore_user_field", default.ignores_user_field),
        section.text("revision", ""),
    )
    section.close()
    return limits


def _controls(section: Section, default: CacheConfig) -> tuple[frozenset[str], float]:
    item = section.item("allow")
    names = item.items("a list of controls") if item else []
    for name in names:
        if name.text() not in CONTROLS:
            name.problem(f"'{name.text()}' is none of {', '.join(CONTROLS)}")
    most_ttl_s = section.number("max_ttl_seconds", default.most_ttl_s, 1, 10 * 365 * 86_400)
    section.close()
    return (frozenset(name.text() for name in names) if item else default.controls), most_ttl_s


def decision_terms(section: Section, cache: CacheConfig) -> CachePolicy | None:
    """The key `cache` of a rule or of the default: its own terms, or None when it is not to be cached."""
    part = section.section("cache")
    enabled = part.flag("enabled", default=cache.enabled)
    default = cache.default
    guards = _guards(part, default.guards)
    threshold, at_least, budget = cache.bars.read(part, default, guards)
    cache_policy = replace(
        default,
        threshold=threshold,
        at_least=at_least,
        ttl_s=part.number("ttl_seconds", default.ttl_s, 1, 10 * 365 * 86_400),
        guards=guards,
        wait_s=part.number("coalesce_timeout_seconds", default.wait_s, 0, 600),
        shadow=part.flag("shadow", default=default.shadow),
        is_semantic=part.flag("semantic", default=default.is_semantic),
        false_hit_budget=budget,
    )
    if part.has("enabled") and enabled and not cache.enabled:
        part.problem("enabled", "the cache is off: set semantic_cache.enabled to true")
    part.close()
    return cache_policy if enabled else None


# -- the store -------------------------------------------------------------------------------------------------------


def _store(section: Section, backend: str, enabled: bool, state_path: Path) -> tuple[MilvusSettings, SyncSettings]:
    """The Milvus file; Milvus Lite in the folder for state when none is named."""
    folder = Path(section.notes.file).parent
    path = section.text("backend_config_path", "")
    if backend == "memory":
        if path:
            section.problem("backend_config_path", "could do nothing: backend_type 'memory' has no store")
        return MilvusSettings(), SyncSettings()
    if not path:
        return MilvusSettings(file=state_path / LITE_FOLDER), SyncSettings()
    file = folder / path
    if not enabled:
        return MilvusSettings(), SyncSettings()
    try:
        text = read_text(file)
    except (OSError, UnicodeDecodeError):
        section.problem("backend_config_path", f"there is no file {file} that can be read")
        return MilvusSettings(), SyncSettings()
    notes = Notes(str(file))
    settings, pace = read_milvus(parse_yaml(text, notes), state_path)
    section.notes.problems.extend(notes.problems)
    return settings, pace


def read_milvus(top: Section, state_path: Path | None = None) -> tuple[MilvusSettings, SyncSettings]:
    """Every key of the Milvus file. Milvus Lite's folder is looked for from `state_path` on, or from this file's folder."""
    default, pace = MilvusSettings(), SyncSettings()
    settings = _connection(top.section("connection"), default, state_path)
    settings = _collection(top.section("collection"), settings)
    settings = _search(top.section("search"), settings)
    performance = top.section("performance")
    settings = _pool(performance.section("connection_pool"), settings)
    batch = performance.section("batch")
    pace = replace(
        pace,
        batch=batch.integer("insert_batch_size", pace.batch, 1, 10_000),
        write_s=batch.number("timeout", pace.write_s, 0.1, 600),
    )
    batch.close()
    performance.close()
    settings, pace = _data(top.section("data_management"), settings, pace)
    settings = _logging(top.section("logging"), settings)
    development = top.section("development")
    settings = replace(
        settings,
        drops_at_start=development.flag("drop_collection_on_startup", default=False),
        creates_collection=development.flag("auto_create_collection", default=True),
        shows_errors=development.flag("verbose_errors", default=True),
    )
    development.close()
    top.close()
    return settings, pace


def _connection(section: Section, settings: MilvusSettings, state_path: Path | None) -> MilvusSettings:
    path = section.text("file", "")
    folder = Path(section.notes.file).parent
    auth, tls = section.section("auth"), section.section("tls")
    has_auth, has_tls = auth.flag("enabled", default=False), tls.flag("enabled", default=False)
    username, password = (_secret(auth, key) if has_auth else _unused(auth, key) for key in ("username", "password"))
    if has_auth and not username:
        auth.problem("username", "is missing, while auth.enabled is true")
    files = {key: _file(tls, key, folder) if has_tls else _unused(tls, key) for key in ("cert_file", "key_file", "ca_file")}
    auth.close()
    tls.close()
    if path:
        for key in ("host", "port", "database"):
            if section.has(key):
                section.problem(key, "could do nothing: connection.file names Milvus Lite's file, not a server")
    settings = replace(
        settings,
        file=((state_path or folder) / path).absolute() if path else None,
        host=section.text("host", settings.host),
        port=section.integer("port", settings.port, 1, 65_535),
        database=section.text("database", "", r"\w{1,255}", _WORDS) if _is_filled(section, "database") else "",
        timeout_s=section.number("timeout", settings.timeout_s, 0.1, 600),
        username=username,
        password=password,
        is_tls=has_tls,
        cert_file=files["cert_file"],
        key_file=files["key_file"],
        ca_file=files["ca_file"],
    )
    section.close()
    return settings


def _file(section: Section, key: str, folder: Path) -> str:
    """An existing file, by a path from the folder of the configuration; empty when none is named."""
    if not _is_filled(section, key):
        return ""
    path = folder / section.text(key, "")
    if not path.is_file():
        section.problem(key, f"there is no file {path}")
    return str(path)


def _unused(section: Section, key: str) -> str:
    """A key that counts only when its section is enabled."""
    section.has(key)
    return ""


def _is_filled(section: Section, key: str) -> bool:
    """A key that stands there with an empty string says nothing."""
    item = section.item(key)
    return item is not None and item.value != ""


def _secret(section: Section, key: str) -> str:
    """A value, or `${NAME}` for a variable of the environment: passwords need not stand in a file."""
    if not _is_filled(section, key):
        return ""
    value = section.text(key, "")
    if found := _SECRET.fullmatch(value):
        if found[1] not in os.environ:
            section.problem(key, f"the environment has no variable {found[1]}")
        return os.environ.get(found[1], "")
    return value


def _collection(section: Section, settings: MilvusSettings) -> MilvusSettings:
    vector, index = section.section("vector_field"), section.section("index")
    dimension = vector.integer("dimension", DIMENSION, 1, 32_768)
    if dimension != DIMENSION:
        vector.problem("dimension", f"the encoder gives vectors of {DIMENSION} numbers")
    kind = index.choice("type", settings.index_type, _INDEXES)
    params = index.section("params")
    defaults = {"M": 16, "efConstruction": 64, "nlist": 128}
    ranges = _INDEXES.get(kind, {})
    chosen = {name: params.integer(name, defaults[name], *limits) for name, limits in ranges.items()}
    for name in defaults.keys() - ranges.keys():
        if params.has(name):
            params.problem(name, f"could do nothing: an index of type {kind} has no such parameter")
    params.close()
    index.close()
    settings = replace(
        settings,
        collection=section.text("name", settings.collection, r"[A-Za-z_]\w{0,200}", _WORDS),
        description=section.text("description", "") if _is_filled(section, "description") else "",
        vector_field=vector.text("name", settings.vector_field, r"[A-Za-z_]\w{0,200}", _WORDS),
        metric_type=vector.choice("metric_type", settings.metric_type, ("IP", "COSINE", "L2")),
        index_type=kind,
        index_params=chosen,
    )
    vector.close()
    section.close()
    return settings


def _search(section: Section, settings: MilvusSettings) -> MilvusSettings:
    params = section.section("params")
    wanted = _SEARCH.get(settings.index_type)
    defaults = {"ef": 64, "nprobe": 16}
    chosen = {wanted: params.integer(wanted, defaults[wanted], 1, 32_768)} if wanted else {}
    for name in defaults.keys() - chosen.keys():
        if params.has(name):
            params.problem(name, f"could do nothing: an index of type {settings.index_type} is not searched with it")
    params.close()
    settings = replace(
        settings,
        search_params=chosen,
        topk=section.integer("topk", settings.topk, 1, 100),
        consistency_level=section.choice("consistency_level", settings.consistency_level, _LEVELS),
    )
    section.close()
    return settings


def _pool(section: Section, settings: MilvusSettings) -> MilvusSettings:
    settings = replace(
        settings,
        max_requests=section.integer("max_connections", settings.max_requests, 1, 1000),
        acquire_timeout_s=section.number("acquire_timeout", settings.acquire_timeout_s, 0.01, 600),
    )
    if section.has("max_idle_connections"):
        section.problem("max_idle_connections", "could do nothing: one gRPC channel carries all requests; remove the key")
    section.close()
    return settings


def _data(section: Section, settings: MilvusSettings, pace: SyncSettings) -> tuple[MilvusSettings, SyncSettings]:
    ttl, compaction = section.section("ttl"), section.section("compaction")
    settings = replace(
        settings,
        sweeps=ttl.flag("enabled", default=True),
        timestamp_field=ttl.text("timestamp_field", settings.timestamp_field, r"[A-Za-z_]\w{0,200}", _WORDS),
        compacts_s=compaction.number("interval", 86_400.0, 60, 10**8) if compaction.flag("enabled", default=False) else 0.0,
    )
    if compaction.has("interval") and not settings.compacts_s:
        compaction.number("interval", 86_400.0, 60, 10**8)
    pace = replace(pace, sweep_s=ttl.number("cleanup_interval", pace.sweep_s, 1, 10**7))
    ttl.close()
    compaction.close()
    section.close()
    return settings, pace


def _logging(section: Section, settings: MilvusSettings) -> MilvusSettings:
    settings = replace(
        settings,
        log_level=section.choice("level", settings.log_level, ("debug", "info", "warning", "error")),
        logs_queries=section.flag("enable_query_log", default=False),
        counts_requests=section.flag("enable_metrics", default=True),
    )
    section.close()
    return settings
