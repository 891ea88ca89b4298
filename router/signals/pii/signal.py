"""Personal data in a request, by kind: what the encoder's head says of words, and what has a form of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from router.core.types import ChatRequest, Scores
from router.errors import BackendError
from router.inference.bundle import Bundle
from router.inference.encoder import Encoder, Encoding
from router.inference.pool import Steps, to_end
from router.inference.spans import Span
from router.signals.pii.patterns import with_patterns

HEAD = "personal"
"""The encoder's head that tells personal data, token by token."""


@dataclass(frozen=True, slots=True)
class PiiFindings:
    """The personal data in a whole text."""

    spans: tuple[Span, ...]
    is_complete: bool
    """Every token was read; else only the first windows and the last one."""


class PiiSignal:
    """The signal `pii`: how sure each kind of personal data stands somewhere in the last user message."""

    name = "pii"

    def __init__(self, encoder: Encoder, bundle: Bundle) -> None:
        self._encoder, self._kinds = encoder, bundle.heads.get(HEAD, ())
        # Not the bound method: tests put others in its place.
        self._in_windows = encoder.in_windows(lambda text: self.steps(text))

    async def read(self, request: ChatRequest) -> Scores:
        """Score the request's text.

        Raises:
            BackendError: as `Encoder.encode` does, and `too_long` when nothing was found, but not all was read.
        """
        found = await self.find(request.text)
        scores = highest_by_kind(found.spans)
        if not scores.values and not (found.is_complete and request.is_text_whole):
            raise BackendError("too_long")
        return scores

    async def find(self, text: str) -> PiiFindings:
        """The personal data anywhere in `text`: by the pass that tells everything, if it reads all of it.

        Raises as `Encoder.encode` does.
        """
        encoding = await self._encoder.encode(text)
        if not encoding.is_truncated:
            return PiiFindings(spans_in(text, encoding, self._kinds), is_complete=True)
        return await self._in_windows(text)

    def run(self, text: str) -> PiiFindings:
        """All passes of a text's windows in the calling thread. Raises as `Encoder.encode` does."""
        return to_end(self.steps(text))

    def steps(self, text: str) -> Steps[PiiFindings]:
        """The same, pass by pass."""
        windows, is_complete = self._encoder.cut(text, self._encoder.max_windows)
        spans: dict[Span, None] = {}
        for window in windows:
            yield
            spans |= dict.fromkeys(self._encoder.run_window(window).spans[HEAD])
        return PiiFindings(with_patterns(text, spans, self._kinds), is_complete)


def spans_in(text: str, encoding: Encoding, kinds: Sequence[str]) -> tuple[Span, ...]:
    """The personal data that one pass tells of its text, forms included."""
    return with_patterns(text, encoding.spans[HEAD], kinds)


def highest_by_kind(spans: Sequence[Span]) -> Scores:
    """Of every kind the surest span's probability."""
    scores: dict[str, float] = {}
    for span in spans:
        scores[span.kind] = max(span.probability, scores.get(span.kind, 0.0))
    return Scores(scores)
