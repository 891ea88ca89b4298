"""The verifier's training and evaluation pairs: of prompts and conversations that were written, of data sets, and made ones."""

from __future__ import annotations

import csv
import gzip
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml

from router.core.text.conversation import Turn, as_text
from router.inference.bundle import digest
from router.training.examples import typos
from router.training.prompts import Case, Group, Line

SOURCES = (
    ("gptcache_qqp/train.jsonl.gz", "Quora Question Pairs (GPTCache)", "Quora terms: non-commercial"),
    ("synth_guard/synth_train.jsonl", "made swaps of Quora questions", "Quora terms: non-commercial"),
    ("pawsx/dev-en.tsv", "PAWS-X, English", "free for any purpose"),
    ("cannot_negation/sem_anto_neg.tsv", "CANNOT", "CC-BY-SA-4.0"),
    ("banking77/train.csv", "BANKING77", "CC-BY-4.0"),
    ("clinc150/data_train_val.json", "CLINC150", "CC-BY-3.0"),
)
"""File, name and licence of every data set; `prompt_pairs` and `conversations` come on top. pairs.yaml and `written/` beside this
file are our own."""
KINDS_OF_PAIRS = ("groups", "conversations", "prompts", "swaps", "paws", "negation", "qqp")
HELD_BACK_PERCENT = 15
_MADE = 3000
_QUESTION_MARKS = 0.12
"""The share of texts that lose their question mark or their capitals, as people in a hurry type."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two questions, and whether one answer fits both."""

    asked: str
    stored: str
    same: float
    """1 for the same answer, 0 for another, between them if the label is uncertain."""
    source: str


def is_held_back(key: str, percent: int = HELD_BACK_PERCENT) -> bool:
    """Whether a pair belongs to the development split, by its main question."""
    return digest(key)[0] * 100 < percent * 256


def labelled(data: Path, without: frozenset[str] = frozenset()) -> tuple[list[Pair], list[Pair]]:
    """Pairs of the data sets in the folder `data`: those to train on, and those held back.

    Quora's pairs already have a development file, split by connected component of questions. Data sets whose folder is in
    `without` are not trained on; their held-back pairs are still measured on.
    """
    questions = list(_lines(data / "gptcache_qqp" / "train.jsonl.gz"))
    train = [Pair(line["a"], line["b"], float(line["y"]), "qqp") for line in questions]
    texts = {line[side] for line in questions for side in "ab"}
    held_back: list[Pair] = []
    sets = {"synth_guard": _swaps(data, texts), "pawsx": _paws(data), "cannot_negation": _negations(data)}
    train = [] if "gptcache_qqp" in without else train
    for folder, pairs in sets.items():
        for pair, key, percent in pairs:
            if is_held_back(key, percent):
                held_back.append(pair)
            elif folder not in without:
                train.append(pair)
    held_back += [Pair(line["a"], line["b"], float(line["y"]), "qqp") for line in _lines(data / "gptcache_qqp" / "dev.jsonl.gz")]
    return train, held_back


class Sampler:
    """Draws pairs from groups and cases, anew for each epoch."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def of_groups(self, groups: Sequence[Group], same: int, different: int) -> list[Pair]:
        """So many pairs of each group. Every prompt that looks alike occurs, beside the anchor more often than beside another."""
        return [pair for group in groups for pair in self._of_group(group, same, different)]

    def of_cases(self, cases: Sequence[Case]) -> list[Pair]:
        """Pairs of the conversations of each case."""
        pairs = []
        for case in cases:
            alike = [case.stored, *(turns for turns, _ in case.same)]
            for _ in case.same:
                one, two = self._chance.sample(alike, 2)
                pairs.append(self._pair(as_text(one), as_text(two), 1, CONVERSATION))
            for turns, _ in case.different:
                other = case.stored if self._chance.random() < 0.5 else self._chance.choice(alike)
                if _system(turns) == _system(other):
                    pairs.append(self._pair(as_text(other), as_text(turns), 0, CONVERSATION))
        return pairs

    def _of_group(self, group: Group, same: int, different: int) -> Iterator[Pair]:
        alike = list(combinations(group.same, 2))
        for one, other in self._chance.sample(alike, min(same, len(alike))):
            yield self._pair(self._noisy(one, group), self._noisy(other, group), 1, GROUP)
        for place in range(different):
            if place % len(group.different) == 0:
                apart = self._chance.sample(group.different, len(group.different))
            one = group.same[0] if self._chance.random() < 0.4 else self._chance.choice(group.same)
            yield self._pair(self._noisy(one, group), self._noisy(apart[place % len(apart)], group), 0, GROUP)

    def _pair(self, one: str, other: str, same: float, source: str) -> Pair:
        return Pair(one, other, same, source) if self._chance.random() < 0.5 else Pair(other, one, same, source)

    def _noisy(self, line: Line, group: Group) -> str:
        """The prompt, now and then mistyped or without its question mark; never where a sign may be all that differs."""
        drawn = self._chance.random()
        if group.field == "traps" or drawn > 0.2:
            return line.text
        return line.text.rstrip("?.!") if drawn > 0.1 else typos(line.text, self._chance) if len(line.text) < 120 else line.text


GROUP, CONVERSATION = "group", "conversation"
"""The sources of pairs of groups and of cases."""


def _system(turns: Sequence[Turn]) -> list[str]:
    """What the cache compares exactly: two conversations under different system messages never meet."""
    return [turn.text for turn in turns if turn.role == "system"]


def of_groups(groups: Sequence[Group]) -> list[Pair]:
    """Pairs to measure on, always the same: the anchor with each prompt of its group, and another of the same prompts with each
    that looks alike. The source is the field and the kind, such as `service free`."""
    pairs = []
    for group in groups:
        anchor, *others = group.same
        pairs += [Pair(line.text, anchor.text, 1, f"{group.field} {line.kind}") for line in others]
        pairs += [Pair(line.text, anchor.text, 0, f"{group.field} {line.kind}") for line in group.different]
        pairs += [
            Pair(group.same[1 + place % len(others)].text, line.text, 0, f"{group.field} {line.kind}")
            for place, line in enumerate(group.different)
        ]
    return pairs


def of_cases(cases: Sequence[Case]) -> list[Pair]:
    """Pairs to measure on: the stored conversation with each other of its case that has the same system messages."""
    return [
        Pair(as_text(turns), as_text(case.stored), same, f"conversation {kind}")
        for case in cases
        for same, some in ((1.0, case.same), (0.0, case.different))
        for turns, kind in some
        if _system(turns) == _system(case.stored)
    ]


def development(held_back: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Held-back pairs by the kind of pair, `KINDS_OF_PAIRS`; those of pairs.yaml are of families that were not trained on."""
    found: dict[str, list[Pair]] = {kind: [] for kind in KINDS_OF_PAIRS}
    for pair in held_back:
        found[pair.source if pair.source in KINDS_OF_PAIRS else "swaps"].append(pair)
    found["prompts"] = Maker(random.Random(9), held_back=True).make(_MADE)  # noqa: S311 - reproducible on purpose
    return found


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def _swaps(data: Path, questions: set[str]) -> Iterator[tuple[Pair, str, int]]:
    for line in _lines(data / "synth_guard" / "synth_train.jsonl"):
        key = line["a"] if line["a"] in questions else line["b"]
        yield Pair(line["a"], line["b"], float(line["y"]), line["tag"].replace("synth|", "swap_")), key, HELD_BACK_PERCENT


def _paws(data: Path) -> Iterator[tuple[Pair, str, int]]:
    for line in (data / "pawsx" / "dev-en.tsv").read_text(encoding="utf-8").splitlines():
        one, other, same = line.split("\t")
        yield Pair(one, other, float(same), "paws"), one, 50


def _negations(data: Path) -> Iterator[tuple[Pair, str, int]]:
    with (data / "cannot_negation" / "sem_anto_neg.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            yield (
                Pair(row["premise"], row["hypothesis"], 1.0 - float(row["label"]), "negation"),
                row["premise"],
                HELD_BACK_PERCENT,
            )


def intents(data: Path, without: frozenset[str] = frozenset()) -> list[tuple[str, str]]:
    """What people say to assistants and to their bank, with the intent. Such texts look alike but may need another answer."""
    clinc = json.loads((data / "clinc150" / "data_train_val.json").read_text(encoding="utf-8"))
    said = [(text, f"clinc150 {intent}") for text, intent in clinc["train"]]
    with (data / "banking77" / "train.csv").open(encoding="utf-8", newline="") as file:
        said += [(row["text"].strip(), f"banking77 {row['category']}") for row in csv.DictReader(file)]
    return [(text, intent) for text, intent in said if not is_held_back(text) and intent.partition(" ")[0] not in without]


class Maker:
    """Makes pairs from pairs.yaml. `is_held_back` chooses between the families of subjects to train on and the others."""

    def __init__(self, chance: random.Random, *, held_back: bool = False) -> None:
        self._chance = chance
        lists = yaml.safe_load((Path(__file__).parent / "pairs.yaml").read_text(encoding="utf-8"))
        topics = yaml.safe_load((Path(__file__).parent / "topics.yaml").read_text(encoding="utf-8"))
        self._lists: Mapping[str, Any] = lists

        def mine(families: Sequence[Sequence[str]]) -> list[list[list[str]]]:
            chosen = [family for number, family in enumerate(families) if (number % 6 == 5) == held_back]
            return [[item.split(" = ") for item in family] for family in chosen]

        self._actions, self._tasks = mine(lists["actions"]), mine(lists["tasks"])
        self._topics = [[subject] for label, subjects in topics.items() if label != "other" for subject in subjects]
        half = len(self._topics) * 5 // 6
        self._chance.shuffle(self._topics)
        self._topics = self._topics[half:] if held_back else self._topics[:half]
        self._kinds: Sequence[tuple[int, Callable[[], Pair]]] = (
            (10, self.action), (5, self.thing), (4, self.code), (3, self.directed), (2, self.symmetric), (3, self.statement),
            (2, self.modified), (2, self.tense), (3, self.time), (3, self.place),
        )  # fmt: skip

    def make(self, count: int) -> list[Pair]:
        """`count` pairs of all kinds."""
        weights = [weight for weight, _ in self._kinds]
        return [self._chance.choices(self._kinds, weights)[0][1]() for _ in range(count)]

    def action(self) -> Pair:
        """How to do something, what it costs, how long it takes."""
        return self._crossed(self._chance.choice(self._actions), self._lists["action_frames"], "action")

    def thing(self) -> Pair:
        """What something is, what speaks for it."""
        return self._crossed(self._chance.sample(self._topics, 4), self._lists["thing_frames"], "thing")

    def code(self) -> Pair:
        """A function in a language that does something."""
        pick, family = self._chance.choice, self._chance.choice(self._tasks)
        item, language = pick(family), pick(self._lists["languages"])
        one, other = self._two(self._lists["code_frames"])
        if self._chance.random() < 0.45:
            return Pair(one.format(lang=language, task=pick(item)), other.format(lang=language, task=pick(item)), 1, "code")
        if self._chance.random() < 0.5:
            second = pick([name for name in self._lists["languages"] if name != language])
            return Pair(one.format(lang=language, task=pick(item)), other.format(lang=second, task=pick(item)), 0, "code")
        rest = pick([other for other in family if other is not item])
        return Pair(one.format(lang=language, task=pick(item)), other.format(lang=language, task=pick(rest)), 0, "code")

    def directed(self) -> Pair:
        """From one to the other is not from the other to the one."""
        return self._related(self._chance.choice(self._lists["directed"]), same_when_swapped=False)

    def symmetric(self) -> Pair:
        """Between the two, whichever is named first."""
        return self._related(self._chance.choice(self._lists["symmetric"]), same_when_swapped=True)

    def statement(self) -> Pair:
        """Whether something is so, of another subject or another object."""
        group, pick = self._chance.choice(self._lists["statements"]), self._chance.choice
        subject, other_subject = self._chance.sample(group["subjects"], 2)
        thing, other_thing = self._chance.sample(group["objects"], 2)
        one, other = self._two(group["frames"])
        asked = one.format(s=subject, o=thing)
        kind = self._chance.random()
        if kind < 0.45:
            return Pair(asked, other.format(s=subject, o=thing), 1, "statement")
        swapped = (other_subject, thing) if kind < 0.7 else (subject, other_thing)
        return Pair(asked, pick([one, other]).format(s=swapped[0], o=swapped[1]), 0, "statement")

    def modified(self) -> Pair:
        """One more word, that matters or does not."""
        subject = self._chance.choice(self._lists["statements"][1]["subjects"])
        role, pick = self._chance.choice(self._lists["roles"]), self._chance.choice
        if self._chance.random() < 0.5:
            word = pick(self._lists["words_that_do_not"][0])
            pair = (f"Is {subject} a {role}?", f"Is {subject} {word} a {role}?")
            return self._either(*pair, 1, "modified")
        word = pick(self._lists["words_that_change"][0])
        article = "an" if word[0] in "aeiou" else "a"
        return self._either(f"Is {subject} a {role}?", f"Is {subject} {article} {word} {role}?", 0, "modified")

    def tense(self) -> Pair:
        """What is, was and will be."""
        subject, role = self._chance.choice(self._lists["statements"][1]["subjects"]), self._chance.choice(self._lists["roles"])
        one, other = self._chance.sample(self._lists["tense"][0], 2)
        return Pair(one.format(s=subject, r=role), other.format(s=subject, r=role), 0, "tense")

    def time(self) -> Pair:
        """Before, after, during."""
        action = self._chance.choice(self._lists["time_actions"])
        first, second = self._chance.sample(self._lists["times"], 2)
        thing = self._chance.choice(self._lists["time_objects"])
        asked = action.format(t=first.format(thing))
        if self._chance.random() < 0.3:
            return Pair(asked, self._wrapped(asked), 1, "time")
        return Pair(asked, action.format(t=second.format(thing)), 0, "time")

    def place(self) -> Pair:
        """Another place, another version: mostly another answer."""
        kind = self._chance.choice(("places", "versions"))
        frame = self._chance.choice(self._lists[f"{kind}_of"])
        one, other = self._chance.sample(self._lists[kind], 2)
        if self._chance.random() < 0.3:
            return Pair(frame.format(one), self._wrapped(frame.format(one)), 1, "place")
        return Pair(frame.format(one), frame.format(other), 0, "place")

    def vary(self, pair: Pair) -> Pair:
        """The pair as it may be typed: the order exchanged, politely, in a hurry, with an error, after a preamble."""
        asked, stored = (pair.asked, pair.stored) if self._chance.random() < 0.5 else (pair.stored, pair.asked)
        if self._chance.random() < 0.04:
            preamble = self._chance.choice(self._preambles)
            asked, stored = f"{preamble} {asked}", f"{preamble} {stored}"
        return Pair(self._typed(asked), self._typed(stored), pair.same, pair.source)

    def remember(self, preambles: Sequence[str]) -> None:
        """Texts that `vary` may put before both questions of a pair."""
        self._preambles = preambles

    def _typed(self, text: str) -> str:
        if self._chance.random() < 0.12:
            text = self._wrapped(text)
        if self._chance.random() < _QUESTION_MARKS:
            text = text.rstrip("?. ")
        if self._chance.random() < _QUESTION_MARKS:
            text = text.lower()
        return typos(text, self._chance) if self._chance.random() < 0.04 else text

    def _wrapped(self, text: str) -> str:
        wrap = str(self._chance.choice(self._lists["wraps"]))
        is_word = len(text) > 1 and text[1:2].islower() and not wrap.startswith("{}")
        return wrap.format(text[0].lower() + text[1:] if is_word else text)

    def _two(self, frames: Sequence[str]) -> tuple[str, str]:
        one, other = self._chance.sample(frames, 2)
        return one, other

    def _either(self, one: str, other: str, same: float, source: str) -> Pair:
        return Pair(one, other, same, source) if self._chance.random() < 0.5 else Pair(other, one, same, source)

    def _crossed(self, family: Sequence[Sequence[str]], groups: Mapping[str, Sequence[str]], source: str) -> Pair:
        pick, kind = self._chance.choice, self._chance.random()
        group = pick([*groups, next(iter(groups))])  # the first group is the most common thing to ask
        item = pick(family)
        one, other = self._two(groups[group])
        if kind < 0.5:
            return Pair(one.format(pick(item)), other.format(pick(item)), 1, source)
        if kind < 0.8:
            rest = pick([subject for subject in family if subject is not item])
            return Pair(one.format(pick(item)), pick([one, other]).format(pick(rest)), 0, source)
        second = pick([name for name in groups if name != group])
        return Pair(one.format(pick(item)), pick(groups[second]).format(pick(item)), 0, source)

    def _related(self, rule: Sequence[str], *, same_when_swapped: bool) -> Pair:
        kind, *frames = rule
        one, other, third = self._chance.sample(self._lists["operands"][kind], 3)
        first, second = self._two(frames)
        asked, chance = first.format(a=one, b=other), self._chance.random()
        source = "symmetric" if same_when_swapped else "directed"
        if chance < 0.3:
            return Pair(asked, second.format(a=one, b=other), 1, source)
        if chance < 0.75:
            again = first if self._chance.random() < 0.5 else second
            return Pair(asked, again.format(a=other, b=one), float(same_when_swapped), source)
        return Pair(asked, second.format(a=one, b=third), 0, source)
