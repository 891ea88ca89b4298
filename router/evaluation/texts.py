"""Reads labelled texts: JSON lines with `text` and `label`."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from router.evaluation.lines import read_cases

WANTED = 'a JSON object with "text" and "label"'


def read_labelled(path: Path) -> list[tuple[int, tuple[str, str]]]:
    """Every text with its label and line number. Blank texts are left out. Raises as `read_cases` does."""
    return [(line, case) for line, case in read_cases(path, labelled_text, WANTED) if case[0].strip()]


def groups_of(texts: Sequence[str]) -> list[int]:
    """A group number for each text. Texts that differ only in case, width, spacing and punctuation share one."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(_words(text), len(numbers)) for text in texts]


def _words(text: str) -> str:
    plain = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"[\W_]+", " ", plain).strip() or plain.strip()


def labelled_text(line: dict[str, object]) -> tuple[str, str]:
    """Text and label of one line."""
    return str(line["text"]), str(line["label"])
