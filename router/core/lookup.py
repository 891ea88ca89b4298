"""The types that the exchange and the cache share: query, policy and result of a lookup, and all reasons."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from router.core.text.conversation import NotCompared

Tier = Literal["exact", "semantic", "coalesced"]
"""Where a hit was found. `exact`: an entry with the same text. `semantic`: an entry with the same meaning. `coalesced`: an equal
request that was under way."""
Share = Literal["decision", "model", "all"]
"""Across which decisions of requests for a virtual model an answer is found. `all`: all of them. `model`: those that ask the same
model in the same way. `decision`: those of the same rule."""
SHARES: tuple[Share, ...] = get_args(Share)
Check = Literal["numbers", "negation", "opposites", "names", "code", "order", "addition", "kind", "content", "unasked"]
"""The lexical checks that can refuse a candidate; see `cache/checks.py`."""
ModelFailure = Literal["too_long", "unknown_words", "no_text", "overloaded", "model_failed", "closed", "failed"]
"""Why the encoder could not read a text."""
VerifierFailure = Literal[
    "verifier_too_long",
    "verifier_unknown_words",
    "verifier_no_text",
    "verifier_overloaded",
    "verifier_model_failed",
    "verifier_closed",
    "verifier_failed",
]
Objection = Literal["continuation", "unread_difference"]
"""Why two conversations are not given to the verifier: one goes on where the other ended, or no model reads how they differ."""
Refusal = Check | VerifierFailure | Objection | Literal["verifier", "rejected", "near_miss", "answer_evicted"]
"""Why a candidate's answer is not served. Clients may see this."""
ExplainedRefusal = Literal["not_near", "not_judged", "too_old"]
"""More such reasons, which only `explain` shows: the candidate is not similar enough to count as a near miss, enough others were
judged before it, or it is older than the client allows."""
MissReason = (
    Refusal
    | ModelFailure
    | NotCompared
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
"""Why no answer is served. `off`: there is no cache. `unknown`: `explain` has no cache to ask. These two are never counted."""
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
"""Whether the answer was stored, or why not; empty when storing was not intended."""
CacheStatus = Literal["off", "hit", "shadow", "miss", "skipped"]
"""What the cache did for a request. `shadow`: it would have been a hit. `skipped`: the request may not be cached."""
_MODEL_FAILURES: dict[str, ModelFailure] = {word: word for word in get_args(ModelFailure)}
_VERIFIER_FAILURES: dict[str, VerifierFailure] = {word: word for word in get_args(VerifierFailure)}


def model_failure(word: str) -> ModelFailure:
    """The failure of the encoder that `BackendError.word` names."""
    return _MODEL_FAILURES.get(word, "failed")


def verifier_failure(word: str) -> VerifierFailure:
    """The failure of the verifier that `BackendError.word` names."""
    return _VERIFIER_FAILURES.get(f"verifier_{word}", "verifier_failed")


@dataclass(frozen=True, slots=True)
class CacheQuery:
    """What is looked up, and what an answer is stored under."""

    text: str
    """The whole last user message; with `with_turns`, the whole conversation in the form of `conversation.as_text`."""
    namespace: str
    """Digest, 32 hex digits, of everything else that the answer depends on."""
    key: str
    """Digest, 32 hex digits, of namespace and text. The exact tier looks it up."""
    scope: str
    """Who shares these answers: a keyed digest of the scope header, or `global`."""
    decision: str
    """What was decided for this request. An answer that is found may have been stored by another decision."""
    model: str
    """Name of the configured model that was chosen."""
    with_turns: bool = False
    """Earlier turns are not in the namespace: it holds conversations and single messages."""
    not_compared: NotCompared | None = None
    """Why earlier turns are in the namespace although the policy would compare conversations; None in all other cases."""


@dataclass(frozen=True, slots=True)
class ConversationThresholds:
    """For two conversations whose earlier turns differ."""

    similarity: float
    """As in `CachePolicy`."""
    verifier: float
    """As in `CachePolicy`."""


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """Cache settings of one decision, changed by what the client asks for in its request."""

    similarity_threshold: float
    """Smallest cosine similarity of a candidate, 0 to 1. A candidate must pass the checks and the verifier as well."""
    ttl_s: float
    lexical_checks: tuple[str, ...]
    """Names of the lexical checks that can refuse a candidate; see `Check`."""
    verifier_threshold: float = 0.0
    """Smallest probability that one answer fits both questions, as the verifier predicts it; unused without a verifier."""
    coalesce_timeout_s: float = 0.0
    """Seconds to wait for the answer to an equal question that is under way; 0 does not wait."""
    shadow: bool = False
    """Look up and count hits, but serve none. No request waits for an equal one."""
    exact_only: bool = False
    """Use the exact tier only."""
    share: Share = "all"
    others_ttl_s: float | None = None
    """The decision's own `ttl_seconds`: it bounds the age of answers that other decisions stored. None for no bound."""
    may_look_up: bool = True
    may_store: bool = True
    only_if_cached: bool = False
    """The client wants a cached answer or none."""
    max_age_s: float | None = None
    max_false_hit_rate: float | None = None
    """Upper bound on the share of wrong hits, 0 to 1, for which `verifier_threshold` was chosen; None when the operator set the
    threshold."""
    conversations: ConversationThresholds | None = None
    """None: only conversations whose earlier turns are equal may share an answer."""

    @property
    def for_conversations(self) -> CachePolicy:
        """The policy under which two conversations with different earlier turns are judged. Lexical checks compare questions."""
        thresholds = self.conversations or ConversationThresholds(1.0, 1.0)
        similarity, verifier = thresholds.similarity, thresholds.verifier
        return replace(self, similarity_threshold=similarity, verifier_threshold=verifier, lexical_checks=())

    @property
    def near_miss_threshold(self) -> float:
        """Below it, a candidate is not considered; between it and `similarity_threshold` it is a near miss."""
        return min(self.similarity_threshold, 0.70)  # 92% of the true duplicates among QQP's test pairs reach 0.70


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the answer to one question may be served for another."""

    refusal: Refusal | Literal[""]
    """Why it may not; empty when it may."""
    probability: float | None = None
    """As in `Hit.verified`."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A cached answer that may be served."""

    entry_id: str
    """Name of this hit: the id of the entry and a digest of the two questions. `cache reject` takes it."""
    answer: bytes
    """In the form of `Answer.encode`."""
    tier: Tier
    similarity: float
    """Cosine similarity; 1 for the same text."""
    age_s: float
    verified: float | None = None
    """Probability that the answer fits, as the verifier predicts it; None when the verifier was not asked."""
    decision: str = ""
    """The decision that stored the answer."""
    model: str = ""
    """The configured model that wrote it."""


@dataclass(frozen=True, slots=True)
class Miss:
    """No answer may be served. Misses with the same reason are equal."""

    reason: MissReason
    similarity: float = field(default=0.0, compare=False)
    """Cosine similarity of the candidate that was refused for `reason`; 0 when none was."""
    entry_id: str = field(default="", compare=False)
    """Id of this candidate; empty when there is none. It goes to the access log, never to the client."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """An equal question is under way. Wait for its answer, at most `timeout_s` seconds."""

    timeout_s: float


Found = Hit | Miss
