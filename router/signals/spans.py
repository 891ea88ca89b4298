"""From token labels to spans of personal data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Span:
    """Personal data in a text."""

    start: int
    end: int
    """Characters of the text; the end is not part of it."""
    kind: str
    """By Presidio's names, such as `CREDIT_CARD`."""
    probability: float
    """Of the least sure token."""


def spans_of(labels: NDArray[np.float32], offsets: Sequence[tuple[int, int]], kinds: Sequence[str]) -> tuple[Span, ...]:
    """The spans that a model's token labels tell, in the order of the text.

    `labels` is (tokens, 2 * kinds + 1) with probabilities: outside, then begin and inside of every kind. An inside without a
    begin begins a span; a begin in the middle of a word does not.
    """
    best = labels.argmax(axis=1)
    if not best.any():
        return ()
    spans: list[Span] = []
    last_kind, last_end = -1, -1
    for place, (start, end) in enumerate(offsets):
        if end <= start:
            last_kind = -1
            continue
        label = int(best[place])
        kind = (label - 1) // 2 if label else -1
        probability = float(labels[place, label])
        if kind == last_kind >= 0 and (label % 2 == 0 or start == last_end):
            span = spans[-1]
            spans[-1] = Span(span.start, end, span.kind, min(span.probability, probability))
        elif kind >= 0:
            spans.append(Span(start, end, kinds[kind], probability))
        last_kind, last_end = kind, end
    return tuple(spans)
