"""Defines a training example, the split, and typing errors."""

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
_GROUP_CHARS = 40  # questions with equal beginnings are often twins with other numbers, so they stay on one side of the split
_PREFACE = re.compile(
    r"^this question refers to the following information\W*(read the.*?questions?\W+)?", re.IGNORECASE | re.DOTALL
)
"""The phrase before a quoted passage. If it counted, most history questions would be on one side of the split."""
_TYPO_CHARS = 18  # one typo in so many characters; it cost a head on frozen vectors 7 points (.755 to .685)
_LETTERS = "abcdefghijklmnopqrstuvwxyz"

ATTACKS = ("benign", "jailbreak", "harmful")
"""Harmless, an attempt to make the model ignore its instructions, or a request for harm."""
CLASSES = ("personal", "timely", "variety")
"""What may keep an answer from being given to a later asker: it depends on who asks, on when, or should differ each time."""
LEVELS = ("1", "2", "3", "4")
"""How much model a prompt needs: trivial, simple, demanding, hard."""
KINDS = (
    "ACCOUNT", "ADDRESS", "AGE", "CREDIT_CARD", "DATE_OF_BIRTH", "DATE_TIME", "DOMAIN_NAME", "EMAIL_ADDRESS", "IBAN_CODE",
    "IP_ADDRESS", "LOCATION", "MEDICAL", "NATIONAL_ID", "ORGANIZATION", "PASSWORD", "PERSON", "PHONE_NUMBER", "PREFIX", "TITLE",
    "URL", "USERNAME", "US_DRIVER_LICENSE", "US_SSN", "VEHICLE",
)  # fmt: skip
"""The kinds of personal data, by Presidio's names where it has one."""
NO_LABEL = -100
"""PyTorch's value for a missing target."""


@dataclass(frozen=True, slots=True)
class Example:
    """A text with its category."""

    text: str
    label: str
    """The category; empty for none."""
    source: str
    options: tuple[str, ...] = ()
    """The answers that an exam offers; used to vary the text in training only."""
    subject: str = ""
    """The exam of a question: a finer label, used only in training."""
    outcomes: tuple[float, ...] = ()
    """1 or 0 for each recorded model, right or wrong. NaN where it did not answer."""
    attack: int = 0
    """Its index in `ATTACKS`, or `NO_LABEL`."""
    spans: tuple[tuple[int, int, str], ...] | None = None
    """The personal data: start, end, kind. None where the text is not annotated."""
    classes: tuple[float, ...] = ()
    """1 or 0 for each of `CLASSES`; empty where unknown."""
    level: int = NO_LABEL
    """Its index in `LEVELS`, or `NO_LABEL`."""
    is_apart: bool | None = None
    """Whether it is held back, where the text does not decide this."""

    @property
    def is_held_back(self) -> bool:
        """Whether it belongs to the development split."""
        return is_held_back(self.text) if self.is_apart is None else self.is_apart


def is_held_back(text: str) -> bool:
    """Whether a text belongs to the development split."""
    return _group(text)[0] * 100 < HELD_BACK_PERCENT * 256


def is_for_calibration(text: str) -> bool:
    """Whether a held-back text is used for temperatures and thresholds. The others are used for the figures."""
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
    """Our own texts from the YAML file `name` beside this one."""
    return yaml.safe_load((Path(__file__).parent / name).read_text(encoding="utf-8"))
