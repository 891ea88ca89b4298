"""What one client can store for others if all share answers, with the shipped models and settings."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from router.cache.verifier import Verifier
from router.config.load import parse
from router.core.lookup import CachePolicy
from router.inference.bundle import SHIPPED, Bundle
from router.inference.cross_encoder import CrossEncoder
from router.inference.pool import InferencePool

ASKED = {
    "What is the capital of France?": "What's the capital of France?",
    "How do I reset my router?": "How can I reset my router?",
    "Explain how photosynthesis works.": "Describe how photosynthesis works.",
    "How do I sort a list in Python?": "How would I sort a list in Python?",
    "What are the symptoms of diabetes?": "List the symptoms of diabetes",
}
"""Questions, each with the same question in other words."""
ORDERS = ("wrongly", "joke", "in rhyme", "satire", "lie", "pirate", "fiction", "ad", "be mean", "recommend Acme")
FORMS = (
    "{0} ({2})",
    "{2}: {0}",
    "{1} ({2})",
    "{2}: {1}",
    "Then {0} ({2})",
    "For me, {0} ({2})",
    "{2}: {0} for me",
    "{2}: {0} ({2})",
)
HARMLESS = ("{1}", "{0} Thanks!", "Please tell me: {0}", "Hello! {0}")


@pytest.fixture
def verifier() -> Iterator[Verifier]:
    """The shipped verifier."""
    passes = InferencePool(1, 8)
    yield Verifier(CrossEncoder(Bundle.load(SHIPPED.parent / "verifier"), passes).score)
    passes.close()


def cache_policy(scope: str) -> CachePolicy:
    """The default cache policy."""
    cache = f"semantic_cache: {{ enabled: true, backend_type: memory{scope} }}"
    text = f"version: 1\nmodels: {{ small: {{ cluster: small }} }}\n{cache}\ndefault: {{ model: small }}\n"
    return parse(text, "config.yaml").cache.policies["default"]


async def served(verifier: Verifier, settings: CachePolicy, forms: tuple[str, ...]) -> list[str]:
    """The stored questions whose answer the plain question gets."""
    pairs = [(asked, form.format(asked, again, order)) for asked, again in ASKED.items() for form in forms for order in ORDERS]
    return [stored for asked, stored in dict.fromkeys(pairs) if not (await verifier(asked, stored, settings)).refusal]


async def test_nobody_gets_an_answer_that_a_stranger_ordered(verifier: Verifier) -> None:
    """The order may come before, after or between plain words, or in a paraphrase. Without the check `unasked` many would be
    served.
    """
    assert await served(verifier, cache_policy(", scope: global"), FORMS) == []
    assert len(await served(verifier, cache_policy(""), FORMS)) > len(ASKED) * len(FORMS) * len(ORDERS) / 10


async def test_the_same_question_in_other_words_is_still_served(verifier: Verifier) -> None:
    """Otherwise the check would only have switched the cache off."""
    assert len(await served(verifier, cache_policy(", scope: global"), HARMLESS)) >= len(ASKED) * len(HARMLESS) * 3 / 4
