"""The hand-written training prompts: their format, their split, and the pairs that are drawn from them."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from router.core.text.conversation import Turn, as_text
from router.evaluation.pairs import read_pairs
from router.training.__main__ import _of_case
from router.training.pairs import Sampler, of_cases, of_groups
from router.training.prompts import WRITTEN, Group, Line, read_conversations, read_groups, read_labelled, read_marked
from router.training.swaps import SwapMaker, orders

GROUP = """= How do I cancel?
+free get rid of my plan
+typo how do i cancle
-aspect When can I cancel?
-name How do I pause?\\nToday?
"""
CASE = """A s: You help.
A u: Is it open?
A a: Yes.
A u: till when
+condensed s: You help. || u: Until when is it open?
-context s: You help. || u: Is it shut? || a: No. || u: till when
-detail s: You help at Acme. || u: Is it open? || a: Yes. || u: till when
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with one group, one case, and one line of each other kind."""
    texts = {
        "prompt_pairs/service2.txt": GROUP,
        "conversations/conversations.txt": CASE,
        "cacheability/labels.txt": "S How do I cancel?\nB is my bus late\n",
        "complexity/complexity.txt": "4 computer science | Prove\\nit.\n",
        "pii_prompts/pii.txt": "call [[PERSON:Ann Lee]] at [[PHONE:0123]]\n",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_a_group_keeps_every_character_of_its_prompts(data: Path) -> None:
    """Only the written line break changes. The field is the file's name without its number."""
    group = read_groups(data)[0]
    assert group.field == "service"
    assert group.same == (
        Line("How do I cancel?", "anchor"), Line("get rid of my plan", "free"), Line("how do i cancle", "typo"),
    )  # fmt: skip
    assert group.different[1] == Line("How do I pause?\nToday?", "name")


def test_labels_and_places_are_read(data: Path) -> None:
    """A level comes with its category; the marks of personal data leave the text."""
    assert next(iter(read_labelled(data, "cacheability"))) == ("How do I cancel?", "S")
    assert next(iter(read_labelled(data, "complexity"))) == ("Prove\nit.", "4 computer science")
    assert next(iter(read_marked(data))) == ("call Ann Lee at 0123", ((5, 12, "PERSON"), (16, 20, "PHONE")))


def test_pairs_of_a_group_have_the_right_labels(data: Path) -> None:
    """What is drawn to train on and what is measured on: `+` lines want one answer, `-` lines never theirs."""
    group = read_groups(data)[0]
    alike = {line.text for line in group.same}
    drawn = Sampler(random.Random(1)).of_groups([group], same=3, different=6)
    assert Counter(pair.same for pair in drawn) == {1: 3, 0: 6}
    measured = of_groups([group])
    assert {(pair.asked, pair.stored) for pair in measured if pair.same} == {
        ("get rid of my plan", "How do I cancel?"), ("how do i cancle", "How do I cancel?"),
    }  # fmt: skip
    assert all(pair.same == (pair.asked in alike and pair.stored in alike) for pair in measured)
    assert {pair.source for pair in measured} == {"service free", "service typo", "service aspect", "service name"}


def test_conversations_under_other_system_messages_are_no_pairs(data: Path) -> None:
    """The cache never compares them."""
    case = read_conversations(data)[0]
    pairs = of_cases([case])
    assert [(pair.source, pair.same) for pair in pairs] == [("conversation condensed", 1), ("conversation context", 0)]
    assert pairs[0].asked == "Until when is it open?"
    assert pairs[1].stored == "user: Is it open?\nassistant: Yes.\nuser: till when"


def test_held_back_conversations_are_written_as_lists_of_messages(data: Path, tmp_path: Path) -> None:
    """As `eval cache` and `calibrate cache --conversations` read them. The last pair is of what goes on where the other ended."""
    case, out = read_conversations(data)[0], tmp_path / "pairs.jsonl"
    lines = list(_of_case(case))
    assert [(line["tag"], line["y"]) for line in lines] == [
        ("conversation condensed", 1), ("conversation context", 0), ("conversation context", 0), ("conversation continuation", 0),
    ]  # fmt: skip
    condensed, stored = (
        [{"role": turn.role, "content": turn.text} for turn in turns] for turns in (case.same[0][0], case.stored)
    )
    assert (lines[0]["a"], lines[0]["b"]) == (condensed, stored)
    assert [line["b"] for line in lines[1:]] == [stored, condensed, stored[:2]]
    assert lines[3]["a"] == condensed
    out.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert {(pair.is_of_conversations, pair.apart) for pair in read_pairs(out)} == {(True, "")}


def test_a_single_question_has_no_role() -> None:
    """It reads as any other question does, also under a system message."""
    assert as_text([Turn("system", "You help."), Turn("user", "Is it open?")]) == "Is it open?"


def test_a_group_is_held_back_as_a_whole() -> None:
    """By its anchor, so that no prompt of a group that is measured on was trained on."""
    groups = [Group("x", (Line(f"question {number}", "anchor"),), ()) for number in range(4000)]
    held = [group for group in groups if group.is_held_back]
    assert 0.12 < len(held) / len(groups) < 0.18
    assert 0.4 < sum(group.is_for_calibration for group in held) / len(held) < 0.6


def test_our_own_files_are_whole() -> None:
    """Every group has prompts of both sorts, and no prompt of a group is written twice."""
    groups = read_groups(Path("there is no such folder"))
    assert len(groups) > 1000
    for group in groups:
        texts = [line.text for line in (*group.same, *group.different)]
        assert len(group.same) >= 4
        assert len(group.different) >= 3
        assert len(set(texts)) == len(texts), texts[0]
    assert {file.name for file in WRITTEN.iterdir()} >= {"README.md", "cacheability.txt", "complexity.txt", "safety.txt"}


def test_a_changed_text_wants_another_answer_and_an_edited_one_the_same() -> None:
    """One number, name or opposite is exchanged; an edit changes punctuation, case, or adds a courtesy."""
    texts = ["How do I open 12 files in Paris with Anna?", "what is the largest lake near Berlin and Rome", "Is it legal there?"]
    pairs = SwapMaker(texts, random.Random(2)).make(300)
    assert all(pair.asked in texts for pair in pairs)
    assert all((pair.source == "swap_pos_edit") == (pair.same == 1) for pair in pairs)
    assert all(pair.asked != pair.stored for pair in pairs if not pair.same)
    assert {pair.source for pair in pairs} >= {"swap_number", "swap_entity", "swap_antonym_neg", "swap_pos_edit", "swap_ordered"}


def test_orders_that_are_measured_with_are_never_trained_on() -> None:
    """Whoever wants to steer an answer finds other words than the list."""
    apart = orders(held_back=True)
    assert len(apart) == 10
    assert not set(apart) & set(orders(held_back=False))
