"""Who would answer right: each recorded model's chance, by which a rule weighs quality against price."""

from __future__ import annotations

from router.core.types import ChatRequest, Scores
from router.inference.bundle import Bundle
from router.inference.encoder import Encoder

HEAD = "outcomes"
"""The encoder's head that tells the chances."""


class QualitySignal:
    """The signal `outcomes`: reads the last user message, of long ones the start and the end."""

    name = "quality"

    def __init__(self, encoder: Encoder, bundle: Bundle) -> None:
        self._encoder = encoder
        self._models = bundle.heads.get(HEAD, ())

    async def read(self, request: ChatRequest) -> Scores:
        """Score the request's text. Raises `BackendError` as `Encoder.encode` does."""
        encoding = await self._encoder.encode(request.text)
        return Scores(dict(zip(self._models, encoding.scores[HEAD].tolist(), strict=True)))
