"""The data that the shipped model is trained and judged on: where it comes from, how it is split, how it is varied."""

from __future__ import annotations

import csv
import gzip
import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from router.signals.bundle import digest

LABELS = (
    "biology", "business", "chemistry", "computer science", "economics", "engineering", "health",
    "history", "law", "math", "other", "philosophy", "physics", "psychology",
)  # fmt: skip
"""The 14 categories of MMLU-Pro, in the order of the model's outputs."""

HELD_BACK_PERCENT = 15
_GROUP_CHARS = 40  # questions that begin alike are often twins with other numbers: they stay on one side of the split
_PREFACE = re.compile(
    r"^this question refers to the following information\W*(read the.*?questions?\W+)?", re.IGNORECASE | re.DOTALL
)
"""Before the passage that a question is about; by this alone, most of history would fall on one side."""
_TYPO_CHARS = 18  # one typo in so many characters, the rate at which quality.md measured robustness
_LETTERS = "abcdefghijklmnopqrstuvwxyz"

SOURCES = (
    ("mmlu_pro/questions_train.jsonl.gz", "MMLU-Pro", "MIT"),
    ("clinc150/data_train_val.json", "CLINC150", "CC-BY-3.0"),
    ("banking77/train.csv", "BANKING77", "CC-BY-4.0"),
    ("llmrouter_queries/default_query_train.jsonl", "LLMRouter queries (MATH, MBPP, HumanEval, CommonsenseQA)", "MIT"),
    ("gsm8k/train.jsonl", "GSM8K", "MIT"),
)
"""File, name and licence of every data set; topics.yaml and phrasings.yaml beside this file are our own."""


@dataclass(frozen=True, slots=True)
class Example:
    """A text with its category."""

    text: str
    label: str
    source: str
    options: tuple[str, ...] = ()
    """The answers that an exam offers; used to vary the text in training only."""


def read(data: Path) -> tuple[list[Example], list[Example]]:
    """All examples of the data sets in the folder `data`: those to train on, and those held back.

    The split is by a hash of how a text begins, so it is the same on every machine.
    """
    examples = [*_mmlu_pro(data), *_everyday(data), *_tasks(data)]
    train = [example for example in [*examples, *natural()] if not is_held_back(example.text)]
    held_back = [example for example in examples if is_held_back(example.text)]
    return _without_contradictions(train), held_back


def _without_contradictions(examples: Sequence[Example]) -> list[Example]:
    """Texts that occur under two labels say nothing about either ("Which of the following is true?")."""
    labels: dict[bytes, set[str]] = {}
    for example in examples:
        labels.setdefault(digest(example.text), set()).add(example.label)
    return [example for example in examples if len(labels[digest(example.text)]) == 1]


def is_held_back(text: str) -> bool:
    """Whether a text belongs to the development split."""
    return _group(text)[0] * 100 < HELD_BACK_PERCENT * 256


def is_for_calibration(text: str) -> bool:
    """Whether a text that is held back sets the temperature and the threshold; figures are taken on the others."""
    return _group(text)[1] < 256 // 3


def _group(text: str) -> bytes:
    return digest(re.sub(r"\W+", " ", _PREFACE.sub("", text).lower()).strip()[:_GROUP_CHARS])


def _lines(path: Path) -> Iterator[dict[str, object]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def _mmlu_pro(data: Path) -> Iterator[Example]:
    for line in _lines(data / "mmlu_pro" / "questions_train.jsonl.gz"):
        options = line["options"]
        assert isinstance(options, list)  # noqa: S101 - the data set's own schema
        yield Example(str(line["q"]), str(line["cat"]), "mmlu_pro", tuple(map(str, options)))


def _everyday(data: Path) -> Iterator[Example]:
    """What people say to assistants and to their bank. It is `other`, however many words it shares with a science."""
    clinc = json.loads((data / "clinc150" / "data_train_val.json").read_text(encoding="utf-8"))
    for part in ("train", "oos_train", "val", "oos_val"):
        yield from (Example(text, "other", "clinc150") for text, _ in clinc[part])
    with (data / "banking77" / "train.csv").open(encoding="utf-8", newline="") as file:
        yield from (Example(row["text"], "other", "banking77") for row in csv.DictReader(file))


_TASKS = {"math": "math", "mbpp": "computer science", "human_eval": "computer science", "commonsense_qa": "other"}


def _tasks(data: Path) -> Iterator[Example]:
    """Data sets that are of one category as a whole."""
    for line in _lines(data / "llmrouter_queries" / "default_query_train.jsonl"):
        task = str(line["task_name"])
        if task in _TASKS:
            yield Example(str(line["query"]), _TASKS[task], task)
    yield from (Example(str(line["question"]), "math", "gsm8k") for line in _lines(data / "gsm8k" / "train.jsonl"))


def natural() -> list[Example]:
    """Our own subjects in everyday phrasings: every subject in every phrasing of its category."""
    folder = Path(__file__).parent
    topics = yaml.safe_load((folder / "topics.yaml").read_text(encoding="utf-8"))
    phrasings = yaml.safe_load((folder / "phrasings.yaml").read_text(encoding="utf-8"))
    examples = [Example(text, "other", "chat") for text in phrasings["chat"]]
    for label, subjects in topics.items():
        frames = [*phrasings["any"], *phrasings.get(label, ())]
        examples += [Example(frame.format(subject), label, "natural") for subject in subjects for frame in frames]
    return examples


def vary(example: Example, chance: random.Random) -> str:
    """One of the many ways in which the same thing may be typed."""
    text = example.text
    if example.options and chance.random() < 0.2:
        text = f"{text}\n" + "\n".join(
            f"{letter}. {option}" for letter, option in zip("ABCDEFGHIJ", example.options, strict=False)
        )
    if chance.random() < 0.2:
        text = typos(text, chance)
    return text


def typos(text: str, chance: random.Random) -> str:
    """`text` with one typing error in 18 characters on average: a letter dropped, doubled, swapped or replaced."""
    letters = list(text)
    for _ in range(len(letters) // _TYPO_CHARS):
        at = chance.randrange(len(letters))
        kind = chance.randrange(4)
        if kind == 0:
            letters[at] = ""
        elif kind == 1:
            letters[at] *= 2
        elif kind == 2 and at + 1 < len(letters):
            letters[at], letters[at + 1] = letters[at + 1], letters[at]
        else:
            letters[at] = chance.choice(_LETTERS)
    return "".join(letters)


def epoch(examples: Iterable[Example], chance: random.Random, shares: dict[str, int]) -> list[Example]:
    """The examples of one epoch: of each source at most its share, drawn anew."""
    by_source: dict[str, list[Example]] = {}
    for example in examples:
        by_source.setdefault(example.source, []).append(example)
    chosen: list[Example] = []
    for source, members in by_source.items():
        share = shares.get(source, len(members))
        chosen += members if share >= len(members) else chance.sample(members, share)
    chance.shuffle(chosen)
    return chosen
