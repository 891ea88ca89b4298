"""What one training text is, which texts are held back, and how a text may be mistyped."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from router.inference.bundle import digest

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
_TYPO_CHARS = 18  # one typo in so many characters: what cost a head on frozen vectors 7 points (.755 to .685)
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


def is_held_back(text: str) -> bool:
    """Whether a text belongs to the development split."""
    return _group(text)[0] * 100 < HELD_BACK_PERCENT * 256


def is_for_calibration(text: str) -> bool:
    """Whether a text that is held back sets the temperature and the threshold; figures are taken on the others."""
    return _group(text)[1] < 256 // 3


def _group(text: str) -> bytes:
    return digest(re.sub(r"\W+", " ", _PREFACE.sub("", text).lower()).strip()[:_GROUP_CHARS])


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


def own_lists(name: str) -> Any:
    """What we wrote by hand, from the YAML file `name` beside this one."""
    return yaml.safe_load((Path(__file__).parent / name).read_text(encoding="utf-8"))
