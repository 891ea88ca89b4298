"""Training sentences with personal data: a few handwritten templates, filled with many names and numbers."""

from __future__ import annotations

import csv
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from router.inference.bundle import digest
from router.inference.spans import joined
from router.training.examples import HELD_BACK_PERCENT, NO_LABEL, Example

FOLDER = "presidio_pii"
_MADE = 12_000
_PLACE = re.compile(r"\{\{(\w+)\}\}")
_IN_DIGITS = ("CREDIT_CARD", "PHONE_NUMBER", "US_SSN", "IBAN_CODE", "US_DRIVER_LICENSE", "IP_ADDRESS")
_NOT_PERSONAL: Mapping[str, Sequence[str]] = {
    "nationality": ("American", "French", "Indian", "German", "Swedish", "Brazilian", "Japanese", "Kenyan", "Polish", "Italian"),
    "year": ("1974", "1986", "1999", "2001", "2008", "2015", "2019", "2023"),
    "age": ("19", "24", "37", "45", "62", "twelve", "thirty"),
}
"""Values for template fields that the data set does not annotate."""
_MAY_BE_PERSONAL = re.compile(r"\d|(?<!^)\b(?!I\b)[A-Z]")

Filling = tuple[str, str]
"""A value and its kind."""


def sentences(data: Path) -> tuple[list[Example], list[Example]]:
    """Sentences to train on and held-back ones, split by template, so that held-back templates are never trained on.

    Spans of one kind with only space between them are one, as in `joined`.
    """
    train: list[Example] = []
    held_back: list[Example] = []
    templates: dict[str, None] = {}
    values: dict[str, list[Filling]] = {}
    for line in json.loads((data / FOLDER / "generated_large.json").read_text(encoding="utf-8")):
        places = sorted((span["start_position"], span["end_position"], span["entity_type"]) for span in line["spans"])
        text, template = line["full_text"], line["masked"]
        example = _example(text, joined(text, places), "presidio")
        if _is_held_back(template):
            held_back.append(example)
            continue
        train.append(example)
        templates[template] = None
        for name, (start, end, kind) in zip(_PLACE.findall(template), places, strict=True):
            values.setdefault(name, []).append((text[start:end], kind))
    for line in (data / FOLDER / "templates.txt").read_text(encoding="utf-8").splitlines():
        template = line.strip().replace("\\n", "\n")
        if not _is_held_back(template) and set(_PLACE.findall(template)) <= {*values, *_NOT_PERSONAL}:
            templates[template] = None
    chance = random.Random(11)  # noqa: S311 - reproducible on purpose
    known = list(templates)
    train += [_filled(chance.choice(known), values, chance) for _ in range(_MADE)]
    return train, held_back


def without_any(data: Path) -> Iterator[Example]:
    """Questions to a bank without numbers and names, so without personal data."""
    with (data / "banking77" / "train.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            text = row["text"].strip()
            if not _MAY_BE_PERSONAL.search(text):
                yield _example(text, set(), "nothing personal")


def _is_held_back(template: str) -> bool:
    return digest(re.sub(r"\W+", " ", template))[0] * 100 < HELD_BACK_PERCENT * 256


def _filled(template: str, values: Mapping[str, Sequence[Filling]], chance: random.Random) -> Example:
    text, spans, last = "", [], 0
    for place in _PLACE.finditer(template):
        text += template[last : place.start()]
        if place[1] in _NOT_PERSONAL:
            value = chance.choice(_NOT_PERSONAL[place[1]])
        else:
            value, kind = chance.choice(values[place[1]])
            if kind in _IN_DIGITS:
                value = re.sub(r"\d", lambda _: str(chance.randrange(10)), value)
            spans.append((len(text), len(text) + len(value), kind))
        text, last = text + value, place.end()
    text += template[last:]
    if chance.random() < 0.2:
        lower = text.lower()
        text = lower if len(lower) == len(text) else text  # a few letters change their length
    return _example(text, joined(text, spans), "refilled")


def _example(text: str, spans: set[tuple[int, int, str]], source: str) -> Example:
    return Example(text, "", source, spans=tuple(sorted(spans)), attack=NO_LABEL)
