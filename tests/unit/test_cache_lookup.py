"""A lookup in a cache without a store: when it waits, and what a miss says of the candidate."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router.core.lookup import Miss, Verdict, Waiting
from tests.unit.test_peek import POLICY, cache_with, query


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
