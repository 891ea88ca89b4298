"""The operator's settings of the cache, and what a client may change for its own request."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from router.core.cache_key import Eligibility
from router.core.freshness import directives
from router.core.headers import AUTHORIZATION, CACHE_TTL_HEADER
from router.core.lookup import CachePolicy

CONTROLS = ("no-cache", "no-store", "max-age", "only-if-cached", "ttl")
"""What a client may ask for; the operator lists those that take effect."""


@dataclass(frozen=True, slots=True)
class ScopePlan:
    """Who shares answers with whom."""

    header: str = AUTHORIZATION
    """Requests with the same value share; without the header nothing is cached. Empty: all share."""
    key: bytes = b""
    """What values are hashed with; the same for all replicas."""
    required_header: str = ""
    """Where all clients share: a header that a request must have to take part. Only its presence counts."""

    def of(self, headers: Mapping[str, str]) -> str | None:
        """A keyed digest of the header's value, 32 hex digits; None when the request has none."""
        if not self.header:
            is_allowed = not self.required_header or _value(headers, self.required_header)
            return "global" if is_allowed else None
        value = _value(headers, self.header)
        if not value:
            return None
        # The bytes as they came, whatever their encoding: two names must not become one.
        data = f"{self.header}\n{value}".encode("utf-8", "surrogateescape")
        return hmac.new(self.key, data, "blake2s").hexdigest()[:32]


def _value(headers: Mapping[str, str], name: str) -> str:
    """Without the white space that HTTP allows around a value, and no other."""
    return headers.get(name, "").strip(" \t")


@dataclass(frozen=True, slots=True)
class CachePlan:
    """The cache as exchanges see it."""

    scope: ScopePlan
    eligibility: Eligibility
    policies: Mapping[str, CachePolicy]
    """By the decision's name; a decision without an entry is not cached."""
    versions: str
    """The encoder and the guards, as `build` puts them together."""
    max_answer_bytes: int = 262_144
    controls: frozenset[str] = field(default_factory=lambda: frozenset(CONTROLS))
    max_ttl_s: float = 86_400.0
    """Upper bound on the lifetime that a client may ask for, in seconds."""


@dataclass(frozen=True, slots=True)
class ClientControls:
    """What the client says about the cache, as far as the operator allows it."""

    directives: Mapping[str, float]
    """Of `Cache-Control`, with the seconds of each; see `freshness.directives`."""
    ttl: str = ""
    """As the client wrote it; it need not be a number."""

    @property
    def only_if_cached(self) -> bool:
        """The client wants a stored answer or none (RFC 9111, 5.2.1.7)."""
        return "only-if-cached" in self.directives


def read_client_controls(plan: CachePlan, headers: Mapping[str, str]) -> ClientControls:
    """Read once for each request."""
    asked = {name: seconds for name, seconds in directives(headers).items() if name in plan.controls}
    return ClientControls(asked, headers.get(CACHE_TTL_HEADER, "").strip() if "ttl" in plan.controls else "")


def apply_client_controls(cache_policy: CachePolicy, controls: ClientControls, max_ttl_s: float) -> CachePolicy:
    """The decision's cache settings, changed by what the client asks for. `max_ttl_s` bounds what it asks for as `ttl`."""
    asked, ttl = controls.directives, controls.ttl
    return replace(
        cache_policy,
        may_look_up=cache_policy.may_look_up and "no-cache" not in asked and asked.get("max-age") != 0,
        may_store=cache_policy.may_store and "no-store" not in asked and ttl != "0",
        only_if_cached=controls.only_if_cached,
        max_age_s=asked.get("max-age", cache_policy.max_age_s),
        ttl_s=min(float(ttl), max_ttl_s) if ttl.isdecimal() and len(ttl) < 10 else cache_policy.ttl_s,
    )
