"""Training texts for attacks: jailbreaks, injections, harmful requests, and harmless prompts that look like them."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from router.training.examples import NO_LABEL, Example, own_lists

_MADE = 8000
_MAX_CHARS = 600
_HIDDEN = 0.35
"""The share of made texts that are placed in the middle of a longer text."""


def attacks(data: Path) -> Iterator[Example]:
    """Attacks that others collected."""
    with (data / "jailbreak" / "jailbreak_prompts_train.csv").open(encoding="utf-8", newline="") as file:
        yield from (Example(row["prompt"].strip(), "", "jailbreak", attack=1) for row in csv.DictReader(file))
    with (data / "advbench" / "harmful_behaviors.csv").open(encoding="utf-8", newline="") as file:
        yield from (Example(row["target"], "", "advbench", attack=2) for row in csv.DictReader(file))


def safety() -> list[Example]:
    """Our own injections and look-alikes."""
    lists = own_lists("safety.yaml")
    examples = [Example(text, "", "lookalike") for text in lists["lookalike"]]
    return examples + [Example(text, "", "injection", attack=1) for text in lists["injection"]]


def safety_held_back() -> list[Example]:
    """Our own held-back attacks and look-alikes, which are never trained on."""
    lists = own_lists("safety.yaml")["held_back"]
    found = [Example(text, "", "own attack", attack=1) for text in lists["attack"]]
    return found + [Example(text, "", "own lookalike") for text in lists["harmless"]]


def amid(text: str, fillers: Sequence[str], chance: random.Random) -> str:
    """`text` before, after or between one to three other texts of any length."""
    before, after = (" ".join(chance.sample(fillers, chance.randint(1, 3))) for _ in range(2))
    return chance.choice((f"{text} {after}", f"{before} {text}", f"{before} {text} {after}"))


def made(examples: Sequence[Example]) -> list[Example]:
    """Attacks composed of openings, rules and requests, and harmless texts of the same form. Some are hidden in other texts."""
    maker = _Maker(examples)
    chance = random.Random(12)  # noqa: S311 - reproducible on purpose
    return [maker.make(chance) for _ in range(_MADE)]


class _Maker:
    def __init__(self, examples: Sequence[Example]) -> None:
        lists = own_lists("safety.yaml")
        self._parts: dict[str, list[str]] = lists["jailbreak"]
        self._injections: list[str] = lists["injection"]
        self._lookalikes: list[str] = lists["lookalike"]
        self._lookalikes += [example.text for example in examples if example.source == "safety" and not example.attack]
        by_source: dict[str, list[str]] = {}
        for example in examples:
            by_source.setdefault(example.source, []).append(example.text)
        self._talk = [text for source in ("clinc150", "banking77", "natural") for text in by_source.get(source, ())]
        own = [example for example in examples if example.source == "safety"]
        self._prompts = [example.text for example in own if example.attack == 1] + by_source.get("jailbreak", [])
        self._prompts = self._prompts or self._injections
        harmful = [example.text for example in own if example.attack == 2]
        self._requests = [*by_source.get("advbench", ()), *harmful, *self._talk[:: max(1, len(self._talk) // 500)]]
        self._fillers = [*by_source.get("mmlu_pro", ()), *by_source.get("gsm8k", ()), *self._talk[::10]]

    def make(self, chance: random.Random) -> Example:
        pick, kind = chance.choice, chance.random()
        if kind < 0.30:
            name, parts = pick(self._parts["names"]), self._parts
            request = pick(parts["requests"]).format(pick(self._requests))
            rules = chance.sample(parts["rules"], chance.randrange(0, 4))
            text, attack = " ".join([pick(parts["openings"]), *rules, request]).replace("{name}", name), 1
        elif kind < 0.50:
            prompt = pick(self._prompts)
            start = chance.randrange(max(1, len(prompt) - 200)) if chance.random() < 0.5 else 0
            return Example(prompt[start : start + _MAX_CHARS], "", "made attack", attack=1 if start == 0 else NO_LABEL)
        elif kind < 0.70:
            text, attack = self._beside(chance, pick(self._injections)), 1
        else:
            text, attack = self._beside(chance, pick(self._lookalikes)), 0
        if chance.random() < _HIDDEN:
            text = self._amid(chance, text)
        return Example(text, "", "made attack" if attack else "made harmless", attack=attack)

    def _beside(self, chance: random.Random, text: str) -> str:
        talk, where = chance.choice(self._talk), chance.random()
        return f"{talk} {text}" if where < 0.3 else f"{text} {talk}" if where < 0.5 else text

    def _amid(self, chance: random.Random, text: str) -> str:
        """The text surrounded by others, short enough to fit one window."""
        room = max(0, _MAX_CHARS - 200 - len(text)) // 2
        before, after = (" ".join(chance.sample(self._fillers, 2)) for _ in range(2))
        return f"{before[-chance.randint(0, room) :]} {text} {after[: chance.randint(0, room)]}".strip()
