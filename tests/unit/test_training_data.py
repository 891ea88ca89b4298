"""The split and the variation of the training data. If they were wrong, every figure of the model card would be worthless."""

from __future__ import annotations

import random
from collections import Counter

from router.training.data import epoch, natural, vary
from router.training.examples import LABELS, Example, is_for_calibration, is_held_back, typos

PREFACE = "This question refers to the following information.\nRead the passage and answer the questions.\n"


def test_questions_that_begin_alike_stay_on_one_side() -> None:
    """Twins differ only in numbers at the end."""
    for start in range(50):
        stem = f"Topic {start}: a train leaves the station at noon and travels at constant speed for"
        assert len({is_held_back(f"{stem} {hours} hours. How far?") for hours in range(20)}) == 1


def test_what_stands_before_every_passage_does_not_decide_the_side() -> None:
    """Otherwise nearly all of history would be held back, or none of it."""
    passages = [f"{number} In the course of human events it becomes necessary" for number in range(300)]
    sides = Counter(is_held_back(PREFACE + passage) for passage in passages)
    assert 15 <= sides[True] <= 90
    plain = "this question refers to the following information "
    assert all(is_held_back(plain + passage) == is_held_back(passage) for passage in passages)


def test_case_and_punctuation_do_not_decide_the_side() -> None:
    """The same question with other typing is the same question."""
    for number in range(100):
        text = f"What is, in short, the meaning of number {number}?"
        assert is_held_back(text) == is_held_back(text.upper().replace(",", ""))


def test_the_shares_are_what_they_should_be() -> None:
    """About 15% is held back. A third of that sets the temperature and the threshold."""
    texts = [f"{number} is the number of this question" for number in range(4000)]
    held = [text for text in texts if is_held_back(text)]
    assert 0.12 < len(held) / len(texts) < 0.18
    assert 0.25 < sum(map(is_for_calibration, held)) / len(held) < 0.42


def test_our_own_texts_cover_every_category() -> None:
    """Each label has subjects, nothing is written twice, and every blank is filled."""
    examples = natural()
    assert {example.label for example in examples} == set(LABELS)
    assert all("{" not in example.text for example in examples if example.source == "natural")
    assert min(Counter(example.label for example in examples).values()) > 300


def test_typos_come_at_the_stated_rate_and_keep_the_text_readable() -> None:
    """The rate is one in 18 characters."""
    text = "the quick brown fox jumps over the lazy dog and runs away " * 20
    changed = typos(text, random.Random(3))
    assert changed != text
    assert abs(len(changed) - len(text)) <= len(text) // 18
    assert typos("short", random.Random(3)) == "short"


def test_variation_keeps_the_question_and_sometimes_shows_the_options() -> None:
    """An exam shows its options as well."""
    example = Example("Which of these?", "math", "mmlu_pro", ("one", "two"))
    seen = {vary(example, random.Random(seed)) for seed in range(200)}
    assert example.text in seen
    assert f"{example.text}\nA. one\nB. two" in seen


def test_an_epoch_takes_its_share_of_each_source_and_all_of_the_others() -> None:
    """Each epoch draws anew."""
    examples = [Example(f"a{number}", "math", "a") for number in range(50)]
    examples += [Example(f"b{number}", "math", "b") for number in range(5)]
    chance = random.Random(1)
    first, second = epoch(examples, chance, {"a": 10}), epoch(examples, chance, {"a": 10})
    assert Counter(example.source for example in first) == {"a": 10, "b": 5}
    assert {example.text for example in first} != {example.text for example in second}
    more = Counter(example.text for example in epoch(examples, chance, {"a": 0, "b": 12}))
    assert sum(more.values()) == 12
    assert set(more.values()) == {2, 3}
