"""Disguises, forms of personal data and words of attacks are looked for in a time that grows with the text alone.

Measured is processor time of this thread, the best of three; what is quadratic takes many times more than is allowed.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from time import thread_time
from typing import Any

import pytest

from router.core.openai.jsontext import read_document
from router.core.prompt import prompt_of
from router.core.text.disguise import readings_of
from router.core.types import Endpoint, Scores
from router.signals.evidence import with_words
from router.signals.pii.patterns import with_patterns

MAX_CHARS = 131_072
FORMS = ("EMAIL_ADDRESS", "IBAN_CODE", "CREDIT_CARD", "US_SSN", "IP_ADDRESS")
TOO_SHORT_TO_TELL_S = 0.0005


def seconds(act: Callable[[], object]) -> float:
    """Processor time of the fastest of three calls."""
    return min(_once(act) for _ in range(3))


def _once(act: Callable[[], object]) -> float:
    began = thread_time()
    act()
    return thread_time() - began


LONG = {
    "letters": "a" * 100_000,
    "single letters": "a " * 50_000,
    "digits": "1" * 100_000,
    "hex": "ab" * 50_000,
    "0x": "0x" * 50_000,
    "base64": base64.b64encode(bytes(range(256)) * 400).decode(),
    "percents": "%41" * 33_000,
    "references": "&#65; " * 16_000,
    "escapes": "\\u0041" * 16_000,
    "tags": "\U000e0041" * 100_000,
    "marks": "a" + "\u0301" * 100_000,
    "dashes": "-" * 100_000,
    "leet": "a1 " * 33_000,
    "@": "@a" * 50_000,
    "lines": "ab\n" * 33_000,
    "signs for letters": "a" + "$!" * 2_000,
    "signs after a letter": "a" + "!" * 4_000,
    "letters with lines under them": "a_ " * 4_000,
    "double letters": "aa" * 50_000,
    "letters and hyphens": "a-" * 50_000,
    "words and hyphens": "word-" * 20_000,
    "groups of four letters": "abcd " * 20_000,
    "four letters and no end": "abcd" * 25_000,
    "numbers with spaces": "65 " * 33_000,
    "capitals": "ABCD" * 25_000,
    "open tags": "<a" * 50_000,
    "camels": "aB" * 50_000,
    "emoji": "a🙂" * 50_000,
    "emoji alone": "🙂" * 100_000,
    "letters upside down": "ɐ" * 100_000,
    "quotes": "','" * 33_000,
    "equals": "=41" * 33_000,
    "an open prose": "ab " * 33_000 + "\x00",
    "hex with a gap, and no end": "41 " * 33_000 + "4x",
    "codes with no end": "65, " * 25_000 + "6x",
    "bits and commas": "01000001," * 11_000 + "2",
    "half tags": "a<b" * 33_000,
    "half comments": "a<!--" * 20_000,
    "half comments of code": "a/*" * 33_000,
    "letters in parentheses": "(a)" * 33_000,
    "strange words": "qwx " * 25_000,
    "backwards": "eht tub " * 12_000,
    "rotated": "gur naq lbh " * 8_000,
    "a statement": "VALUES (1, 'a'), " * 6_000,
    "literals": "'a' + " * 16_000,
    "an Arabic phrase": "\ufdfa " * 50_000,
    "doubled and plain": "aab " * 25_000,
}


@pytest.mark.parametrize("name", LONG)
def test_time_grows_with_the_text_alone(name: str) -> None:
    """Eight times the text takes not much more than eight times as long, whatever a client writes."""
    short, long = LONG[name][: len(LONG[name]) // 8], LONG[name]
    assert seconds(lambda: readings_of(long)) < 40 * max(TOO_SHORT_TO_TELL_S, seconds(lambda: readings_of(short)))


@pytest.mark.parametrize("text", ["a", "1", "1 ", "AB12 ", "a@", "1.2.3.", "a.b@c.", ":a:b", "::", "a-"])
def test_forms_are_sought_in_time_in_proportion_to_the_text(text: str) -> None:
    """No text makes a pattern try everything: ten times the text does not take a hundred times as long."""
    short, long = text * 10_000, text * 100_000
    assert seconds(lambda: with_patterns(long, (), FORMS)) < 40 * max(0.001, seconds(lambda: with_patterns(short, (), FORMS)))


@pytest.mark.parametrize("text", ["ignore ", "no ", "a" * 7, "never not ", "print the "])
def test_looking_for_words_takes_time_in_proportion(text: str) -> None:
    """A window may hold a word of any length."""
    scores, short, long = Scores({"jailbreak": 0.5}), text * 1_000, text * 8_000
    assert seconds(lambda: with_words(scores, long)) < 40 * max(TOO_SHORT_TO_TELL_S, seconds(lambda: with_words(scores, short)))


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user"}] * 200_000},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 200_000}]},
        {"documents": [["a"] * 10_000] * 20},
        {"documents": [{"a": 1}] * 200_000},
    ],
)
def test_no_body_takes_long(body: dict[str, Any]) -> None:
    """What is looked at is bounded, not only what is read: a tenth of a second would be felt by everybody else."""
    members = read_document(json.dumps(body).encode())[1]
    assert seconds(lambda: prompt_of(Endpoint.CHAT, members, MAX_CHARS)) < 0.1
