"""Turns token labels into spans of text, such as personal data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"[(+]?\w+(?:(?!['’]s\b)[-.@&'’_:/+]\w+)*")
"""A written word: a name with hyphens, an address, a number with dashes. Without quotation marks and the possessive s."""
_BRACKET_REACH = 2  # characters behind a word in which its bracket closes, as in "(020)"
_MAX_BETWEEN = 3  # characters between two words of one span, such as ") " or ", "


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a text that a head on tokens marks."""

    start: int
    end: int
    """Offsets in characters; the end is exclusive."""
    kind: str
    """Presidio's name, such as `CREDIT_CARD`."""
    probability: float
    """The lowest probability of its words."""


def spans_of(
    text: str, labels: NDArray[np.float32], offsets: Sequence[tuple[int, int]], kinds: Sequence[str]
) -> tuple[Span, ...]:
    """The spans that a model's token labels mark, in the order of the text.

    `labels` is (tokens, 2 * kinds + 1) float32, probabilities: outside, then begin and inside of each kind. `offsets` are the
    tokens' places in `text`. The pieces of a word are averaged, so a word is never split. Words of one kind with only space
    between them form one span. With a comma or a bracket between them they form one span unless the second word is a beginning.
    """
    if not labels.argmax(axis=1).any():
        return ()
    spans: list[Span] = []
    last_kind = -1
    for start, end, pieces in _words(text, offsets):
        table = labels[pieces]
        by_kind = table[:, 1:].reshape(len(pieces), len(kinds), 2).sum(axis=2).mean(axis=0)
        kind = int(by_kind.argmax())
        probability = float(by_kind[kind])
        if probability <= float(table[:, 0].mean()):
            last_kind = -1
            continue
        between = text[spans[-1].end : start] if spans else ""
        is_anew = bool(table[0, 1 + 2 * kind] > table[0, 2 + 2 * kind])
        if kind == last_kind and (not between.strip() or (not is_anew and len(between) <= _MAX_BETWEEN)):
            spans[-1] = Span(spans[-1].start, end, kinds[kind], min(spans[-1].probability, probability))
        else:
            spans.append(Span(start, end, kinds[kind], probability))
        last_kind = kind
    return tuple(spans)


def _words(text: str, offsets: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, list[int]]]:
    """Start and end of each word, with the indices of its tokens."""
    places = [place for place, (start, end) in enumerate(offsets) if end > start]  # special tokens are empty
    if not places:
        return
    first, at = offsets[places[0]][0], 0
    for match in _WORD.finditer(text, first, offsets[places[-1]][1]):
        start, end = match.span()
        while at < len(places) and offsets[places[at]][1] <= start:
            at += 1
        pieces = []
        while at < len(places) and offsets[places[at]][0] < end:
            pieces.append(places[at])
            at += 1
        if text[start] == "(" and ")" not in text[start : end + _BRACKET_REACH]:
            start += 1
            pieces = [place for place in pieces if offsets[place][1] > start]
        if pieces:
            yield start, end, pieces


def joined(text: str, spans: Iterable[tuple[int, int, str]]) -> set[tuple[int, int, str]]:
    """Join spans of one kind with only space between them, such as a house number and its street.

    Presidio's own evaluation does the same, because annotators mark such parts as one span or as two.
    """
    whole: list[tuple[int, int, str]] = []
    for start, end, kind in sorted(spans):
        if whole and whole[-1][2] == kind and not text[whole[-1][1] : start].strip():
            whole[-1] = (whole[-1][0], end, kind)
        else:
            whole.append((start, end, kind))
    return set(whole)
