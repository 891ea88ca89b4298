"""What a request should not hold: attempts to talk the model out of its instructions, and personal data."""

from __future__ import annotations

from collections.abc import Sequence

from router.core.types import ChatRequest, Scores
from router.errors import BackendError
from router.inference.encoder import Encoder


class Jailbreak:
    """The signal `jailbreak`: how probable each kind of attack is, in the window of the last user message that looks worst."""

    name = "jailbreak"

    def __init__(self, encoder: Encoder, attacks: Sequence[str], threshold: float) -> None:
        self._encoder = encoder
        self._attacks = tuple(attacks)
        self._threshold = threshold

    async def read(self, request: ChatRequest) -> Scores:
        """Score the request's text.

        Raises:
            BackendError: as `Encoder.encode` does, and `too_long` when nothing was found, but not all was read.
        """
        found = await self._encoder.attack(request.text)
        scores = dict(zip(self._attacks[1:], found.chances[1:].tolist(), strict=True))
        if max(scores.values()) < self._threshold and not (found.is_complete and request.is_text_whole):
            raise BackendError("too_long")
        return Scores(scores)


class Personal:
    """The signal `pii`: how sure each kind of personal data stands somewhere in the last user message."""

    name = "pii"

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    async def read(self, request: ChatRequest) -> Scores:
        """Score the request's text. Raises as `Jailbreak.read` does."""
        found = await self._encoder.personal(request.text)
        scores: dict[str, float] = {}
        for span in found.spans:
            scores[span.kind] = max(span.probability, scores.get(span.kind, 0.0))
        if not scores and not (found.is_complete and request.is_text_whole):
            raise BackendError("too_long")
        return Scores(scores)
