"""The intent of a request: one of the model's categories, with a calibrated probability."""

from __future__ import annotations

from router.core.types import ChatRequest, Classification
from router.inference.bundle import Bundle
from router.inference.encoder import Encoder

HEAD = "intent"
"""The encoder's head for categories."""


class IntentSignal:
    """The signal `intent`. Reads the last user message (`ChatRequest.text`); of a long one, the start and the end."""

    name = "intent"

    def __init__(self, encoder: Encoder, bundle: Bundle) -> None:
        self._encoder = encoder
        self._labels = bundle.heads.get(HEAD, ())

    async def read(self, request: ChatRequest) -> Classification:
        """Classify the request's text. Raises `BackendError` as `Encoder.encode` does."""
        encoding = await self._encoder.encode(request.text)
        probabilities = dict(zip(self._labels, encoding.scores[HEAD].tolist(), strict=True))
        label = max(probabilities, key=probabilities.__getitem__)
        return Classification(label, probabilities[label], probabilities)
