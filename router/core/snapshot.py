"""The configuration that one exchange works with, from its first event to its last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from router.core.cache_policy import CachePlan
from router.core.models import Model, ReasoningFamily
from router.core.openai.bodysize import DEFAULTS, BodyBounds
from router.core.policy import Policy
from router.core.types import Decision


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Immutable, so exchanges in progress keep the configuration that they began with."""

    policy: Policy
    models: Mapping[str, Model]
    """By the name that clients ask for."""
    virtual_models: tuple[str, ...]
    """Model names that leave the choice to the policy."""
    families: Mapping[str, ReasoningFamily]
    max_body_bytes: int
    records_usage: bool = False
    """Read token counts from answers. The response must then pass the router."""
    started_s: int = 0
    """Unix time; the `created` of every listed model."""
    cache: CachePlan | None = None
    """None when the cache is off."""
    bounds: BodyBounds = DEFAULTS
    max_guard_chars: int = 131_072
    """How many characters of a prompt blocking rules read; a longer prompt counts as unread."""
    guard_deadline_s: float = 30.0
    """Seconds that the readings for blocking rules may take; part of `longest_wait_s`, for which the shell asks Envoy."""
    guard_patience_s: float = 0.25
    """Seconds after which the shell asks: before Envoy's own timeout, and so late that most requests never need to ask."""

    @property
    def longest_wait_s(self) -> float:
        """The time to ask Envoy for, in seconds. It includes the cache's wait, because Envoy can be asked only once."""
        waits = [cache_policy.coalesce_timeout_s for cache_policy in self.cache.policies.values()] if self.cache else []
        return self.guard_deadline_s + max(waits, default=0.0)

    @property
    def names(self) -> tuple[str, ...]:
        """Every model name that a client may send."""
        return (*self.virtual_models, *self.models)

    def family_of(self, decision: Decision) -> ReasoningFamily | None:
        """The reasoning family of the chosen model, if it has one."""
        return self.families.get(decision.model.reasoning_family or "")
