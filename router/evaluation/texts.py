"""Labelled texts: JSON lines of `text` and `label`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from router.evaluation.lines import read_cases

WANTED = 'a JSON object with "text" and "label"'


def read_labelled(path: Path) -> list[tuple[str, str]]:
    """Every text with its label; blank texts are left out. Raises as `read_cases` does."""
    return [case for _, case in read_cases(path, labelled_text, WANTED) if case[0].strip()]


def labelled_text(line: dict[str, Any]) -> tuple[str, str]:
    """Of one line."""
    return str(line["text"]), str(line["label"])
