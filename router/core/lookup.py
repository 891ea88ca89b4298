"""What the cache is asked, and what it may answer: the words between the exchange and the cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Tier = Literal["exact", "semantic", "coalesced"]
"""Where a hit was found: the same text, a question of the same meaning, or a request that was under way."""
Check = Literal["numbers", "negation", "opposites", "names", "code", "order", "addition", "kind", "content", "unasked"]
"""The lexical checks that can refuse a candidate; see `cache/checks.py`."""
ModelFailure = Literal["too_long", "unknown_words", "no_text", "overloaded", "model_failed", "closed", "failed"]
"""Why the encoder or the verifier could not read a text."""
VerifierFailure = Literal[
    "verifier_too_long",
    "verifier_unknown_words",
    "verifier_no_text",
    "verifier_overloaded",
    "verifier_model_failed",
    "verifier_closed",
    "verifier_failed",
]
Refusal = Check | VerifierFailure | Literal["verifier", "unread_difference", "rejected", "near_miss", "answer_evicted"]
"""Why a candidate's answer is not given, where a client may see it."""
ExplainedRefusal = Literal["not_near", "not_judged", "too_old"]
"""The same, where only `explain` shows it: less similar than is counted, one candidate too many, older than the client allows."""
MissReason = (
    Refusal
    | ModelFailure
    | Literal[
        "empty",
        "no_candidate",
        "damaged",
        "no_cache",
        "exact_only",
        "timeout",
        "coalesce_timeout",
        "leader_failed",
        "off",
        "unknown",
    ]
)
"""Why no answer is served. `off`: there is no cache; `unknown`: `explain` has no cache to ask. Neither is ever counted."""
SkipReason = Literal[
    "decision",
    "no_scope",
    "client",
    "explicit_model",
    "endpoint",
    "no_question",
    "tools",
    "tool_results",
    "not_text",
    "several_choices",
    "temperature",
    "multi_turn",
    "no_text",
    "too_long",
    "invisible_text",
    "time_dependent",
    "user_specific",
]
"""Why a request is neither looked up nor stored."""
NotStoredReason = Literal[
    "not_ok",
    "compressed",
    "empty",
    "interrupted",
    "content_type",
    "no_store",
    "private",
    "no_cache",
    "vary",
    "expired",
    "too_long",
    "error",
    "unreadable",
    "several_choices",
    "tool_calls",
    "unknown_delta",
    "not_stopped",
    "refused",
]
"""Why an answer is not stored."""
StoreResult = NotStoredReason | Literal["", "stored"]
"""What became of an answer; empty when it was not to be stored."""
CacheStatus = Literal["off", "hit", "shadow", "miss", "skipped"]
"""What the cache did for a request. `shadow`: it would have been a hit; `skipped`: no question that may be cached."""
_MODEL_FAILURES: dict[str, ModelFailure] = {word: word for word in get_args(ModelFailure)}
_VERIFIER_FAILURES: dict[str, VerifierFailure] = {word: word for word in get_args(VerifierFailure)}


def model_failure(word: str) -> ModelFailure:
    """A word of `BackendError.word` as one of the closed set."""
    return _MODEL_FAILURES.get(word, "failed")


def verifier_failure(word: str) -> VerifierFailure:
    """The same, of the verifier."""
    return _VERIFIER_FAILURES.get(f"verifier_{word}", "verifier_failed")


@dataclass(frozen=True, slots=True)
class CacheQuery:
    """What is looked up, and under which its answer is stored."""

    text: str
    """The last user message, whole."""
    namespace: str
    """32 hex digits: everything else that the answer depends on."""
    key: str
    """32 hex digits: the namespace and the text, for the exact tier."""
    scope: str
    """Whose answers these are: a keyed digest, or `global`."""
    decision: str
    model: str
    """The configured model that was chosen."""


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """Cache settings of one decision, with what the client of one request asked for."""

    similarity_threshold: float
    """Smallest cosine similarity of a candidate, 0 to 1; necessary, not sufficient."""
    ttl_s: float
    lexical_checks: tuple[str, ...]
    """Names of the checks that can refuse a candidate; see `Check`."""
    verifier_threshold: float = 0.0
    """Smallest probability, by the verifier, that one answer fits both questions; unused without a verifier."""
    coalesce_timeout_s: float = 0.0
    """How long to wait for the answer to an equal question that is under way; 0 does not wait."""
    shadow: bool = False
    """Decide and count, and serve nothing."""
    exact_only: bool = False
    """Look in the exact tier alone."""
    may_look_up: bool = True
    may_store: bool = True
    only_if_cached: bool = False
    """The client wants a stored answer or none."""
    max_age_s: float | None = None
    max_false_hit_rate: float | None = None
    """Share of wrong hits, 0 to 1, that `verifier_threshold` was chosen for; None when the operator chose the probability."""

    @property
    def near_miss_threshold(self) -> float:
        """Similarity from which a candidate that is not served is counted as a near miss."""
        return min(self.similarity_threshold, 0.70)  # keeps 92% of the true duplicates among QQP's test pairs


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the answer to one question may be given to another."""

    refusal: Refusal | Literal[""]
    """Why not; empty when it may."""
    probability: float | None = None
    """As in `Hit.verified`."""


@dataclass(frozen=True, slots=True)
class Hit:
    """An answer that may be given."""

    entry_id: str
    """Of this hit: the entry's id, and a digest of the two questions. What `cache reject` takes."""
    answer: bytes
    """As `Answer.encode` gave it."""
    tier: Tier
    similarity: float
    """Cosine; 1 for the same text."""
    age_s: float
    verified: float | None = None
    """Probability, by the verifier, that the answer fits; None when it was not asked."""


@dataclass(frozen=True, slots=True)
class Miss:
    """No answer may be served."""

    reason: MissReason


@dataclass(frozen=True, slots=True)
class Waiting:
    """An equal question is under way, and its answer is worth waiting for."""

    timeout_s: float


Found = Hit | Miss
