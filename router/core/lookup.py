"""What the cache is asked, and what it may answer: the words between the exchange and the cache."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CacheQuery:
    """What is looked up, and under which its answer is stored."""

    text: str
    """The last user message, whole."""
    partition: str
    """32 hex digits: everything else that the answer depends on."""
    key: str
    """32 hex digits: the partition and the text, for the exact tier."""
    scope: str
    """Whose answers these are: a keyed digest, or `global`."""
    decision: str
    model: str
    """The configured model that was chosen."""


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """On which terms one question is looked up and its answer stored."""

    threshold: float
    """Least cosine similarity of a candidate, 0 to 1; necessary, not sufficient."""
    ttl_s: float
    guards: tuple[str, ...]
    """Names of the conflicts that keep a candidate from being served; see `cache/checks.py`."""
    at_least: float = 0.0
    """Least probability, by the verifier, that one answer fits both questions; unused without one."""
    wait_s: float = 0.0
    """How long to wait for an equal question that is under way."""
    shadow: bool = False
    """Decide and count, and serve nothing."""
    is_semantic: bool = True
    """False: the exact tier alone."""
    may_look_up: bool = True
    may_store: bool = True
    max_age_s: float | None = None
    false_hit_budget: float | None = None
    """The share of wrong hits that `at_least` was chosen for; None when the operator named the bar himself."""

    @property
    def floor(self) -> float:
        """Similarity from which a candidate that is not served is counted as a near miss."""
        return min(self.threshold, 0.70)  # keeps 92% of the true duplicates among QQP's test pairs


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the answer to one question may be given to another."""

    refusal: str
    """Why not: a guard's name, `verifier`, or what failed; empty when it may."""
    probability: float | None = None
    """As in `Hit.verified`."""


@dataclass(frozen=True, slots=True)
class Hit:
    """An answer that may be given."""

    entry_id: str
    """Of this hit: the entry's id, and a digest of the two questions. What `cache reject` takes."""
    answer: bytes
    """As `Answer.encode` gave it."""
    tier: str
    """`exact`, `semantic`, or `coalesced`: from a request that was under way."""
    similarity: float
    """Cosine; 1 for the same text."""
    age_s: float
    verified: float | None = None
    """Probability, by the verifier, that the answer fits; None when it was not asked."""


@dataclass(frozen=True, slots=True)
class Miss:
    reason: str
    """`empty`, `no_candidate`, `near_miss`, `timeout`, a guard's name, ...; a fixed word."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """An equal question is under way, and its answer is worth waiting for."""

    wait_s: float


Found = Hit | Miss
