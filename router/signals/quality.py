"""Who would answer right: each recorded model's chance, by which a rule weighs quality against price."""

from __future__ import annotations

from collections.abc import Sequence

from router.core.types import ChatRequest, Scores
from router.inference.encoder import Encoder


class Outcomes:
    """The signal `outcomes`: reads the last user message, of long ones the start and the end."""

    name = "quality"

    def __init__(self, encoder: Encoder, models: Sequence[str]) -> None:
        self._encoder = encoder
        self._models = tuple(models)

    async def read(self, request: ChatRequest) -> Scores:
        """Score the request's text. Raises `BackendError` as `Encoder.encode` does."""
        encoding = await self._encoder.encode(request.text)
        return Scores(dict(zip(self._models, encoding.outcomes.tolist(), strict=True)))
