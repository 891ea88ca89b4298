"""How well personal data is found: spans by their exact ends and kind."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass

from router.evaluation.measures import Estimate, share

Place = tuple[int, int, str]
"""Start and end in characters, and kind."""


@dataclass(frozen=True, slots=True)
class SpanFigures:
    precision: Estimate
    """Of the spans found, those that are right in both ends and in kind."""
    recall: Estimate
    """Of the spans there are, those found so."""
    f1: float


def span_figures(pairs: Iterable[tuple[Set[Place], Set[Place]]]) -> SpanFigures:
    """Over texts, each with the spans it has and the spans that were found."""
    right = there = found = 0
    for truth, guess in pairs:
        right, there, found = right + len(truth & guess), there + len(truth), found + len(guess)
    f1 = 2 * right / (there + found) if there + found else 1.0
    return SpanFigures(share(right, found), share(right, there), f1)
