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
from typing import Any

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

ATTACKS = ("benign", "jailbreak", "harmful")
"""What a prompt tries: nothing of the kind, to talk the model out of its instructions, or to get something harmful."""
KINDS = (
    "ADDRESS", "CREDIT_CARD", "DATE_TIME", "DOMAIN_NAME", "EMAIL_ADDRESS", "IBAN_CODE", "IP_ADDRESS", "LOCATION", "ORGANIZATION",
    "PERSON", "PHONE_NUMBER", "PREFIX", "TITLE", "US_DRIVER_LICENSE", "US_SSN",
)  # fmt: skip
"""Personal data that is told apart, by Presidio's names."""
NO_LABEL = -100
"""PyTorch's mark for a target that is not there."""

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
)
"""File, name and licence of every data set; the YAML files beside this file are our own."""

FOLDERS = {
    **dict.fromkeys(("math", "mbpp", "human_eval", "commonsense_qa"), "llmrouter_queries"),
    "presidio": "presidio_pii",
}
"""Of the sources whose folder has another name."""


@dataclass(frozen=True, slots=True)
class Example:
    """A text with its category."""

    text: str
    label: str
    """The category; empty where a text has none."""
    source: str
    options: tuple[str, ...] = ()
    """The answers that an exam offers; used to vary the text in training only."""
    subject: str = ""
    """The exam that a question is from; a finer label that training alone uses."""
    outcomes: tuple[float, ...] = ()
    """1 or 0 for each recorded model, right or wrong; NaN where it was not run."""
    attack: int = 0
    """Its place in `ATTACKS`, or `NO_LABEL`."""
    spans: tuple[tuple[int, int, str], ...] | None = None
    """Where personal data stands: start, end, kind. None where nobody marked it."""


def read(data: Path, without: frozenset[str] = frozenset()) -> tuple[list[Example], list[Example]]:
    """All examples of the data sets in the folder `data`: those to train on, and those held back.

    The split is by a hash of how a text begins, so it is the same on every machine. Nothing is trained on of the data sets that
    `without` names by folder; what is held back of them still measures.
    """
    examples = [*_mmlu_pro(data), *_everyday(data), *_tasks(data), *_attacks(data), *_personal(data)]
    used = [example for example in examples if FOLDERS.get(example.source, example.source) not in without]
    train = [example for example in [*used, *natural(), *safety()] if not is_held_back(example.text)]
    held_back = [example for example in examples if is_held_back(example.text)]
    return _without_contradictions(train), held_back


def _without_contradictions(examples: Sequence[Example]) -> list[Example]:
    """Texts that occur under two labels say nothing about either ("Which of the following is true?")."""
    labels: dict[bytes, set[str]] = {}
    for example in examples:
        if example.label:
            labels.setdefault(digest(example.text), set()).add(example.label)
    return [example for example in examples if len(labels.get(digest(example.text), ())) <= 1]


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


def _attacks(data: Path) -> Iterator[Example]:
    with (data / "jailbreak" / "jailbreak_prompts_train.csv").open(encoding="utf-8", newline="") as file:
        yield from (Example(row["prompt"].strip(), "", "jailbreak", attack=1) for row in csv.DictReader(file))
    with (data / "advbench" / "harmful_behaviors.csv").open(encoding="utf-8", newline="") as file:
        yield from (Example(row["target"], "", "advbench", attack=2) for row in csv.DictReader(file))


def safety() -> list[Example]:
    """Our own attacks, and harmless prompts that look like them."""
    lists = _yaml("safety.yaml")
    examples = [Example(text, "", "lookalike") for text in lists["lookalike"]]
    return examples + [Example(text, "", "injection", attack=1) for text in lists["injection"]]


def safety_held_back() -> list[Example]:
    """The same, never trained on."""
    lists = _yaml("safety.yaml")["held_back"]
    attacks = [Example(text, "", "own attack", attack=1) for text in lists["attack"]]
    return attacks + [Example(text, "", "own lookalike") for text in lists["harmless"]]


def _yaml(name: str) -> Any:
    return yaml.safe_load((Path(__file__).parent / name).read_text(encoding="utf-8"))


def _personal(data: Path) -> Iterator[Example]:
    for sentence in json.loads((data / "presidio_pii" / "generated_large.json").read_text(encoding="utf-8")):
        spans = sorted((span["start_position"], span["end_position"], span["entity_type"]) for span in sentence["spans"])
        yield Example(sentence["full_text"], "", "presidio", (sentence["masked"],), spans=tuple(spans), attack=NO_LABEL)


class Refiller:
    """Puts other names and numbers into the sentences with personal data: few templates, many sentences."""

    _PLACE = re.compile(r"\{\{(\w+)\}\}")
    _IN_DIGITS = ("CREDIT_CARD", "PHONE_NUMBER", "US_SSN", "IBAN_CODE", "US_DRIVER_LICENSE", "IP_ADDRESS")

    def __init__(self, examples: Iterable[Example]) -> None:
        self._values: dict[str, list[tuple[str, str]]] = {}
        self._templates: list[str] = []
        for example in examples:
            names = self._PLACE.findall(example.options[0])
            if example.spans is not None and len(names) == len(example.spans):
                self._templates.append(example.options[0])
                for name, (start, end, kind) in zip(names, example.spans, strict=True):
                    self._values.setdefault(name, []).append((example.text[start:end], kind))

    def make(self, chance: random.Random) -> Example:
        """One sentence."""
        text, spans, last = "", [], 0
        template = chance.choice(self._templates)
        for place in self._PLACE.finditer(template):
            value, kind = chance.choice(self._values[place[1]])
            if kind in self._IN_DIGITS:
                value = re.sub(r"\d", lambda _: str(chance.randrange(10)), value)
            text += template[last : place.start()]
            spans.append((len(text), len(text) + len(value), kind))
            text, last = text + value, place.end()
        text += template[last:]
        if chance.random() < 0.15:
            text = text.lower()
        return Example(text, "", "presidio", spans=tuple(spans), attack=NO_LABEL)


class Attacker:
    """Makes attacks out of openings, rules and requests, and hides injections in other texts."""

    def __init__(self, examples: Sequence[Example]) -> None:
        lists = _yaml("safety.yaml")
        self._parts: dict[str, list[str]] = lists["jailbreak"]
        self._injections: list[str] = lists["injection"]
        self._lookalikes: list[str] = lists["lookalike"]
        self._talk = [example.text for example in examples if example.source in ("clinc150", "banking77", "natural")]
        self._harmful = [example.text for example in examples if example.source == "advbench"]
        self._prompts = [example.text for example in examples if example.source == "jailbreak"]

    def make(self, chance: random.Random) -> Example:
        """An attack of any kind, or a harmless text of the same shape."""
        pick, kind = chance.choice, chance.random()
        if kind < 0.35:
            name, parts = pick(self._parts["names"]), self._parts
            request = pick(parts["requests"]).format(pick(self._harmful + self._talk[: len(self._harmful)]))
            rules = chance.sample(parts["rules"], chance.randrange(0, 4))
            text = " ".join([pick(parts["openings"]), *rules, request]).replace("{name}", name)
            return Example(text, "", "made attack", attack=1)
        if kind < 0.6:
            prompt = pick(self._prompts)
            start = chance.randrange(max(1, len(prompt) - 200)) if chance.random() < 0.5 else 0
            return Example(prompt[start : start + 600], "", "made attack", attack=1 if start == 0 else NO_LABEL)
        if kind < 0.75:
            return Example(self._joined(chance, pick(self._injections)), "", "made attack", attack=1)
        return Example(self._joined(chance, pick(self._lookalikes)), "", "made harmless", attack=0)

    def _joined(self, chance: random.Random, text: str) -> str:
        talk, where = chance.choice(self._talk), chance.random()
        return f"{talk} {text}" if where < 0.3 else f"{text} {talk}" if where < 0.5 else text


def natural() -> list[Example]:
    """Our own subjects in everyday phrasings: every subject in every phrasing of its category."""
    topics, phrasings = _yaml("topics.yaml"), _yaml("phrasings.yaml")
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
    if example.spans is None and chance.random() < 0.35:
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
