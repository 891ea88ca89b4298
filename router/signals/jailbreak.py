"""Attempts to talk the model out of its instructions, or into harm: how probable each kind is."""

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
"""The encoder's head that tells attacks; its first label is the harmless one."""
NARROW, NARROW_A_WIDE = 48, 3
"""Tokens of the windows in which attacks are looked for, which overlap by a third, and how many of them are read for a wide one.

Wide windows drown what is hidden in them: of attacks amid exam questions, 39% were found in windows of 126 tokens and 80% in
these, with none and 0.3% of exam questions in a row taken for one. A whole text costs the same, for short passes cost less.
"""


@dataclass(frozen=True, slots=True)
class Attack:
    """What a whole text tries."""

    chances: NDArray[np.float32]
    """(attacks,) float32, harmless first, of the window that looks least harmless."""
    is_complete: bool
    """Every token was read; else only the first windows and the last one."""


def threshold_of(bundle: Bundle) -> float:
    """Probability from which an attack counts unless the operator says otherwise."""
    return bundle.thresholds.get(JailbreakSignal.name, 0.5)


class JailbreakSignal:
    """The signal `jailbreak`: how probable each kind of attack is, in the window of the last user message that looks worst."""

    name = "jailbreak"

    def __init__(self, encoder: Encoder, bundle: Bundle) -> None:
        self._encoder, self._attacks, self._threshold = encoder, bundle.heads.get(HEAD, ()), threshold_of(bundle)
        # Not the bound method: tests put others in its place.
        self._in_windows = encoder.in_windows(lambda text: self.steps(text))

    async def read(self, request: ChatRequest) -> Scores:
        """Score the request's text.

        Raises:
            BackendError: as `Encoder.encode` does, and `too_long` when nothing was found, but not all was read.
        """
        found = await self.find(request.text)
        scores = dict(zip(self._attacks[1:], found.chances[1:].tolist(), strict=True))
        if max(scores.values()) < self._threshold and not (found.is_complete and request.is_text_whole):
            raise BackendError("too_long")
        return Scores(scores)

    async def find(self, text: str) -> Attack:
        """What `text` tries anywhere: of a short text by the pass that tells everything. Raises as `Encoder.encode` does."""
        encoding = await self._encoder.encode(text)
        if not encoding.is_truncated and encoding.token_count <= NARROW + SPECIAL_TOKENS:
            return Attack(encoding.scores[HEAD], is_complete=True)
        return await self._in_windows(text)

    def run(self, text: str) -> Attack:
        """All passes of a text's windows in the calling thread. Raises as `Encoder.encode` does."""
        return to_end(self.steps(text))

    def steps(self, text: str) -> Steps[Attack]:
        """The same, pass by pass."""
        windows, is_complete = self._encoder.cut(text, NARROW_A_WIDE * self._encoder.max_windows, NARROW)
        chances = []
        for window in windows:
            yield
            chances.append(self._encoder.run_window(window).scores[HEAD])
        return Attack(min(chances, key=lambda some: float(some[0])), is_complete)
