"""The cache settings of the operator, and what a client may change of them for one request."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from router.core.cache_key import Eligibility
from router.core.freshness import directives
from router.core.headers import AUTHORIZATION, CACHE_TTL_HEADER
from router.core.lookup import CachePolicy

CONTROLS = ("no-cache", "no-store", "max-age", "only-if-cached", "ttl")
"""What a client can ask for. The operator lists the controls that take effect."""


@dataclass(frozen=True, slots=True)
class ScopePlan:
    """Who shares answers with whom."""

    header: str = AUTHORIZATION
    """Requests with the same value of this header share answers; a request without it is not cached. Empty: all clients share."""
    key: bytes = b""
    """Key of the hash over header values; the same on all replicas."""
    required_header: str = ""
    """When all clients share: a header that a request must carry to use the cache. Its value does not matter."""

    def of(self, headers: Mapping[str, str]) -> str | None:
        """A keyed digest of the header's value, 32 hex digits; None when the request has none."""
        if not self.header:
            is_allowed = not self.required_header or _value(headers, self.required_header)
            return "global" if is_allowed else None
        value = _value(headers, self.header)
        if not value:
            return None
        # `surrogateescape` keeps the original bytes, so two different values never get one digest.
        data = f"{self.header}\n{value}".encode("utf-8", "surrogateescape")
        return hmac.new(self.key, data, "blake2s").hexdigest()[:32]


def _value(headers: Mapping[str, str], name: str) -> str:
    """A header's value without the white space that HTTP allows around it."""
    return headers.get(name, "").strip(" \t")


@dataclass(frozen=True, slots=True)
class CachePlan:
    """The cache settings that exchanges use."""

    scope: ScopePlan
    eligibility: Eligibility
    policies: Mapping[str, CachePolicy]
    """By name of the decision; a decision without a policy is not cached."""
    versions: str
    """Names the encoder and the lexical checks, as `build_cache` puts them together."""
    max_answer_bytes: int = 262_144
    controls: frozenset[str] = field(default_factory=lambda: frozenset(CONTROLS))
    max_ttl_s: float = 86_400.0
    """Upper bound on the lifetime that a client may ask for, in seconds."""


@dataclass(frozen=True, slots=True)
class ClientControls:
    """What the client asks of the cache, as far as the operator allows it."""

    directives: Mapping[str, float]
    """The directives of `Cache-Control` with their seconds; see `freshness.directives`."""
    ttl: str = ""
    """As the client wrote it; it may not be a number."""

    @property
    def only_if_cached(self) -> bool:
        """The client wants a cached answer or none (RFC 9111, 5.2.1.7)."""
        return "only-if-cached" in self.directives


def read_client_controls(plan: CachePlan, headers: Mapping[str, str]) -> ClientControls:
    """Read once for each request."""
    asked = {name: seconds for name, seconds in directives(headers).items() if name in plan.controls}
    return ClientControls(asked, headers.get(CACHE_TTL_HEADER, "").strip() if "ttl" in plan.controls else "")


def apply_client_controls(cache_policy: CachePolicy, controls: ClientControls, max_ttl_s: float) -> CachePolicy:
    """The decision's cache policy, changed by what the client asks for. `max_ttl_s` is the upper bound of the client's `ttl`."""
    asked, ttl = controls.directives, controls.ttl
    return replace(
        cache_policy,
        may_look_up=cache_policy.may_look_up and "no-cache" not in asked and asked.get("max-age") != 0,
        may_store=cache_policy.may_store and "no-store" not in asked and ttl != "0",
        only_if_cached=controls.only_if_cached,
        max_age_s=asked.get("max-age", cache_policy.max_age_s),
        ttl_s=min(float(ttl), max_ttl_s) if ttl.isdecimal() and len(ttl) < 10 else cache_policy.ttl_s,
    )
