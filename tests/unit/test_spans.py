"""From token labels to spans, and how spans are judged."""

from __future__ import annotations

import numpy as np
import pytest

from router.evaluation.spans import span_figures
from router.signals.spans import Span, spans_of

KINDS = ("EMAIL", "PERSON")
OUTSIDE, BEGIN_EMAIL, IN_EMAIL, BEGIN_PERSON, IN_PERSON = range(5)


def found(labels: list[int], offsets: list[tuple[int, int]], sure: float = 0.9) -> list[tuple[int, int, str]]:
    """The spans of tokens that are labelled so."""
    table = np.full((len(labels), 5), (1 - sure) / 4, dtype=np.float32)
    table[np.arange(len(labels)), labels] = sure
    return [(span.start, span.end, span.kind) for span in spans_of(table, offsets, KINDS)]


WORDS = [(0, 0), (0, 3), (4, 7), (8, 11), (0, 0)]
PIECES = [(0, 0), (0, 3), (3, 7), (8, 11), (0, 0)]
"""The first word comes in two pieces."""


@pytest.mark.parametrize(
    ("labels", "offsets", "spans"),
    [
        ([OUTSIDE] * 5, WORDS, []),
        ([OUTSIDE, BEGIN_PERSON, IN_PERSON, OUTSIDE, OUTSIDE], WORDS, [(0, 7, "PERSON")]),
        ([OUTSIDE, BEGIN_PERSON, BEGIN_PERSON, OUTSIDE, OUTSIDE], WORDS, [(0, 3, "PERSON"), (4, 7, "PERSON")]),
        ([OUTSIDE, IN_PERSON, IN_PERSON, OUTSIDE, OUTSIDE], WORDS, [(0, 7, "PERSON")]),
        ([OUTSIDE, BEGIN_PERSON, IN_EMAIL, OUTSIDE, OUTSIDE], WORDS, [(0, 3, "PERSON"), (4, 7, "EMAIL")]),
        ([OUTSIDE, BEGIN_PERSON, BEGIN_PERSON, OUTSIDE, OUTSIDE], PIECES, [(0, 7, "PERSON")]),
        ([OUTSIDE, BEGIN_PERSON, OUTSIDE, IN_PERSON, OUTSIDE], WORDS, [(0, 3, "PERSON"), (8, 11, "PERSON")]),
        ([BEGIN_PERSON, OUTSIDE, OUTSIDE, OUTSIDE, BEGIN_PERSON], WORDS, []),
    ],
)
def test_labels_become_spans(labels: list[int], offsets: list[tuple[int, int]], spans: list) -> None:
    """Special tokens stand nowhere; a word is never cut in two."""
    assert found(labels, offsets) == spans


def test_a_span_is_as_sure_as_its_least_sure_token() -> None:
    """One doubtful piece makes the whole doubtful."""
    table = np.zeros((2, 5), dtype=np.float32)
    table[0, BEGIN_PERSON], table[1, IN_PERSON] = 0.9, 0.6
    assert spans_of(table, [(0, 3), (4, 7)], KINDS) == (Span(0, 7, "PERSON", pytest.approx(0.6)),)


def test_figures_want_both_ends_and_the_kind() -> None:
    """Two of three found, and one too many."""
    truth = {(0, 3, "A"), (4, 7, "A"), (8, 9, "B")}
    guess = {(0, 3, "A"), (4, 7, "B"), (8, 9, "B")}
    figures = span_figures([(truth, guess), (set(), set())])
    assert (figures.precision.value, figures.recall.value) == (2 / 3, 2 / 3)
    assert figures.f1 == pytest.approx(2 / 3)
    assert span_figures([(set(), set())]).f1 == 1.0
