"""Reads the section `semantic_cache` and the key `cache` of rules into cache policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from router.cache.checks import CHECKS, CHECKS_ALONE, CHECKS_AMONG_STRANGERS, CHECKS_WITH_VERIFIER
from router.cache.settings import POLICIES, CacheLimits, MilvusSettings, SyncSettings
from router.config.calibration import CALIBRATION, CalibrationTable, read_calibration
from router.config.conversations import conversation_thresholds
from router.config.keys import (
    Choice,
    FilePath,
    Flag,
    Integer,
    Number,
    Text,
    Texts,
    key,
    keys_of,
    read,
    subsection,
)
from router.config.milvus import read_store
from router.config.reader import Section
from router.config.scope import SCOPE_HEADER, ScopeKind, read_scope
from router.core.cache_key import Eligibility
from router.core.cache_policy import CONTROLS, CachePlan, ScopePlan
from router.core.lookup import SHARES, CachePolicy, Share
from router.files import is_file

SHIPPED_VERIFIER = Path(__file__).parents[1] / "models" / "verifier"
REJECTIONS_FILE = "semantic_cache.rejections"
BACKENDS: Mapping[str, str] = {
    "memory": "memory",
    "milvus": "milvus",
    "hybrid": "milvus",
}
"""What `backend_type` may say, and the store that it means (`runtime/build_cache.py` has a line for each); `memory` is none."""
_MAX_SECONDS = 10 * 365 * 86_400


# -- declarations ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PolicyKeys:
    """Cache settings that each decision may override."""

    similarity_threshold: float | None = key(
        Number(0.5, 1),
        "Lowest cosine similarity of a candidate. Necessary, not sufficient.",
        shown="`0.75`, without a verifier `0.8`",
    )
    max_false_hit_rate: float | None = key(
        Number(0.0005, 0.5),
        "Upper bound on the share of non-matching questions served a cached answer: at 95% confidence, on held-back question "
        "pairs. It sets the verifier's threshold; without a verifier, the lowest similarity, so that "
        "`similarity_threshold` beside it is refused.",
        shown="`0.01`, without a verifier none",
    )
    ttl_seconds: float = key(Number(1, _MAX_SECONDS), "How long an answer may be served.", 3600.0)
    lexical_checks: tuple[str, ...] | None = key(
        Texts("checks", "list of checks", tuple(CHECKS), may_be_empty=True),
        f"Which differences in wording keep an answer back: {', '.join(CHECKS)} (see below). What no model reads keeps it back "
        "in any case (`unread_difference`).",
        shown="all but kind, content and unasked, without a verifier all but unasked; unasked, too, where all share",
    )
    coalesce_timeout_seconds: float = key(
        Number(0, 600),
        "How long equal questions wait for the answer to the first of them. envoy.yaml's `max_message_timeout` has to exceed it.",
        0.0,
    )
    shadow: bool = key(Flag(), "Decide and count, and serve nothing. No request waits for an equal one.", False)
    exact_only: bool = key(Flag(), "Serve answers to the same text only.", False)
    share: Share = key(
        Choice(SHARES),
        "Whose answers serve requests for a virtual model (`auto`). `all`: those of every rule, whatever model, reasoning and "
        "system prompt of the router's they were given with. `model`: those given by the same model, with the same reasoning and "
        "system prompt. `decision`: those of the same rule. See below.",
        "all",
    )
    similar_conversations: bool = key(
        Flag(),
        "Also serve a conversation whose earlier turns were worded otherwise, or whose context was told in one message. The "
        "verifier reads both; `max_false_hit_rate` needs a part for conversations in `calibration`. See below.",
        False,
    )


@dataclass(frozen=True, slots=True)
class DecisionCacheKeys(PolicyKeys):
    """Cache settings of one decision. Settings that it omits are those of `semantic_cache`."""

    enabled: bool = key(Flag(), "False: what this rule decides is never cached.", False)


@dataclass(frozen=True, slots=True)
class VerifierKeys:
    """The second model."""

    enabled: bool = key(Flag(), "Off: the lexical checks judge alone, and few paraphrases pass them.", True)
    model_path: str = key(
        FilePath("folder"),
        "Another one; it needs a table of its own (`calibration`).",
        str(SHIPPED_VERIFIER),
        shown="the shipped model",
    )

    def check(self, section: Section) -> None:
        """Refuse a model path when the verifier is switched off."""
        if not self.enabled and section.has("model_path"):
            section.problem("model_path", "could do nothing: the verifier is switched off")


@dataclass(frozen=True, slots=True)
class EligibilityKeys:
    """Which requests may be cached."""

    max_temperature: float = key(Number(0, 2), "Above it, clients want variety.", 1.0)
    max_text_chars: int = key(
        Integer(1, 4000), "Of the last user message. A request of more than 1 MiB in all is never looked up.", 2000
    )
    tools: bool = key(Flag(), "Requests that offer tools. Those with calls or results are never looked up.", False)
    time_dependent: bool = key(Flag(), '"today", "latest", "weather" and the like.', False)
    user_specific: bool = key(Flag(), '"my order" and the like.', False)
    multi_turn: bool = key(
        Flag(), "Conversations; all earlier turns then have to be equal, unless `similar_conversations` is true.", True
    )
    explicit_models: bool = key(Flag(), "Requests that name their model themselves.", False)
    ignore_user_field: bool = key(Flag(), "Requests that differ only in their field `user` share answers.", False)
    namespace: str = key(Text(), "With another namespace, everything stored before is out of reach.", "", shown="none")


@dataclass(frozen=True, slots=True)
class ClientControlsKeys:
    """Which cache controls clients may use."""

    allow: tuple[str, ...] = key(
        Texts("controls", f"list of {', '.join(CONTROLS)}", CONTROLS, may_be_empty=True),
        "The first four in `Cache-Control`, `ttl` in `x-vsr-cache-ttl` (seconds).",
        tuple(CONTROLS),
        shown="all",
    )
    max_ttl_seconds: float = key(Number(1, _MAX_SECONDS), "What `x-vsr-cache-ttl` is clamped to.", 86_400.0)


@dataclass(frozen=True, slots=True)
class CacheKeys(PolicyKeys):
    """The section."""

    enabled: bool = key(Flag(), "Off: nothing of it is loaded.", False)
    backend_type: str = key(
        Choice(tuple(BACKENDS)),
        "`memory`: gone with the process, except rejected pairs (`semantic_cache.rejections` under `server.state_path`). "
        "`milvus`: in memory, and in Milvus behind it; `hybrid` is another word for that.",
        "milvus",
    )
    backend_config_path: str = key(
        FilePath("file"),
        "The file of a Milvus server, from this file's folder, or else from the working directory. Without it, Milvus Lite in "
        "the folder `semantic_cache.db` under `server.state_path`, which only the router's user can enter.",
        "",
        shown="Milvus Lite",
    )
    verifier: VerifierKeys = subsection(
        VerifierKeys, "The second model: it reads both questions and confirms that one answer fits."
    )
    calibration: str = key(
        FilePath("file"),
        "Table from which `max_false_hit_rate` sets thresholds; `semantic-router calibrate cache` makes one from your own pairs.",
        str(CALIBRATION),
        shown="the shipped table",
    )
    max_entries: int = key(Integer(1, 100_000_000), "In memory and in the store.", 1000)
    eviction_policy: str = key(Choice(POLICIES), "Which entry leaves when there is no room.", "fifo")
    scope: object = key(
        ScopeKind(),
        "Who shares answers. `global`: everybody, also clients whose key the model would refuse; `check` warns.",
        shown="see below",
    )
    max_memory_bytes: int = key(Integer(1, 2**40), "Bytes of answers in memory; the store has the others.", 64 * 1024 * 1024)
    max_answer_bytes: int = key(
        Integer(1, 16 * 1024 * 1024),
        "Longer answers are not stored. In Milvus an answer has to fit into 65,535 bytes when compressed.",
        256 * 1024,
    )
    lookup_timeout_ms: int = key(Integer(1, 10_000), "A lookup that takes longer is a miss.", 100)
    store_timeout_ms: int = key(Integer(1, 10_000), "Of `lookup_timeout_ms`, how much one query to the store may take.", 50)
    eligibility: EligibilityKeys = subsection(EligibilityKeys, "Which requests a stored answer may answer.")
    client_controls: ClientControlsKeys = subsection(ClientControlsKeys, "What clients may ask for.")


# -- what becomes of it ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """The cache's configuration."""

    enabled: bool = False
    backend: str = "milvus"
    """One of the values of `BACKENDS`."""
    milvus: MilvusSettings = field(default_factory=MilvusSettings)
    limits: CacheLimits = field(default_factory=CacheLimits)
    sync: SyncSettings = field(default_factory=SyncSettings)
    default: CachePolicy = field(default_factory=lambda: CachePolicy(0.8, 3600.0, CHECKS_ALONE))
    """Of decisions that say nothing of their own."""
    keys: CacheKeys = field(default_factory=CacheKeys)
    """What it was made of."""
    verifier: Path | None = None
    """The bundle of the model that confirms candidates; None when the lexical checks judge alone."""
    calibration: CalibrationTable = field(default_factory=CalibrationTable)
    policies: Mapping[str, CachePolicy] = field(default_factory=dict)
    """By decision; one that is not here is not cached."""
    scope_header: str = SCOPE_HEADER
    """Empty: all share."""
    required_header: str = ""
    """As of `ScopePlan`."""
    eligibility: Eligibility = field(default_factory=Eligibility)
    controls: frozenset[str] = frozenset(CONTROLS)
    max_ttl_s: float = 86_400.0
    max_answer_bytes: int = 256 * 1024
    rejections_file: Path | None = None
    """The file for rejected pairs, without a store. None when the store keeps them."""

    def plan(self, key: bytes, versions: str) -> CachePlan:
        """The part that exchanges need."""
        scope = ScopePlan(self.scope_header, key, self.required_header)
        return CachePlan(scope, self.eligibility, self.policies, versions, self.max_answer_bytes, self.controls, self.max_ttl_s)


def read_cache(section: Section, state_path: Path | None = None) -> CacheConfig:
    """Read the section `semantic_cache`. The reader of the rules adds the policies of decisions.

    `state_path` is the folder for data that outlives the process. None means the folder of the file.
    """
    folder = Path(section.notes.file).parent
    state_path = state_path or folder.absolute()
    keys = read(section, CacheKeys)
    verifier = _verifier(section.section("verifier"), keys, folder)
    calibration = read_calibration(section, folder / keys.calibration, has_verifier=verifier is not None, is_caching=keys.enabled)
    scope_header, required_header = read_scope(section)
    backend = BACKENDS[keys.backend_type]
    milvus, sync = read_store(section, backend, keys.backend_config_path, state_path, is_caching=keys.enabled)
    return CacheConfig(
        enabled=keys.enabled,
        backend=backend,
        milvus=milvus,
        limits=CacheLimits(
            keys.max_entries,
            keys.eviction_policy,
            keys.max_memory_bytes,
            keys.lookup_timeout_ms / 1000,
            keys.store_timeout_ms / 1000,
        ),
        sync=sync,
        default=_default_policy(section, keys, calibration, shares_with_all=not scope_header),
        keys=keys,
        verifier=verifier,
        calibration=calibration,
        scope_header=scope_header,
        required_header=required_header,
        eligibility=_eligibility(keys.eligibility),
        controls=frozenset(keys.client_controls.allow),
        max_ttl_s=keys.client_controls.max_ttl_seconds,
        max_answer_bytes=keys.max_answer_bytes,
        rejections_file=state_path / REJECTIONS_FILE if backend == "memory" else None,
    )


def decision_policy(section: Section, cache: CacheConfig) -> CachePolicy | None:
    """Read the key `cache` of a rule or of the default: its cache policy, or None if its answers are not cached.

    Without a verifier, `max_false_hit_rate` would replace the `similarity_threshold` of `semantic_cache`, by a lower one even.
    Only one of them can be meant, so both are refused, as they are within one section.
    """
    part = section.section("cache")
    keys = read(part, DecisionCacheKeys, _keys_of(cache))
    inherited = cache.keys.similarity_threshold
    is_alone = keys.enabled and not cache.calibration.has_verifier
    if is_alone and inherited is not None and part.has("max_false_hit_rate") and not part.has("similarity_threshold"):
        message = (
            f"would replace semantic_cache.similarity_threshold ({inherited:g}), because there is no verifier; "
            "name similarity_threshold here instead, or remove that one"
        )
        part.problem("max_false_hit_rate", message)
    if part.has("enabled") and keys.enabled and not cache.enabled:
        part.problem("enabled", "the cache is off: set semantic_cache.enabled to true")
    return _policy(part, keys, cache.calibration, cache.default, cache.keys) if keys.enabled else None


def _keys_of(cache: CacheConfig) -> DecisionCacheKeys:
    """The defaults of a decision's keys: the values of `semantic_cache`. `CalibrationTable.thresholds` replaces None."""
    inherited = {each.field: getattr(cache.keys, each.field) for each in keys_of(PolicyKeys)}
    own = {"similarity_threshold": None, "max_false_hit_rate": None, "lexical_checks": cache.default.lexical_checks}
    return DecisionCacheKeys(**{**inherited, **own}, enabled=cache.enabled)


def _default_policy(section: Section, keys: CacheKeys, calibration: CalibrationTable, *, shares_with_all: bool) -> CachePolicy:
    checks = keys.lexical_checks
    if checks is None:
        usual = CHECKS_WITH_VERIFIER if calibration.has_verifier else CHECKS_ALONE
        checks = (*usual, *CHECKS_AMONG_STRANGERS) if shares_with_all else usual
    default = CachePolicy(
        calibration.similarity, 3600.0, checks, calibration.verifier_threshold, max_false_hit_rate=calibration.default_rate
    )
    return _policy(section, replace(keys, lexical_checks=checks), calibration, default, keys)


def _policy(
    section: Section, keys: PolicyKeys, calibration: CalibrationTable, default: CachePolicy, inherited: CacheKeys
) -> CachePolicy:
    """`default` and `inherited` are the policy and the keys of `semantic_cache`."""
    checks = keys.lexical_checks or ()
    conversations = None
    if keys.similar_conversations:
        idle = "" if inherited.eligibility.multi_turn else "semantic_cache.eligibility.multi_turn is false"
        conversations = conversation_thresholds(
            section,
            calibration,
            checks,
            similarity=keys.similarity_threshold or inherited.similarity_threshold,
            rate=keys.max_false_hit_rate or inherited.max_false_hit_rate,
            idle=idle,
        )
    thresholds = calibration.thresholds(section, keys.similarity_threshold, keys.max_false_hit_rate, default, checks)
    return CachePolicy(
        similarity_threshold=thresholds.similarity,
        ttl_s=keys.ttl_seconds,
        lexical_checks=checks,
        verifier_threshold=thresholds.verifier,
        coalesce_timeout_s=keys.coalesce_timeout_seconds,
        shadow=keys.shadow,
        exact_only=keys.exact_only,
        share=keys.share,
        others_ttl_s=keys.ttl_seconds,
        max_false_hit_rate=thresholds.max_false_hit_rate,
        conversations=conversations,
    )


def _verifier(section: Section, keys: CacheKeys, folder: Path) -> Path | None:
    """The folder of the verifier's bundle. None when the verifier is switched off."""
    if not keys.verifier.enabled:
        return None
    bundle = folder / keys.verifier.model_path
    if keys.enabled and not is_file(bundle / "manifest.json"):
        section.problem("model_path", f"there is no model in {bundle}: manifest.json is missing")
    return bundle


def _eligibility(keys: EligibilityKeys) -> Eligibility:
    return Eligibility(
        max_temperature=keys.max_temperature,
        max_text_chars=keys.max_text_chars,
        allows_tools=keys.tools,
        allows_time_dependent=keys.time_dependent,
        allows_user_specific=keys.user_specific,
        allows_multi_turn=keys.multi_turn,
        allows_explicit_models=keys.explicit_models,
        ignores_user_field=keys.ignore_user_field,
        namespace=keys.namespace,
    )
