"""A lookup: when it waits, and what a miss says of the candidate."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router.core.lookup import CachePolicy, Miss, Verdict, Waiting
from tests.unit.test_peek import POLICY, Shared, cache_with, query


@pytest.mark.parametrize("is_shadow", [False, True])
@pytest.mark.parametrize("text", ["What is a monad?", "What's a monad?"])
async def test_in_shadow_mode_nobody_waits_for_an_equal_question(text: str, is_shadow: bool) -> None:
    """The model is asked in any case, so waiting would only delay the client. The first question still leads."""
    cache, cache_policy = cache_with(None, Verdict("")), replace(POLICY, coalesce_timeout_s=30.0, shadow=is_shadow)
    _, leading = await cache.look_up(query("What is a monad?"), cache_policy)
    assert leading.leads
    found, following = await cache.look_up(query(text), cache_policy)
    assert found == (Miss("empty") if is_shadow else Waiting(30.0))
    cache.complete(following, None)
    cache.complete(leading, b"answer")
    assert (len(cache), cache.gauges()["llm_cache_inflight_queries"]) == (1, 0)


@pytest.mark.parametrize(
    ("cache_policy", "verdict", "expected"),
    [
        (replace(POLICY, similarity_threshold=0.99), Verdict(""), Miss("near_miss")),
        (POLICY, Verdict("numbers"), Miss("numbers")),
        (POLICY, Verdict("verifier", 0.2), Miss("verifier")),
        (POLICY, Verdict("rejected"), Miss("rejected")),
    ],
)
async def test_a_miss_names_the_candidate_that_was_refused(cache_policy: CachePolicy, verdict: Verdict, expected: Miss) -> None:
    """Otherwise nobody could find out afterwards why an answer was not served."""
    cache = cache_with(Shared("What is a monad?"), verdict)
    found, pending = await cache.look_up(query("What's a monad?"), cache_policy)
    cache.complete(pending, None)
    assert found == expected
    assert isinstance(found, Miss)
    assert (found.similarity, found.entry_id) == (0.95, "e" * 32)


async def test_a_miss_without_a_candidate_names_none() -> None:
    """A text that is not similar is no candidate."""
    cache = cache_with(Shared("What is a monad?", similarity=0.3), Verdict(""))
    found, pending = await cache.look_up(query("What's a monad?"), POLICY)
    cache.complete(pending, None)
    assert found == Miss("no_candidate")
    assert isinstance(found, Miss)
    assert (found.similarity, found.entry_id) == (0.0, "")
