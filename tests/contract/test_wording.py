"""What the verifier's tokenizer cannot distinguish, and how the spelling rules and the verifier judge handwritten pairs."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from router.cache.checks import CHECKS_WITH_VERIFIER
from router.cache.verifier import Verifier
from router.cache.wording import difference
from router.config.calibration import CALIBRATION, FALSE_HIT_RATE, read_table
from router.core.lookup import CachePolicy
from router.inference.bundle import SHIPPED, TOKENIZER, Bundle
from router.inference.cross_encoder import CrossEncoder
from router.inference.pool import InferencePool

VERIFIER = SHIPPED.parent / "verifier"
PLACES = (
    "what about a{}b here",
    "what about the word{} here",
    "what about e {} here",
    "{} what about here",
    "what about here {}",
)
HARMLESS = {" ", "\t", "\n", "\r", "\ufe0f"}
"""Harmless characters, beside spaces of other widths and line ends."""


@pytest.fixture
def score() -> Iterator[CrossEncoder]:
    """The shipped verifier."""
    passes = InferencePool(1, 8)
    yield CrossEncoder(Bundle.load(VERIFIER), passes)
    passes.close()


@pytest.mark.parametrize("place", PLACES)
def test_a_character_that_leaves_no_token_refuses(place: str) -> None:
    """Every character is tried in every kind of place. Only few are both dropped by the tokenizer and harmless."""
    tokenizer = Tokenizer.from_file(str(VERIFIER / TOKENIZER))
    characters = [chr(code) for code in range(sys.maxunicode) if unicodedata.category(chr(code)) not in ("Cs", "Cn", "Co", "Lo")]
    characters += ["\u0378", "\ue000", "\U000f0000"]
    without = place.format("")
    plain = tokenizer.encode(without).ids
    read = tokenizer.encode_batch([place.format(char) for char in characters])
    dropped = [char for char, tokens in zip(characters, read, strict=True) if tokens.ids == plain]
    assert len(dropped) > 1000
    served = {char for char in dropped if difference(place.format(char), without) != "unread"}
    assert {char for char in served - HARMLESS if unicodedata.category(char) not in ("Zs", "Zl", "Zp")} == set()


def test_case_and_marks_that_leave_no_token_refuse() -> None:
    """Every letter whose case or accent the tokenizer drops is tried alone."""
    tokenizer = Tokenizer.from_file(str(VERIFIER / TOKENIZER))
    letters = [chr(code) for code in range(0x3000) if unicodedata.category(chr(code))[0] in "LN"]
    pairs = [(letter, tokenizer.normalizer.normalize_str(letter)) for letter in letters]
    dropped = [
        (letter, read) for letter, read in pairs if unicodedata.normalize("NFC", read) != unicodedata.normalize("NFC", letter)
    ]
    assert len(dropped) > 1000
    served = [letter for letter, read in dropped if difference(f"so x {letter} y", f"so x {read} y") != "unread"]
    assert served == ["I", "Ⅰ"]  # the pronoun, and the first numeral that looks like it


async def test_pairs_written_by_hand(score: CrossEncoder) -> None:
    """At the default threshold, almost none of the pairs that need two answers is served, and almost all of those with one answer
    are.
    """
    table = read_table(CALIBRATION, has_verifier=True)
    point = table.point(FALSE_HIT_RATE)
    assert point
    verify, terms = (
        Verifier(score.score),
        CachePolicy(table.similarity, 3600.0, CHECKS_WITH_VERIFIER, verifier_threshold=point.threshold),
    )
    lines = (Path(__file__).parents[1] / "writing.jsonl").read_text(encoding="utf-8").splitlines()
    pairs = [json.loads(line) for line in lines]
    served = {0: 0, 1: 0}
    for pair in pairs:
        served[pair["y"]] += not (await verify(pair["a"], pair["b"], terms)).refusal
    wrong, right = served[0] / sum(not pair["y"] for pair in pairs), served[1] / sum(pair["y"] for pair in pairs)
    assert wrong < 0.03
    assert right > 0.93
