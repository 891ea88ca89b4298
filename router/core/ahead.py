"""Asks for the answer to the same text before any signal is read: a repeated question then costs no pass of a model.

Only where that changes nothing but the time: every decision that the request may still get would serve the entry, too.
"""

from __future__ import annotations

from dataclasses import replace

from router.core.cache_key import Ineligible
from router.core.cache_policy import read_client_controls
from router.core.cached import lookup_under
from router.core.events import Lookup
from router.core.lookup import CachePolicy, Hit
from router.core.models import Model
from router.core.openai.bodysize import PIECE_BYTES
from router.core.openai.request import Body
from router.core.snapshot import Snapshot
from router.core.types import ChatRequest, Decision

_OPEN = Decision("", Model("", "", ""), "cached")
"""Stands for the decision while it is open. With `share: all`, nothing of it is in the namespace."""


def lookup_ahead(snapshot: Snapshot, request: ChatRequest, body: Body) -> Lookup | None:
    """What to look up before signals are read; None when the decision has to come first.

    It has to when a rule that blocks waits for a signal, and when an open decision does not share with all, is in shadow mode or
    not cached. A large body is not hashed twice.
    """
    plan, policy = snapshot.cache, snapshot.policy
    if plan is None or request.model not in snapshot.virtual_models or len(body.text) > PIECE_BYTES:
        return None
    if policy.refuse(request, {}) is not None:
        return None
    policies = [plan.policies.get(name) for name in policy.open_decisions(request)]
    common = _common([each for each in policies if each is not None and each.share == "all" and not each.shadow], len(policies))
    if common is None:
        return None
    lookup = lookup_under(common, plan, read_client_controls(plan, request.headers), request, body, _OPEN, None)
    return None if isinstance(lookup, Ineligible) or not lookup.cache_policy.may_look_up else replace(lookup, is_ahead=True)


def _common(policies: list[CachePolicy], count: int) -> CachePolicy | None:
    """A policy that serves only what each of `count` policies would serve; None when some are missing, or they do not agree on
    the namespace."""
    if len(policies) < count or len({each.conversations is None for each in policies}) > 1:
        return None
    bounds = [each.others_ttl_s for each in policies if each.others_ttl_s is not None]
    return replace(policies[0], exact_only=True, others_ttl_s=min(bounds, default=None))


def decision_of(hit: Hit, snapshot: Snapshot) -> Decision | None:
    """The decision that stored a hit, in the place of the one that was not made; None when it is no longer configured."""
    model, plan = snapshot.models.get(hit.model), snapshot.cache
    if model is None or plan is None or hit.decision not in plan.policies:
        return None
    rules = {rule.name: rule for rule in snapshot.policy.rules}
    chosen = rules.get(hit.decision, snapshot.policy.default)
    return Decision(hit.decision, model, "cached", chosen.reasoning)
