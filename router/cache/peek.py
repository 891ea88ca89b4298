"""What a lookup would find and what it would weigh, as a document for `explain`. Changes nothing in the cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.cache.cache import Cache, Weighed
from router.cache.checks import conflicts
from router.core.lookup import Found, Question, Terms


async def peek(cache: Cache, question: Question, terms: Terms) -> tuple[Found, Mapping[str, Any]]:
    """The answer as an exchange takes it, and beside it the stored questions that were weighed; their texts are left out."""
    found, ticket = await cache.peek(question, terms)
    once = {weighed.entry.id: weighed for weighed in reversed(ticket.weighed or [])}
    shown = sorted(once.values(), key=lambda weighed: -weighed.similarity)
    return found, {
        "waits_for_equal_question": ticket.leader is not None,
        "candidates": [_candidate(question.text, terms, weighed) for weighed in shown],
    }


def _candidate(asked: str, terms: Terms, weighed: Weighed) -> dict[str, Any]:
    entry, verdict = weighed.entry, weighed.verdict
    return {
        "id": entry.id,
        "tier": weighed.tier,
        "similarity": round(min(weighed.similarity, 1.0), 4),
        "objections": conflicts(asked, entry.text, terms.guards) if weighed.similarity >= terms.floor else [],
        "probability": None if verdict.probability is None else round(verdict.probability, 4),
        "verdict": verdict.refusal or "served",
    }
