"""Reads the prompts that were written by hand for this project: those of the data sets, and our own in `written/`.

All of them are Apache-2.0. `written/README.md` tells the formats. Nothing is changed in a text except that `\\n` becomes a line
break: a case or a sign may be all that tells two prompts apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from router.core.text.conversation import Turn
from router.inference.bundle import digest
from router.training.examples import HELD_BACK_PERCENT

WRITTEN = Path(__file__).parent / "written"
_BLANK_LINES = re.compile(r"\n[ \t]*\n")
_SPAN = re.compile(r"\[\[(\w+):(.*?)\]\]", re.DOTALL)
_TURN_BREAK = " || "
_ROLES = {"s": "system", "u": "user", "a": "assistant"}


@dataclass(frozen=True, slots=True)
class Line:
    """One prompt of a group, or one conversation of a case."""

    text: str
    kind: str
    """How it differs from the anchor, such as `free` or `number`; `anchor` for the anchor itself."""


@dataclass(frozen=True, slots=True)
class Group:
    """Prompts that want one answer, and prompts that look alike but want another."""

    field: str
    """Where such prompts come from, such as `service`."""
    same: tuple[Line, ...]
    """The anchor first. Each of them wants the same answer."""
    different: tuple[Line, ...]
    """Each wants another answer than all of `same`; two of them may want one answer."""

    @property
    def is_held_back(self) -> bool:
        """Whether the group is only measured on."""
        return digest(self.same[0].text)[0] * 100 < HELD_BACK_PERCENT * 256

    @property
    def is_for_calibration(self) -> bool:
        """Whether a held-back group sets thresholds. The others give the figures."""
        return digest(self.same[0].text)[1] < 256 // 2


Variant = tuple[tuple[Turn, ...], str]
"""A conversation, and how it differs from the stored one."""


@dataclass(frozen=True, slots=True)
class Case:
    """A conversation, others that want the same last answer, and others that want another."""

    stored: tuple[Turn, ...]
    same: tuple[Variant, ...]
    different: tuple[Variant, ...]

    @property
    def is_held_back(self) -> bool:
        """Whether the case is only measured on."""
        return digest(" ".join(turn.text for turn in self.stored))[0] * 100 < HELD_BACK_PERCENT * 256


def read_groups(data: Path) -> list[Group]:
    """All groups, those of the folder `data` first."""
    files = sorted((data / "prompt_pairs").glob("*.txt")) + sorted(WRITTEN.glob("pairs_*.txt"))
    return [_group(file, block) for file in files for block in _blocks(file)]


def _group(file: Path, block: Sequence[str]) -> Group:
    same, different = list[Line](), list[Line]()
    for line in block:
        kind, text = line.split(" ", 1)
        read = Line(_text(text), kind[1:] or "anchor")
        (different if kind[0] == "-" else same).append(read)
    return Group(re.sub(r"^pairs_|\d+$", "", file.stem), tuple(same), tuple(different))


def read_conversations(data: Path) -> list[Case]:
    """All cases of conversations."""
    files = (data / "conversations" / "conversations.txt", *WRITTEN.glob("conversations.txt"))
    return [_case(block) for file in files for block in _blocks(file)]


def _case(block: Sequence[str]) -> Case:
    stored, same, different = list[Turn](), list[Variant](), list[Variant]()
    for line in block:
        kind, text = line.split(" ", 1)
        if kind == "A":
            stored.append(_turn(text))
        else:
            turns = tuple(map(_turn, text.split(_TURN_BREAK)))
            (same if kind[0] == "+" else different).append((turns, kind[1:]))
    return Case(tuple(stored), tuple(same), tuple(different))


def _turn(text: str) -> Turn:
    role, said = text.split(": ", 1)
    return Turn(_ROLES[role], _text(said))


def read_labelled(data: Path, name: str) -> Iterator[tuple[str, str]]:
    """Text and label of `cacheability`, `complexity` or `safety`; a label of `complexity` is level and category."""
    for file in (*sorted((data / name).glob("*.txt")), *sorted(WRITTEN.glob(f"{name}*.txt"))):
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.strip():
                label, text = line.split(" | " if name == "complexity" else " ", 1)
                yield _text(text), label


def read_marked(data: Path) -> Iterator[tuple[str, tuple[tuple[int, int, str], ...]]]:
    """Prompts with the places and kinds of their personal data, by the names of the files."""
    for file in (*(data / "pii_prompts").glob("*.txt"), *WRITTEN.glob("pii.txt")):
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.strip():
                yield _unmarked(_text(line))


def _unmarked(marked: str) -> tuple[str, tuple[tuple[int, int, str], ...]]:
    text, last, spans = "", 0, []
    for match in _SPAN.finditer(marked):
        text += marked[last : match.start()]
        spans.append((len(text), len(text) + len(match[2]), match[1]))
        text, last = text + match[2], match.end()
    return text + marked[last:], tuple(spans)


def _blocks(file: Path) -> Iterator[list[str]]:
    """The lines of each block that blank lines part."""
    for block in _BLANK_LINES.split(file.read_text(encoding="utf-8")):
        if lines := [line for line in block.splitlines() if line.strip()]:
            yield lines


def _text(written: str) -> str:
    return written.replace("\\n", "\n")
