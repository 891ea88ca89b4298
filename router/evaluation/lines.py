"""JSON lines with a text each, and whatever else a measurement needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from router.errors import ConfigError, Problem

JsonLine = dict[str, Any]
"""A line's object. Whoever reads it names the fields that he expects; what is something else raises, and the line is named."""
Case = TypeVar("Case")


class UnfitError(Exception):
    """A line is well formed, but a field of it cannot be used; caught here."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field, self.message = field, message


def read_cases(path: Path, read: Callable[[JsonLine], Case], wanted: str) -> list[tuple[int, Case]]:
    """Each line as `read` makes it of the line's object, under the line's number; blank lines are left out.

    `read` may raise KeyError, TypeError or ValueError for what is not `wanted`, which says what was expected, and `UnfitError`.

    Raises:
        ConfigError: the file cannot be read, holds nothing, or has lines that are something else; each is named.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(str(path), 0, "", f"cannot be read: {error}")]) from None
    found: list[tuple[int, Case]] = []
    problems: list[Problem] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append((number, read(json.loads(line))))
        except UnfitError as error:
            problems.append(Problem(str(path), number, error.field, error.message))
        except (ValueError, KeyError, TypeError, AttributeError):
            problems.append(Problem(str(path), number, "", f"{wanted} was expected"))
    if not found and not problems:
        problems.append(Problem(str(path), 0, "", f"holds nothing; {wanted} on each line was expected"))
    if problems:
        raise ConfigError(problems)
    return found
