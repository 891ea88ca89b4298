"""The probability that a request attacks: makes the model ignore its instructions, or asks it for harm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.core.types import ChatRequest, Scores
from router.errors import BackendError
from router.inference.bundle import Bundle
from router.inference.encoder import Encoder
from router.inference.pool import Steps, to_end
from router.inference.tokens import SPECIAL_TOKENS

HEAD = "attack"
"""The encoder's head for attacks. Its first label is the harmless one."""
NARROW, NARROW_A_WIDE = 48, 3
"""Attacks are searched in windows of 48 tokens, which overlap by a third. Three of them replace one window of full width.

An attack in a wide window is diluted by the text around it. Among exam questions, windows of 126 tokens found 39% of attacks and
windows of 48 tokens found 80%. They mistook none and 0.3% of harmless texts for attacks. A whole text costs the same either way,
because short passes cost less.
"""


@dataclass(frozen=True, slots=True)
class Attack:
    """The attack probabilities of a whole text."""

    probabilities: NDArray[np.float32]
    """(attacks,) float32, harmless first, of the least harmless window."""
    is_complete: bool
    """True if every token was read, false if only the first windows and the last one."""


def threshold_of(bundle: Bundle) -> float:
    """The model's default threshold for attacks."""
    return bundle.thresholds.get(JailbreakSignal.name, 0.5)


class JailbreakSignal:
    """The signal `jailbreak`: the probability of each kind of attack, in the worst window of the last user message."""

    name = "jailbreak"

    def __init__(self, encoder: Encoder, bundle: Bundle) -> None:
        self._encoder, self._attacks, self._threshold = encoder, bundle.heads.get(HEAD, ()), threshold_of(bundle)
        # A lambda, so that tests can replace the method.
        self._in_windows = encoder.in_windows(lambda text: self.steps(text))

    async def read(self, request: ChatRequest) -> Scores:
        """Score the request's text.

        Raises:
            BackendError: `too_long` when nothing was found and not all was read; else as `Encoder.encode` does.
        """
        found = await self.find(request.text)
        scores = dict(zip(self._attacks[1:], found.probabilities[1:].tolist(), strict=True))
        if max(scores.values()) < self._threshold and not (found.is_complete and request.is_text_whole):
            raise BackendError("too_long")
        return Scores(scores)

    async def find(self, text: str) -> Attack:
        """The attack probabilities of `text`. A short text needs only the common pass. Raises as `Encoder.encode` does."""
        encoding = await self._encoder.encode(text)
        if not encoding.is_truncated and encoding.token_count <= NARROW + SPECIAL_TOKENS:
            return Attack(encoding.scores[HEAD], is_complete=True)
        return await self._in_windows(text)

    def run(self, text: str) -> Attack:
        """Read all windows of a text in the calling thread. Raises as `Encoder.encode` does."""
        return to_end(self.steps(text))

    def steps(self, text: str) -> Steps[Attack]:
        """The same, pass by pass."""
        windows, is_complete = self._encoder.cut(text, NARROW_A_WIDE * self._encoder.max_windows, NARROW)
        found = []
        for window in windows:
            yield
            found.append(self._encoder.run_window(window).scores[HEAD])
        return Attack(min(found, key=lambda probabilities: float(probabilities[0])), is_complete)
