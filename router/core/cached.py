"""The cache's part in an exchange: what to look up for a request, what the lookup found, and the reply of a hit."""

from __future__ import annotations

from dataclasses import replace

from router.core.cache_key import Ineligible, query_of
from router.core.cache_policy import CachePlan, ClientControls, apply_client_controls
from router.core.decision_headers import decision_headers
from router.core.events import LookedUp, Lookup, Reply
from router.core.exchange_record import CacheResult
from router.core.headers import (
    CACHE_AGE_HEADER,
    CACHE_CONTROL,
    CACHE_DECISION_HEADER,
    CACHE_ENTRY_HEADER,
    CACHE_HIT_HEADER,
    CACHE_MODEL_HEADER,
    CACHE_SIMILARITY_HEADER,
    CACHE_STATUS_HEADER,
    CACHE_VERIFIED_HEADER,
    CLUSTER_HEADER,
    CONTENT_TYPE,
    PATH_HEADER,
    STANDARD_CACHE_STATUS,
)
from router.core.lookup import CachePolicy, CacheStatus, Found, Hit, Miss
from router.core.models import ReasoningFamily
from router.core.openai.completion import Answer, NotStorable, as_json, as_stream
from router.core.openai.completion import decode as decode_answer
from router.core.openai.replies import error_reply
from router.core.openai.request import Body
from router.core.types import ChatRequest, Decision, Readings
from router.errors import RequestError

_OK = 200
_CACHE_NAME = "semantic-router"


def lookup_for(
    plan: CachePlan,
    controls: ClientControls,
    request: ChatRequest,
    body: Body,
    decision: Decision,
    family: ReasoningFamily | None,
) -> Lookup | Ineligible:
    """What to look up, or why nothing is."""
    cache_policy = plan.policies.get(decision.name)
    if cache_policy is None:
        return Ineligible("explicit_model" if decision.reason == "explicit_model" else "decision")
    return lookup_under(cache_policy, plan, controls, request, body, decision, family)


def lookup_under(
    cache_policy: CachePolicy,
    plan: CachePlan,
    controls: ClientControls,
    request: ChatRequest,
    body: Body,
    decision: Decision,
    family: ReasoningFamily | None,
) -> Lookup | Ineligible:
    """What to look up under a policy, which the client may change, or why nothing is."""
    scope = plan.scope.of(request.headers)
    if scope is None:
        return Ineligible("no_scope")
    cache_policy = apply_client_controls(cache_policy, controls, plan.max_ttl_s)
    asked = query_of(
        request,
        body,
        decision,
        scope,
        plan.eligibility,
        plan.versions,
        family,
        share=cache_policy.share,
        similar_conversations=cache_policy.conversations is not None,
    )
    if isinstance(asked, Ineligible):
        return asked
    return Lookup(asked, cache_policy) if cache_policy.may_look_up or cache_policy.may_store else Ineligible("client")


def result_of(found: Found, *, is_shadow: bool) -> tuple[CacheResult, Hit | None, Answer | None]:
    """The result of a lookup, with the hit and its answer. In shadow mode the hit is None, because it must not be served."""
    answer = None
    if isinstance(found, Hit):
        try:
            answer = decode_answer(found.answer)
        except NotStorable:
            found = Miss("damaged", found.similarity, found.entry_id)
    if isinstance(found, Miss):
        return CacheResult("miss", found.reason, found.similarity, entry_id=found.entry_id), None, None
    status: CacheStatus = "shadow" if is_shadow else "hit"
    result = CacheResult(status, found.tier, found.similarity, found.verified, found.entry_id, model=found.model)
    return result, None if is_shadow else found, answer


def cache_headers(result: CacheResult) -> dict[str, str]:
    """The headers that say what the cache did; none when it is off."""
    if result.status == "off":
        return {}
    return {
        CACHE_HIT_HEADER: "true" if result.status == "hit" else "false",
        CACHE_STATUS_HEADER: f"{result.status}:{result.reason}",
        STANDARD_CACHE_STATUS: _standard_status(result),
    }


def _standard_status(result: CacheResult) -> str:
    """The value of `Cache-Status` (RFC 9211): name of the cache, hit or why it forwarded, and our own reason as detail."""
    if result.status == "hit":
        return f"{_CACHE_NAME}; hit; detail={result.reason}"
    if result.status == "shadow":
        return f"{_CACHE_NAME}; fwd=miss; detail=shadow:{result.reason}"
    why = "bypass" if result.status == "skipped" else "request" if result.reason == "no_cache" else "miss"
    return f"{_CACHE_NAME}; fwd={why}; detail={result.reason}"


def not_cached_reply(error: RequestError, result: CacheResult) -> Reply:
    """The refusal of a client that wants a stored answer or none, with what became of the cache."""
    reply = error_reply(error)
    return replace(reply, headers={**reply.headers, **cache_headers(result)})


def replay(
    request: ChatRequest, decision: Decision, readings: Readings, result: CacheResult, hit: Hit, answer: Answer, event: LookedUp
) -> Reply:
    """The reply that serves a cached answer: a stream when the client asked for one."""
    reply_id = f"chatcmpl-{event.reply_id}"
    if request.is_stream:
        body, kind = as_stream(answer, reply_id, event.now_s, request.wants_usage), "text/event-stream; charset=utf-8"
    else:
        body, kind = as_json(answer, reply_id, event.now_s), "application/json"
    headers = decision_headers(decision, readings)
    del headers[CLUSTER_HEADER]
    headers |= cache_headers(result) | {CONTENT_TYPE: kind, PATH_HEADER: "cache"}
    headers |= {
        CACHE_SIMILARITY_HEADER: f"{hit.similarity:.4f}",
        CACHE_ENTRY_HEADER: hit.entry_id,
        CACHE_AGE_HEADER: str(int(hit.age_s)),
        CACHE_DECISION_HEADER: hit.decision,
        CACHE_MODEL_HEADER: hit.model,
    }
    if hit.verified is not None:
        headers[CACHE_VERIFIED_HEADER] = f"{hit.verified:.4f}"
    if request.is_stream:
        headers[CACHE_CONTROL] = "no-cache"
    return Reply(_OK, headers, body, "sr_cache_hit", "cache")
