"""What the operator and the client say about the cache."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from router.core.question import Limits
from router.core.types import Terms

CONTROLS = ("no-cache", "no-store", "max-age", "only-if-cached", "ttl")
"""What a client may ask for; the operator lists which of them count."""
TTL_HEADER = "x-vsr-cache-ttl"
_SECONDS = re.compile(r"\d{1,9}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ScopePlan:
    """Who shares answers with whom."""

    header: str = "authorization"
    """Requests with the same value share; without the header nothing is cached. Empty: all share."""
    key: bytes = b""
    """What values are hashed with; the same for all replicas."""

    def of(self, headers: Mapping[str, str]) -> str | None:
        """A keyed digest of the header's value, 32 hex digits; None when the request has none."""
        if not self.header:
            return "global"
        value = headers.get(self.header, "").strip()
        return hmac.new(self.key, f"{self.header}\n{value}".encode(), "blake2s").hexdigest()[:32] if value else None


@dataclass(frozen=True, slots=True)
class CachePlan:
    """The cache as exchanges see it."""

    scope: ScopePlan
    limits: Limits
    terms: Mapping[str, Terms]
    """By the decision's name; a decision that is not named is not cached."""
    versions: str
    """Encoder and verifier."""
    most_answer_bytes: int = 262_144
    controls: frozenset[str] = field(default_factory=lambda: frozenset(CONTROLS))
    most_ttl_s: float = 86_400.0
    """What a client may ask for at most."""


def _directives(value: str) -> Iterator[tuple[str, str]]:
    """Each directive of a Cache-Control header in lower case, with its number of seconds, if it has one."""
    for directive in value.split(","):
        name, _, argument = directive.partition("=")
        seconds = argument.strip().removeprefix('"').removesuffix('"')
        yield name.strip().lower(), seconds if _SECONDS.fullmatch(seconds) else ""


def terms_for(terms: Terms, plan: CachePlan, headers: Mapping[str, str]) -> Terms:
    """The decision's terms with the client's own wishes, as far as the operator lets them count."""
    asked = {name: value for name, value in _directives(headers.get("cache-control", "")) if name in plan.controls}
    ttl = headers.get(TTL_HEADER, "").strip() if "ttl" in plan.controls else ""
    max_age = asked.get("max-age", "")
    return replace(
        terms,
        may_look_up=terms.may_look_up and "no-cache" not in asked and max_age != "0",
        may_store=terms.may_store and "no-store" not in asked and ttl != "0",
        only_if_cached="only-if-cached" in asked,
        max_age_s=float(max_age) if max_age else terms.max_age_s,
        ttl_s=min(float(ttl), plan.most_ttl_s) if ttl.isdecimal() and len(ttl) < 10 else terms.ttl_s,
    )
