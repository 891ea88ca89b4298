"""Token labels become spans, and spans are measured."""

from __future__ import annotations

import numpy as np
import pytest

from router.evaluation.spans import span_figures
from router.inference.spans import Span, joined, spans_of
from router.signals.pii.patterns import with_patterns

KINDS = ("EMAIL", "PERSON")
OUTSIDE, BEGIN_EMAIL, IN_EMAIL, BEGIN_PERSON, IN_PERSON = range(5)


def found(text: str, labels: list[int], offsets: list[tuple[int, int]], sure: float = 0.9) -> list[tuple[str, str]]:
    """The texts and kinds of the spans that these token labels give."""
    table = np.full((len(labels), 5), (1 - sure) / 4, dtype=np.float32)
    table[np.arange(len(labels)), labels] = sure
    return [(text[span.start : span.end], span.kind) for span in spans_of(text, table, offsets, KINDS)]


TEXT = "ann lee sat"
WORDS = [(0, 0), (0, 3), (4, 7), (8, 11), (0, 0)]
PIECES = [(0, 0), (0, 2), (2, 3), (4, 7), (0, 0)]
"""The first word comes in two pieces."""


@pytest.mark.parametrize(
    ("labels", "offsets", "spans"),
    [
        ([OUTSIDE] * 5, WORDS, []),
        ([OUTSIDE, BEGIN_PERSON, IN_PERSON, OUTSIDE, OUTSIDE], WORDS, [("ann lee", "PERSON")]),
        ([OUTSIDE, IN_PERSON, IN_PERSON, OUTSIDE, OUTSIDE], WORDS, [("ann lee", "PERSON")]),
        ([OUTSIDE, BEGIN_PERSON, BEGIN_PERSON, OUTSIDE, OUTSIDE], WORDS, [("ann lee", "PERSON")]),
        ([OUTSIDE, BEGIN_PERSON, IN_EMAIL, OUTSIDE, OUTSIDE], WORDS, [("ann", "PERSON"), ("lee", "EMAIL")]),
        ([OUTSIDE, BEGIN_PERSON, OUTSIDE, IN_PERSON, OUTSIDE], WORDS, [("ann", "PERSON"), ("sat", "PERSON")]),
        ([OUTSIDE, BEGIN_PERSON, BEGIN_PERSON, OUTSIDE, OUTSIDE], PIECES, [("ann", "PERSON")]),
        ([BEGIN_PERSON, OUTSIDE, OUTSIDE, OUTSIDE, BEGIN_PERSON], WORDS, []),
    ],
)
def test_labels_become_spans(labels: list[int], offsets: list[tuple[int, int]], spans: list) -> None:
    """Special tokens have no place. A word is never split. Labels that only white space separates are one span."""
    assert found(TEXT, labels, offsets) == spans


def test_a_comma_parts_two_names_and_joins_the_lines_of_one() -> None:
    """The second word's begin label decides."""
    text, offsets = "ann, lee", [(0, 3), (3, 4), (5, 8)]
    assert found(text, [BEGIN_PERSON, OUTSIDE, BEGIN_PERSON], offsets) == [("ann", "PERSON"), ("lee", "PERSON")]
    assert found(text, [BEGIN_PERSON, OUTSIDE, IN_PERSON], offsets) == [("ann, lee", "PERSON")]


def test_a_span_ends_with_its_word_and_not_with_a_quotation_mark_or_an_s() -> None:
    """The labels of the marks beside it do not matter."""
    assert found("'ann's", [IN_PERSON] * 3 + [OUTSIDE], [(0, 1), (1, 4), (4, 5), (5, 6)]) == [("ann", "PERSON")]
    assert found("(ann-lee).", [IN_PERSON] * 6, [(0, 1), (1, 4), (4, 5), (5, 8), (8, 9), (9, 10)]) == [("(ann-lee", "PERSON")]


def test_a_span_is_as_sure_as_its_least_sure_word() -> None:
    """One doubtful word makes the whole span doubtful. The pieces of a word share the doubt."""
    table = np.zeros((2, 5), dtype=np.float32)
    table[0, BEGIN_PERSON], table[1, IN_PERSON] = 0.9, 0.6
    assert spans_of("ann lee", table, [(0, 3), (4, 7)], KINDS) == (Span(0, 7, "PERSON", pytest.approx(0.6)),)
    assert spans_of("annalee", table, [(0, 3), (3, 7)], KINDS) == (Span(0, 7, "PERSON", pytest.approx(0.75)),)


FORMS = ("EMAIL_ADDRESS", "IBAN_CODE", "CREDIT_CARD", "US_SSN", "IP_ADDRESS")


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("mail jo.doe+x@mail.exemplar.co.uk.", [("jo.doe+x@mail.exemplar.co.uk", "EMAIL_ADDRESS")]),
        ("4111 1111 1111 1111 is lost", [("4111 1111 1111 1111", "CREDIT_CARD")]),
        ("4111 1111 1111 1112 is no card", []),
        ("0000 0000 0000 0000 neither", []),
        ("pay GB82 WEST 1234 5698 7654 32 now", [("GB82 WEST 1234 5698 7654 32", "IBAN_CODE")]),
        ("GB83 WEST 1234 5698 7654 32", []),
        ("078-05-1120 but not 000-05-1120 or 1078-05-1120", [("078-05-1120", "US_SSN")]),
        ("8.8.4.4, not 8.8.4.256 nor version 1.2.3.4.5", [("8.8.4.4", "IP_ADDRESS")]),
        ("2001:4860::ff00:42:8329 at 10:20:30", [("2001:4860::ff00:42:8329", "IP_ADDRESS")]),
        ("what is 2+2, a@b or user@localhost?", []),
        ("test with a@example.com and b@mail.example.org, or c@host.test", []),
        ("bind 0.0.0.0, 127.0.0.1, 10.0.0.1 or ::1", []),
    ],
)
def test_what_has_a_form_is_found_by_its_form(text: str, spans: list) -> None:
    """Check digits are verified."""
    assert [(text[span.start : span.end], span.kind) for span in with_patterns(text, (), FORMS)] == spans


def test_a_form_outweighs_the_model_and_is_told_only_of_kinds_the_model_knows() -> None:
    """A bundle without e-mail addresses reports none."""
    text = "ann a@b.org"
    said = (Span(0, 3, "PERSON", 0.9), Span(4, 7, "PERSON", 0.8))
    assert with_patterns(text, said, FORMS) == (said[0], Span(4, 11, "EMAIL_ADDRESS", 1.0))
    assert with_patterns(text, said, ("PERSON",)) == said


def test_spans_that_only_space_parts_are_one() -> None:
    """This applies to spans of one kind."""
    spans = [(0, 2, "ADDRESS"), (3, 9, "ADDRESS"), (10, 14, "LOCATION"), (16, 20, "LOCATION")]
    assert joined("64 Via Po Rome, Oslo", spans) == {(0, 9, "ADDRESS"), (10, 14, "LOCATION"), (16, 20, "LOCATION")}


def test_figures_want_both_ends_and_the_kind() -> None:
    """Two of three are found, and one is too many."""
    truth = {(0, 3, "A"), (4, 7, "A"), (8, 9, "B")}
    guess = {(0, 3, "A"), (4, 7, "B"), (8, 9, "B")}
    figures = span_figures([(truth, guess), (set(), set())])
    assert (figures.precision.value, figures.recall.value) == (2 / 3, 2 / 3)
    assert figures.f1 == pytest.approx(2 / 3)
    assert span_figures([(set(), set())]).f1 == 1.0


def test_a_url_is_whole_where_the_model_saw_a_part_of_it() -> None:
    """Its tokens end at signs. A URL that the model takes for nobody's is none."""
    text = "see https://example.org/u/ann?tab=repos&x=1, and https://example.org/docs."
    found = with_patterns(text, [Span(4, 25, "URL", 0.8), Span(30, 33, "ACCOUNT", 0.6)], KINDS)
    assert found == (Span(4, 43, "URL", 0.8),)
    assert text[4:43] == "https://example.org/u/ann?tab=repos&x=1"


def test_a_bracket_that_closes_behind_the_words_is_not_of_them() -> None:
    """The one of "(020) 7946 0000" is."""
    text = "(Ann Lee) at (020) 79460000"
    offsets = [(0, 0), (0, 1), (1, 4), (5, 8), (8, 9), (10, 12), (13, 14), (14, 17), (17, 18), (19, 27), (0, 0)]
    labels = np.zeros((len(offsets), 5), dtype=np.float32)
    labels[:, 0] = 1
    for place, column in ((2, 1), (3, 2), (6, 3), (7, 4), (9, 4)):
        labels[place] = np.eye(5)[column]
    found = spans_of(text, labels, offsets, ("PERSON", "PHONE_NUMBER"))
    assert [(text[span.start : span.end], span.kind) for span in found] == [
        ("Ann Lee", "PERSON"),
        ("(020) 79460000", "PHONE_NUMBER"),
    ]
