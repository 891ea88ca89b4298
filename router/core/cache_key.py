"""Makes the cache query of a request, or says why the request is not cached.

The namespace is a digest of everything that an answer depends on, except the question: the last user message, or all turns of the
conversation. It is a hard filter: a query never gets an answer from another namespace, however similar the questions are. `Share`
says how much of the decision is in it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from router.core.lookup import CacheQuery, Share, SkipReason
from router.core.models import Reasoning, ReasoningFamily
from router.core.openai.request import Body
from router.core.openai.rewrite import effort_of
from router.core.question import canonical, question_of
from router.core.text.invisible import has_invisible
from router.core.types import ChatRequest, Decision, Endpoint

_NOT_THE_QUESTION = frozenset({"messages", "model", "stream", "stream_options", "metadata"})
"""Top-level fields that do not change the answer, or that enter the namespace in another form."""
_USER_FIELDS = frozenset({"user", "safety_identifier"})
_MARK = "cache_control"
_MARKS = ({"type": "ephemeral"}, *({"type": "ephemeral", "ttl": ttl} for ttl in ("5m", "1h")))
"""Values of `cache_control` that may stand beside the text of a part. LiteLLM, Cline and others mark with it the end of a prefix
that the backend should cache. Other values might be text for the model."""

MAX_BODY_CHARS = 1024 * 1024
"""A larger request is not looked up: hashing 16 MiB of earlier turns would delay other requests by 60 to 90 ms."""

_TIME_DEPENDENT = re.compile(
    r"\b(?:today|tonight|tomorrow|yesterday|now|nowadays|currently|current|latest|newest|recent(?:ly)?|upcoming|breaking|"
    r"(?:this|next|last|past) (?:morning|evening|night|week(?:end)?|month|quarter|year|season|hour)|"
    r"right now|at the moment|these days|so far|as of|up to date|weather|forecast|news|headlines|stock price|exchange rate|"
    r"what time|what day|what date|how old is|still open|in stock)\b",
    re.IGNORECASE,
)
_OWN_THINGS = (
    "account|address|appointment|balance|basket|bill|bills|booking|bookings|card|cart|case|claim|contract|data|delivery|deposit|"
    "file|files|history|invoice|invoices|loan|membership|name|order|orders|package|parcel|payment|payments|plan|policy|portfolio|"
    "profile|purchase|refund|refunds|reservation|salary|shipment|statement|subscription|ticket|tickets|transaction|transactions|"
    "transfer|usage"
)
_USER_SPECIFIC = re.compile(
    rf"\b(?:my|our|mine)\b(?: \w+){{0,2}} (?:{_OWN_THINGS})\b|\b(?:who am i|about me|do i have|did i|have i|am i|was i|"
    r"i (?:ordered|bought|paid|sent|received|called|asked|told|wrote|returned))\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Ineligible:
    """This request is neither looked up nor stored."""

    reason: SkipReason


@dataclass(frozen=True, slots=True)
class Eligibility:
    """Which requests may be cached. The operator can allow more."""

    max_temperature: float = 1.0
    max_text_chars: int = 2000
    """A longer message is not looked up, because the encoder would read only its two ends."""
    allows_tools: bool = False
    """Cache requests that offer tools. Requests with tool calls or tool results are never cached."""
    allows_time_dependent: bool = False
    allows_user_specific: bool = False
    allows_multi_turn: bool = True
    """Cache requests with earlier turns. They share an answer only when these are equal, or `similar_conversations` says more."""
    allows_explicit_models: bool = False
    """Cache requests that name their model."""
    ignores_user_field: bool = False
    """Leave the fields `user` and `safety_identifier` out of the namespace."""
    namespace: str = ""
    """The operator's part of every namespace; a change puts every stored answer out of reach."""


def query_of(
    request: ChatRequest,
    body: Body,
    decision: Decision,
    scope: str,
    eligibility: Eligibility,
    versions: str,
    family: ReasoningFamily | None = None,
    *,
    share: Share = "all",
    similar_conversations: bool = False,
) -> CacheQuery | Ineligible:
    """The cache query of a request, or why its answer cannot be cached.

    `versions` names the encoder and the lexical checks, as `build_cache` puts them together. Answers that other versions stored
    are out of reach. `family` is the reasoning family of the chosen model, as in `rewrite`. With `similar_conversations`, earlier
    turns of user and assistant are part of the question and not of the namespace.
    """
    reason = _why_not(request, body, eligibility)
    if decision.name == "explicit_model" and not eligibility.allows_explicit_models:
        reason = "explicit_model"
    if reason:
        return Ineligible(reason)
    messages = body.value("messages")
    assert isinstance(messages, list)  # noqa: S101 - `openai.request.parse` has checked it
    question = question_of(messages, similar_conversations=similar_conversations)
    if not question.last.strip():
        return Ineligible("no_text")
    if len(question.last) > eligibility.max_text_chars:
        return Ineligible("too_long")
    if has_invisible(question.last):
        return Ineligible("invisible_text")
    if not eligibility.allows_time_dependent and _TIME_DEPENDENT.search(question.said):
        return Ineligible("time_dependent")
    if not eligibility.allows_user_specific and _USER_SPECIFIC.search(question.said):
        return Ineligible("user_specific")
    left_out = _NOT_THE_QUESTION | (_USER_FIELDS if eligibility.ignores_user_field else frozenset())
    rest = {key: placed.value for key, placed in body.members.items() if key not in left_out and placed.value is not None}
    about = {
        "scope": scope,
        "versions": versions,
        "namespace": eligibility.namespace,
        **_described(decision, family, share),
        "request": rest,
        **question.apart,
    }
    namespace = digest(canonical(about))
    # No Unicode normalisation: it would merge characters of different meaning, such as the kelvin sign and the letter K.
    key = digest(f"{namespace}\n{question.exact}")
    made = CacheQuery(question.text, namespace, key, scope, decision.name, decision.model.name)
    return replace(made, with_turns=question.with_turns, not_compared=question.not_compared)


def _why_not(request: ChatRequest, body: Body, eligibility: Eligibility) -> SkipReason | None:
    if len(body.text) > MAX_BODY_CHARS:
        return "too_long"
    if request.endpoint is not Endpoint.CHAT:
        return "endpoint"
    messages = body.value("messages")
    if not isinstance(messages, list) or not isinstance(messages[-1], dict) or messages[-1].get("role") != "user":
        return "no_question"
    if request.has_tools and not eligibility.allows_tools:
        return "tools"
    if any(message.get("role") in ("tool", "function") or message.get("tool_calls") for message in messages):
        return "tool_results"
    if request.has_images or any(map(_has_other_parts, messages)):
        return "not_text"
    count, temperature = body.value("n"), body.value("temperature")
    if count not in (None, 1):
        return "several_choices"
    if isinstance(temperature, int | float) and temperature > eligibility.max_temperature:
        return "temperature"
    if not eligibility.allows_multi_turn and any(message.get("role") in ("user", "assistant") for message in messages[:-1]):
        return "multi_turn"
    return None


def _has_other_parts(message: Mapping[str, object]) -> bool:
    content = message.get("content")
    return isinstance(content, list) and not all(map(_is_text_alone, content))


def _is_text_alone(part: object) -> bool:
    """Whether a part holds only text. Backends look at other keys, too: vLLM may take a text with a `uuid` for an image."""
    if not isinstance(part, dict) or part.get("type") != "text":
        return False
    more = {key: value for key, value in part.items() if key not in ("type", "text") and value is not None}
    return not more or (more.keys() == {_MARK} and more[_MARK] in _MARKS)


def _described(decision: Decision, family: ReasoningFamily | None, share: Share) -> dict[str, object]:
    """What of the decision is part of the namespace.

    A request that names its model is never answered by another one: the least that it has is what `model` says.
    """
    prompt, reasoning, model = decision.system_prompt, decision.reasoning, decision.model
    asked = {
        "model": [model.name, model.served_name, model.cluster],
        "system_prompt": [prompt.text, prompt.mode] if prompt else None,
    }
    if share == "decision":
        switch = {"switch": [family.kind, family.parameter, effort_of(reasoning, family)]} if reasoning and family else {}
        told = [reasoning.enabled, reasoning.effort] if reasoning else None
        return {"decision": {**switch, "name": decision.name, **asked, "reasoning": told}}
    if share == "model" or decision.name == "explicit_model":
        return {"asked": {**asked, "switch": _sent_switch(reasoning, family)}}
    return {}


def _sent_switch(reasoning: Reasoning | None, family: ReasoningFamily | None) -> list[object] | None:
    """The reasoning switch that the model is sent; see `rewrite`. None when the client's own stays."""
    if reasoning is None or family is None:
        return None
    is_flag = family.kind == "chat_template_kwargs"
    return [family.kind, family.parameter, reasoning.enabled if is_flag else effort_of(reasoning, family)]


def digest(text: str) -> str:
    """32 hex digits."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
