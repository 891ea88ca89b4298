"""The verifier's training pairs: the generated ones have the right labels."""

from __future__ import annotations

import random
import re
from collections import Counter

from router.training.pairs import KINDS_OF_PAIRS, Maker, Pair, development


def test_made_pairs_are_of_every_kind_and_of_both_labels() -> None:
    """Neither label is rare in any kind that has both."""
    pairs = Maker(random.Random(1)).make(6000)
    by_kind = Counter((pair.source, pair.same > 0.5) for pair in pairs)
    kinds = {source for source, _ in by_kind}
    assert kinds == {"action", "thing", "code", "directed", "symmetric", "statement", "modified", "tense", "time", "place"}
    assert all(by_kind[kind, False] > 0 for kind in kinds)
    assert 0.35 < sum(pair.same for pair in pairs) / len(pairs) < 0.6
    assert all("{" not in pair.asked + pair.stored and pair.asked.strip() and pair.stored.strip() for pair in pairs)


def test_held_back_families_share_no_question_with_training() -> None:
    """Otherwise the figures would flatter the verifier."""
    train = {pair.asked for pair in Maker(random.Random(1)).make(20_000) if pair.source == "action"}
    held = {pair.asked for pair in Maker(random.Random(2), held_back=True).make(20_000) if pair.source == "action"}
    assert not train & held


def test_what_is_held_back_is_told_apart_by_kind() -> None:
    """All generated swaps count as one kind. The prompts are generated here."""
    pairs = [Pair("a", "b", 0.0, source) for source in ("qqp", "swap_number", "paws", "swap_order", "negation")]
    found = development(pairs)
    assert set(found) == set(KINDS_OF_PAIRS)
    assert [len(found[kind]) for kind in ("qqp", "swaps", "paws", "negation")] == [1, 2, 1, 1]
    assert found["prompts"] == development([])["prompts"]


def test_a_pair_called_the_same_holds_no_other_number() -> None:
    """The labels then agree with the lexical checks."""
    same = [pair for pair in Maker(random.Random(3)).make(4000) if pair.same == 1]
    digits = [(re.findall(r"\d+", pair.asked), re.findall(r"\d+", pair.stored)) for pair in same if "2FA" not in repr(pair)]
    assert sum(bool(one) for one, _ in digits) > 50
    assert all(one == other for one, other in digits)


def test_varied_pairs_keep_their_label() -> None:
    """Haste and politeness do not change the label."""
    maker = Maker(random.Random(4))
    maker.remember(["I am on Windows."])
    for pair in maker.make(2000):
        varied = maker.vary(pair)
        assert varied.same == pair.same
        assert varied.asked.strip()
        assert varied.stored.strip()
