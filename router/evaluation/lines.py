"""Reads JSON lines, each with a text and other fields for a measurement."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from router.errors import ConfigError, Problem

JsonLine = dict[str, Any]
"""The object of a line, before its fields are checked."""
Case = TypeVar("Case")


class UnfitError(Exception):
    """A line is well formed, but one of its fields cannot be used. Caught in this module."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field, self.message = field, message


def read_cases(path: Path, read: Callable[[JsonLine], Case], wanted: str) -> list[tuple[int, Case]]:
    """Read each line's object with `read`. Returns the results with their line numbers. Blank lines are left out.

    `wanted` describes a line. `read` may raise KeyError, TypeError or ValueError for any other line, and `UnfitError`.

    Raises:
        ConfigError: the file cannot be read, is empty, or has wrong lines; each is named.
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
        problems.append(Problem(str(path), 0, "", f"is empty; {wanted} on each line was expected"))
    if problems:
        raise ConfigError(problems)
    return found
