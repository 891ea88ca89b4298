"""Reads labelled pairs of questions or of conversations: JSON lines with `a` (asked), `b` (stored), `y` and optional `tag`."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from router.core.text.conversation import NotCompared, Turn, as_text, why_not_compared
from router.errors import ConfigError, Problem

OTHER_NAMESPACE: Literal["other_namespace"] = "other_namespace"
"""Two conversations under different system messages: the cache never compares them."""
_SAID = ("user", "assistant")
_EXPECTED = (
    'a JSON object with "a", "b" and "y" (0 or 1) was expected; "a" and "b" are texts, or conversations: lists of {"role": ..., '
    '"content": text} with the roles system, developer, user and assistant, the last of them the user\'s'
)


@dataclass(frozen=True, slots=True)
class LabelledPair:
    """One line."""

    asked: str
    stored: str
    """Conversations are in the form of `as_text`."""
    is_same: bool
    """Whether one answer fits both."""
    tag: str
    is_of_conversations: bool = False
    apart: NotCompared | Literal["", "other_namespace"] = ""
    """Why two conversations never meet in the cache; empty when they do."""


def read_pairs(path: Path) -> list[LabelledPair]:
    """The pairs of a file, which may be compressed with gzip.

    Raises:
        ConfigError: the file does not have this form; every bad line is named.
    """
    pairs: list[LabelledPair] = []
    problems: list[Problem] = []
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    pairs.append(_pair(json.loads(line)))
                except (ValueError, KeyError, TypeError):
                    problems.append(Problem(str(path), number, "", _EXPECTED))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(str(path), 0, "", f"cannot be read: {error}")]) from None
    if problems or not pairs:
        raise ConfigError(problems or [Problem(str(path), 0, "", "holds no pairs")])
    return pairs


def _pair(line: Mapping[str, Any]) -> LabelledPair:
    """Raises ValueError, KeyError or TypeError when a line has another form."""
    is_same, tag = {1: True, 0: False}[line["y"]], str(line.get("tag", ""))
    if not isinstance(line["a"], list) and not isinstance(line["b"], list):
        return LabelledPair(str(line["a"]), str(line["b"]), is_same, tag)
    asked, stored = _turns(line["a"]), _turns(line["b"])
    asked_text, stored_text = as_text(_said(asked)), as_text(_said(stored))
    if list(_system(asked)) != list(_system(stored)):
        return LabelledPair(asked_text, stored_text, is_same, tag, is_of_conversations=True, apart=OTHER_NAMESPACE)
    reason = why_not_compared(_said(asked)) or why_not_compared(_said(stored))
    if reason and asked[:-1] == stored[:-1]:
        return LabelledPair(asked[-1].text, stored[-1].text, is_same, tag)  # the namespace then holds the earlier turns
    return LabelledPair(asked_text, stored_text, is_same, tag, is_of_conversations=True, apart=reason or "")


def _turns(messages: Sequence[Mapping[str, Any]]) -> list[Turn]:
    turns = []
    for message in messages:
        if message["role"] not in (*_SAID, "system", "developer") or not isinstance(message["content"], str):
            raise ValueError
        turns.append(Turn(message["role"], message["content"]))
    if not turns or turns[-1].role != "user":
        raise ValueError
    return turns


def _said(turns: Sequence[Turn]) -> list[Turn]:
    return [turn for turn in turns if turn.role in _SAID]


def _system(turns: Sequence[Turn]) -> Iterator[tuple[int, Turn]]:
    """The system messages, each with the number of turns before it."""
    count = 0
    for turn in turns:
        if turn.role in _SAID:
            count += 1
        else:
            yield count, turn
