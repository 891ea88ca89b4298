"""Judges whether two questions may share an answer: no check may object, and a trained model must be sure enough."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from router.cache.checks import conflict, with_agreement
from router.cache.conversations import objection_to
from router.cache.wording import UNREAD, difference
from router.core.lookup import CachePolicy, Verdict, verifier_failure
from router.errors import BackendError

CHECKS_VERSION = "checks-4"
"""Raised when a check changes what it lets pass. Answers that were stored before are then out of reach."""

Score = Callable[[str, str], Awaitable[float]]
"""Probability, 0 to 1, that the answer to the second question answers the first. Raises `BackendError`."""


class Verifier:
    """Judges candidates. Without `score`, the checks judge alone. They compare words, so few paraphrases pass them."""

    def __init__(self, score: Score | None = None) -> None:
        self._score = score

    async def __call__(self, asked: str, stored: str, cache_policy: CachePolicy) -> Verdict:
        """Whether the answer to `stored` may be served for `asked`. A failure refuses: a miss costs less than a wrong hit."""
        if refusal := conflict(asked, stored, cache_policy.lexical_checks):
            return Verdict(refusal)
        written = difference(asked, stored)
        if written == "unread":
            return Verdict(UNREAD)
        if self._score is None or written == "none":
            return Verdict("")
        try:
            probability = with_agreement(await self._score(asked, stored), asked, stored)
        except BackendError as error:
            return Verdict(verifier_failure(error.word))
        return _judged(probability, cache_policy)

    async def conversations(self, asked: str, stored: str, cache_policy: CachePolicy) -> Verdict:
        """The same for two conversations in the form of `as_text` whose earlier turns differ. No answer passes without a model.

        The verifier reads both as a whole. No lexical check is asked, neither to object nor to agree: they compare the words of
        two questions, and turns that say the same in other words, or not at all, differ in numbers, names and order.
        """
        if objection := objection_to(asked, stored):
            return Verdict(objection)
        if self._score is None:
            return Verdict("verifier")
        try:
            return _judged(await self._score(asked, stored), cache_policy)
        except BackendError as error:
            return Verdict(verifier_failure(error.word))


def _judged(probability: float, cache_policy: CachePolicy) -> Verdict:
    return Verdict("" if probability >= cache_policy.verifier_threshold else "verifier", probability)
