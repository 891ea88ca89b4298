"""The predicted accuracy of each benchmarked model, by which a rule weighs quality against cost."""

from __future__ import annotations

from router.core.types import ChatRequest, Scores
from router.inference.bundle import Bundle
from router.inference.encoder import Encoder

HEAD = "outcomes"
"""The encoder's head for predicted accuracy, by its name in the manifest."""


class QualitySignal:
    """The signal `quality`. Reads the last user message; of a long one, the start and the end."""

    name = "quality"

    def __init__(self, encoder: Encoder, bundle: Bundle) -> None:
        self._encoder = encoder
        self._models = bundle.heads.get(HEAD, ())

    async def read(self, request: ChatRequest) -> Scores:
        """Score the request's text. Raises `BackendError` as `Encoder.encode` does."""
        encoding = await self._encoder.encode(request.text)
        return Scores(dict(zip(self._models, encoding.scores[HEAD].tolist(), strict=True)))
