"""The encoder's training and evaluation data: its sources, its split, and its variations."""

from __future__ import annotations

import csv
import gzip
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

from router.inference.bundle import digest
from router.training.attacks import attacks, made, safety
from router.training.examples import LEVELS, NO_LABEL, Example, own_lists, typos
from router.training.personal import sentences, without_any
from router.training.prompts import read_labelled, read_marked

SOURCES = (
    ("mmlu_pro/questions_train.jsonl.gz", "MMLU-Pro", "MIT"),
    ("mmlu_pro/correct_train.csv.gz", "MMLU-Pro's recorded answers", "Apache-2.0"),
    ("clinc150/data_train_val.json", "CLINC150", "CC-BY-3.0"),
    ("banking77/train.csv", "BANKING77", "CC-BY-4.0"),
    ("llmrouter_queries/default_query_train.jsonl", "LLMRouter queries (MATH, MBPP, HumanEval, CommonsenseQA)", "MIT"),
    ("gsm8k/train.jsonl", "GSM8K", "MIT"),
    (
        "jailbreak/jailbreak_prompts_train.csv",
        "Self-Reminder jailbreak prompts",
        "research data of Xie et al. (2023), see its repository",
    ),
    ("advbench/harmful_behaviors.csv", "AdvBench", "MIT"),
    ("presidio_pii/generated_large.json", "Presidio research, synthetic sentences", "MIT"),
    ("cacheability/labels.txt", "prompts by whether an answer may be kept", "Apache-2.0"),
    ("complexity/complexity.txt", "prompts by subject and complexity", "Apache-2.0"),
    ("pii_prompts/pii.txt", "prompts with personal data", "Apache-2.0"),
)
"""File, name and licence of every data set; the groups of `prompt_pairs` come on top. The files in `written/` and the YAML files
beside this file are our own."""
NOT_FREE = frozenset({"jailbreak", "gptcache_qqp", "synth_guard"})
"""The data sets that forbid commercial use or state no licence. The shipped models are trained without them."""

FOLDERS = {
    **dict.fromkeys(("math", "mbpp", "human_eval", "commonsense_qa"), "llmrouter_queries"),
    **dict.fromkeys(("presidio", "refilled"), "presidio_pii"),
    "nothing personal": "banking77",
}
"""The folders of sources whose folder has another name."""


_ASIDES, _MISTYPED = 0.35, 0.45
"""The shares of texts that are varied with an aside and with typing errors."""


def read(data: Path, without: frozenset[str] = frozenset()) -> tuple[list[Example], list[Example]]:
    """All examples of the data sets in the folder `data`: those to train on, and those held back.

    The split depends on a hash of a text's beginning, or of the template of a sentence with personal data, so it is the same on
    every machine. Data sets whose folder is in `without` are not trained on; their held-back texts are still measured on.
    """
    examples = [*_mmlu_pro(data), *_everyday(data), *_tasks(data), *attacks(data), *_prompts(data)]
    used = [*examples, *without_any(data), *natural(), *safety()]
    train = [example for example in used if _folder(example) not in without and not example.is_held_back]
    named, named_held_back = sentences(data)
    train += [*made(train), *(example for example in named if _folder(example) not in without)]
    held_back = [e for e in examples if e.is_held_back or _folder(e) in without]
    return _without_contradictions(train), held_back + named_held_back


_CLASSES_OF = {
    "S": (0.0, 0.0, 0.0), "P": (1.0, 0.0, 0.0), "T": (0.0, 1.0, 0.0), "B": (1.0, 1.0, 0.0), "R": (0.0, 0.0, 1.0),
}  # fmt: skip
"""`CLASSES` of the letters of cacheability."""
_KIND_NAMES = {
    "EMAIL": "EMAIL_ADDRESS", "PHONE": "PHONE_NUMBER", "ORG": "ORGANIZATION", "CARD": "CREDIT_CARD", "IBAN": "IBAN_CODE",
    "IP": "IP_ADDRESS",
}  # fmt: skip
"""Presidio's names of kinds that the marked prompts name otherwise."""


def _prompts(data: Path) -> Iterator[Example]:
    """The prompts that were written by hand."""
    for text, letter in read_labelled(data, "cacheability"):
        yield Example(text, "", "cacheability", classes=_CLASSES_OF[letter])
    for text, label in read_labelled(data, "complexity"):
        level, category = label.split(" ", 1)
        yield Example(text, category, "complexity", level=LEVELS.index(level))
    for text, spans in read_marked(data):
        named = [(start, end, _KIND_NAMES.get(kind, kind)) for start, end, kind in spans]
        yield Example(text, "", "pii_prompts", spans=tuple(named), attack=NO_LABEL)
    for place, (text, label) in enumerate(read_labelled(data, "safety")):
        is_apart = place // _BLOCK % 7 == 3
        yield Example(text, "", "safety", attack=_ATTACKS_OF[label], is_apart=is_apart)


_BLOCK = 20
"""Prompts in a row that stay on one side of the split: a harmless one is often the twin of a harmful one beside it."""
_ATTACKS_OF = {"harmless": 0, "jailbreak": 1, "harmful": 2}


def _folder(example: Example) -> str:
    return FOLDERS.get(example.source, example.source)


def _without_contradictions(examples: Sequence[Example]) -> list[Example]:
    """Remove texts with two labels, such as "Which of the following is true?", because they teach neither."""
    labels: dict[bytes, set[str]] = {}
    for example in examples:
        if example.label:
            labels.setdefault(digest(example.text), set()).add(example.label)
    return [example for example in examples if len(labels.get(digest(example.text), ())) <= 1]


def _lines(path: Path) -> Iterator[dict[str, object]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def recorded_models(data: Path) -> tuple[str, ...]:
    """The models whose answers are recorded, in the order of `Example.outcomes`."""
    with gzip.open(data / "mmlu_pro" / "correct_train.csv.gz", "rt", encoding="utf-8") as file:
        return tuple(next(csv.reader(file))[1:])


def _mmlu_pro(data: Path) -> Iterator[Example]:
    with gzip.open(data / "mmlu_pro" / "correct_train.csv.gz", "rt", encoding="utf-8") as file:
        rows = csv.reader(file)
        next(rows)
        outcomes = {row[0]: tuple(float(cell or "nan") for cell in row[1:]) for row in rows}
    for line in _lines(data / "mmlu_pro" / "questions_train.jsonl.gz"):
        options = line["options"]
        assert isinstance(options, list)  # noqa: S101 - the data set's own schema
        yield Example(
            str(line["q"]), str(line["cat"]), "mmlu_pro", tuple(map(str, options)), str(line["src"]), outcomes[str(line["id"])]
        )


def _everyday(data: Path) -> Iterator[Example]:
    """What people say to assistants and to their bank. It is `other`, even if it shares words with a science."""
    clinc = json.loads((data / "clinc150" / "data_train_val.json").read_text(encoding="utf-8"))
    for part in ("train", "oos_train"):  # the others measure heads on operators' own labels
        yield from (Example(text, "other", "clinc150") for text, _ in clinc[part])
    with (data / "banking77" / "train.csv").open(encoding="utf-8", newline="") as file:
        yield from (Example(row["text"], "other", "banking77") for row in csv.DictReader(file))


_TASKS = {"math": "math", "mbpp": "computer science", "human_eval": "computer science", "commonsense_qa": "other"}


def _tasks(data: Path) -> Iterator[Example]:
    """Data sets whose texts all have one category."""
    for line in _lines(data / "llmrouter_queries" / "default_query_train.jsonl"):
        task = str(line["task_name"])
        if task in _TASKS:
            yield Example(str(line["query"]), _TASKS[task], task)
    yield from (Example(str(line["question"]), "math", "gsm8k") for line in _lines(data / "gsm8k" / "train.jsonl"))


def natural() -> list[Example]:
    """Our own subjects in everyday phrasings: every subject in every phrasing of its category."""
    topics, phrasings = own_lists("topics.yaml"), own_lists("phrasings.yaml")
    examples = [Example(text, "other", "chat") for text in phrasings["chat"]]
    for label, subjects in topics.items():
        frames = [*phrasings["any"], *phrasings.get(label, ())]
        examples += [Example(frame.format(subject), label, "natural") for subject in subjects for frame in frames]
    return examples


@cache
def _asides() -> list[str]:
    return list(own_lists("phrasings.yaml")["asides"])


def vary(example: Example, chance: random.Random) -> str:
    """A random variation of the text, as a person might type it."""
    text = example.text
    if example.source == "natural" and chance.random() < _ASIDES:
        text = chance.choice(_asides()).format(text)
    if example.options and chance.random() < 0.2:
        text = f"{text}\n" + "\n".join(
            f"{letter}. {option}" for letter, option in zip("ABCDEFGHIJ", example.options, strict=False)
        )
    if example.spans is None and chance.random() < _MISTYPED:
        text = typos(text, chance)
    return text


def epoch(examples: Iterable[Example], chance: random.Random, shares: dict[str, int]) -> list[Example]:
    """The examples of one epoch: a source's share, drawn anew; where it has fewer, each occurs more than once."""
    by_source: dict[str, list[Example]] = {}
    for example in examples:
        by_source.setdefault(example.source, []).append(example)
    chosen: list[Example] = []
    for source, members in by_source.items():
        share = shares.get(source, len(members))
        again, rest = divmod(share, len(members))
        chosen += [*(members * again), *chance.sample(members, rest)]
    chance.shuffle(chosen)
    return chosen
