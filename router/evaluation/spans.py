"""Measures how well personal data is found, by spans with exact ends and kind."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass

from router.evaluation.measures import Estimate, share

Place = tuple[int, int, str]
"""Start and end in characters, and kind."""


@dataclass(frozen=True, slots=True)
class SpanFigures:
    precision: Estimate
    """The share of found spans whose ends and kind are right."""
    recall: Estimate
    """The share of true spans that were found exactly."""
    f1: float


def span_figures(pairs: Iterable[tuple[Set[Place], Set[Place]]]) -> SpanFigures:
    """The figures over texts, each with its true and its found spans."""
    right = there = found = 0
    for truth, guess in pairs:
        right, there, found = right + len(truth & guess), there + len(truth), found + len(guess)
    f1 = 2 * right / (there + found) if there + found else 1.0
    return SpanFigures(share(right, found), share(right, there), f1)
