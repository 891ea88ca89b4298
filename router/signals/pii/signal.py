"""Personal data in a request, by kind. The encoder's head finds it by words, the patterns by form."""

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
"""The encoder's head for personal data, which labels tokens."""


@dataclass(frozen=True, slots=True)
class PiiFindings:
    """The personal data in a whole text."""

    spans: tuple[Span, ...]
    is_complete: bool
    """True if every token was read, false if only the first windows and the last one."""


class PiiSignal:
    """The signal `pii`: the highest probability of each kind of personal data in the last user message."""

    name = "pii"

    def __init__(self, encoder: Encoder, bundle: Bundle) -> None:
        self._encoder, self._kinds = encoder, bundle.heads.get(HEAD, ())
        # A lambda, so that tests can replace the method.
        self._in_windows = encoder.in_windows(lambda text: self.steps(text))

    async def read(self, request: ChatRequest) -> Scores:
        """Score the request's text.

        Raises:
            BackendError: `too_long` when nothing was found and not all was read; else as `Encoder.encode` does.
        """
        found = await self.find(request.text)
        scores = highest_by_kind(found.spans)
        if not scores.values and not (found.is_complete and request.is_text_whole):
            raise BackendError("too_long")
        return scores

    async def find(self, text: str) -> PiiFindings:
        """The personal data in `text`. A short text needs only the common pass. Raises as `Encoder.encode` does."""
        encoding = await self._encoder.encode(text)
        if not encoding.is_truncated:
            return PiiFindings(spans_in(text, encoding, self._kinds), is_complete=True)
        return await self._in_windows(text)

    def run(self, text: str) -> PiiFindings:
        """Read all windows of a text in the calling thread. Raises as `Encoder.encode` does."""
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
    """The personal data that one pass finds in its text, including what has a fixed form."""
    return with_patterns(text, encoding.spans[HEAD], kinds)


def highest_by_kind(spans: Sequence[Span]) -> Scores:
    """The highest probability of each kind."""
    scores: dict[str, float] = {}
    for span in spans:
        scores[span.kind] = max(span.probability, scores.get(span.kind, 0.0))
    return Scores(scores)
