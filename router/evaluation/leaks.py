"""Excludes texts that a model was trained on from its evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from router.errors import ConfigError, Problem
from router.inference.bundle import DIGEST_BYTES, TRAINED_ON, Bundle, digest

Case = TypeVar("Case")

_MAX_KNOWN = 0.01  # share of pairs that may match by accident, such as "hello" in two data sets
_MAX_LEFT_OUT = 0.5  # a file that is mostly training data is refused, because the rest is hardly independent


def without_trained_on(
    path: Path, bundle: Bundle, cases: Sequence[tuple[int, Case]], text_of: Callable[[Case], str]
) -> tuple[list[Case], list[str]]:
    """The cases that the model was not trained on, and a warning that names the lines of the others.

    Raises:
        ConfigError: the model was trained on most of them.
    """
    known = _trained_on(bundle)
    lines = [line for line, case in cases if _is_known(text_of(case), known)]
    if not lines:
        return [case for _, case in cases], []
    if len(lines) > _MAX_LEFT_OUT * len(cases):
        raise _refusal(path, len(lines), len(cases), lines)
    left_out = set(lines)
    warning = f"warning: {path}: the model was trained on {len(lines)} of {len(cases)} texts; left out: {_places(lines)}"
    return [case for line, case in cases if line not in left_out], [warning]


def refuse_trained_on(path: Path, bundle: Bundle, texts: Sequence[str]) -> None:
    """Raise `ConfigError` when the model was trained on more than a few of the texts. Each text is one line of `path`."""
    known = _trained_on(bundle)
    lines = [line for line, text in enumerate(texts, 1) if _is_known(text, known)]
    if len(lines) > _MAX_KNOWN * len(texts):
        raise _refusal(path, len(lines), len(texts), lines)


def _trained_on(bundle: Bundle) -> frozenset[bytes]:
    file = bundle.folder / TRAINED_ON
    stored = file.read_bytes() if file.is_file() else b""
    return frozenset(stored[at : at + DIGEST_BYTES] for at in range(0, len(stored), DIGEST_BYTES))


def _is_known(text: str, known: frozenset[bytes]) -> bool:
    return any(map(str.isalnum, text)) and digest(text) in known


def _refusal(path: Path, count: int, total: int, lines: Iterable[int]) -> ConfigError:
    message = f"the model was trained on {count} of {total} texts, so figures would say nothing. Use other texts: remove "
    return ConfigError([Problem(str(path), 0, "", message + _places(lines))])


def _places(lines: Iterable[int]) -> str:
    """`line 4`, or `lines 1 to 3, 7`."""
    spans: list[list[int]] = []
    for line in lines:
        if spans and line == spans[-1][1] + 1:
            spans[-1][1] = line
        else:
            spans.append([line, line])
    words = ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in spans)
    return f"line{'s' if len(spans) > 1 or spans[0][0] != spans[0][1] else ''} {words}"
