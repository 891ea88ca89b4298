"""Who may get whose answer: lexical checks veto, then the verifier has to be sure enough."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router.cache.checks import CHECKS_WITH_VERIFIER
from router.cache.verifier import Verifier
from router.cache.wording import UNREAD
from router.core.lookup import CachePolicy, Verdict
from router.errors import BackendError

POLICY = CachePolicy(0.75, 3600.0, CHECKS_WITH_VERIFIER, verifier_threshold=0.9)


class Scorer:
    """Gives one score to all pairs, and remembers them."""

    def __init__(self, score: float | str) -> None:
        self.score, self.pairs = score, []

    async def __call__(self, asked: str, stored: str) -> float:
        """Return the score, or fail if it is a word."""
        self.pairs.append((asked, stored))
        if isinstance(self.score, str):
            raise BackendError(self.score)
        return self.score


@pytest.mark.parametrize(("score", "refusal"), [(0.95, ""), (0.9, ""), (0.8999, "verifier"), (0.0, "verifier")])
async def test_the_verifier_has_to_be_sure_enough(score: float, refusal: str) -> None:
    """It passes from the threshold on. Its probability goes with the verdict either way."""
    verdict = await Verifier(Scorer(score))("How can I get slim?", "What helps me to lose weight?", POLICY)
    assert verdict == Verdict(refusal, score)


async def test_where_no_check_objects_less_certainty_is_enough() -> None:
    """Nearly the same words are nearly the same question."""
    verdict = await Verifier(Scorer(0.7))("How do I sort a list?", "Sort a list", POLICY)
    assert verdict.refusal == ""
    assert verdict.probability == pytest.approx(0.913, abs=1e-3)


async def test_a_conflict_of_words_needs_no_model() -> None:
    """The check costs microseconds, and no score outvotes it."""
    scorer = Scorer(1.0)
    assert await Verifier(scorer)("What is 2+2?", "What is 2+3?", POLICY) == Verdict("numbers")
    assert scorer.pairs == []


async def test_the_same_wording_needs_no_model() -> None:
    """Case, punctuation and "please" change nothing."""
    scorer = Scorer(0.0)
    assert await Verifier(scorer)("please tell me how to bake bread", "How to bake bread?", POLICY) == Verdict("")
    assert scorer.pairs == []


@pytest.mark.parametrize("word", ["overloaded", "model_failed", "too_long", "closed"])
async def test_a_verifier_that_fails_refuses(word: str) -> None:
    """A miss is cheap. A wrong hit is not."""
    verdict = await Verifier(Scorer(word))("How can I get slim?", "What helps me to lose weight?", POLICY)
    assert verdict == Verdict(f"verifier_{word}")


async def test_without_a_verifier_the_checks_judge_alone() -> None:
    """Then no check may be omitted."""
    assert await Verifier()("What is 2+2?", "What is 2+3?", POLICY) == Verdict("numbers")
    assert await Verifier()("How are you?", "How are you", replace(POLICY, lexical_checks=())) == Verdict("")


@pytest.mark.parametrize("checks", [(), CHECKS_WITH_VERIFIER])
@pytest.mark.parametrize("scorer", [None, Scorer(1.0)])
async def test_what_no_model_reads_is_refused_whoever_judges(checks: tuple[str, ...], scorer: Scorer | None) -> None:
    """No check that is switched off, no missing verifier and no score lets it pass."""
    verify, cache_policy = Verifier(scorer), replace(POLICY, lexical_checks=checks)
    for asked, stored in (
        ("What is Co?", "What is CO?"),
        ("I failed :)", "I failed :("),
        ("Is résumé a word?", "Is resume a word?"),
    ):
        assert await verify(asked, stored, cache_policy) == Verdict(UNREAD)
    assert scorer is None or scorer.pairs == []
