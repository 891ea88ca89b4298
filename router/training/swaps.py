"""Makes pairs that differ in one small thing, from texts whose licence allows it: a number, a name, an opposite, or nothing."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from router.training.examples import own_lists, typos
from router.training.pairs import Pair

_NUMBER = re.compile(r"(?<![\w.,-])\d{1,6}(?![\w,-]|\.\d)")
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-zA-Z]{2,}(?: [A-Z][a-z]+)?\b")
"""A word, or two, with a capital letter amid a sentence."""
_NO_NAMES = frozenset(
    {"What", "How", "When", "Where", "Who", "Why", "Which", "The", "And", "But", "Can", "Does", "Please", "Thanks"}
)
_AUXILIARY = re.compile(r"\b(is|are|was|were|does|do|did|can|could|should|will|would|must|has|have)\b(?! not\b)", re.IGNORECASE)
_TRIES = 12


def orders(*, held_back: bool) -> list[str]:
    """What authors add to steer an answer: every sixth of the list is never trained on."""
    return [order for place, order in enumerate(own_lists("pairs.yaml")["orders"]) if (place % 6 == 5) == held_back]


class SwapMaker:
    """Draws texts and changes them. The lists of opposites and of harmless words are in `pairs.yaml`."""

    def __init__(self, texts: Sequence[str], chance: random.Random) -> None:
        self._chance = chance
        lists = own_lists("pairs.yaml")
        self._orders = orders(held_back=False)
        self._opposites = {word: other for one, two in lists["opposites"] for word, other in ((one, two), (two, one))}
        self._wraps = lists["wraps"]
        self._opposite = re.compile(rf"\b(?:{'|'.join(map(re.escape, self._opposites))})\b", re.IGNORECASE)
        self._texts = [text for text in texts if 12 < len(text) < 200]
        self._numbered = [text for text in self._texts if _NUMBER.search(text)]
        self._named = [text for text in self._texts if self._names_in(text)]
        self._names = sorted({name for text in self._named for name in self._names_in(text)})
        self._opposed = [text for text in self._texts if self._opposite.search(text)]

    def make(self, count: int) -> list[Pair]:
        """`count` pairs, half of which want the same answer."""
        kinds: Sequence[tuple[int, Callable[[], Pair | None]]] = (
            (5, self._edited), (2, self._number), (2, self._name), (2, self._opposites_exchanged), (1, self._negated),
            (1, self._names_exchanged), (2, self._ordered),
        )  # fmt: skip
        weights = [weight for weight, _ in kinds]
        made: list[Pair] = []
        while len(made) < count:
            if pair := self._chance.choices(kinds, weights)[0][1]():
                made.append(pair)
        return made

    def _edited(self) -> Pair:
        """The same text with another opening, case or punctuation, or with a typing error."""
        text, edited = (drawn := self._chance.choice(self._texts)), drawn
        if self._chance.random() < 0.5:
            edited = str(self._chance.choice(self._wraps)).format(edited[0].lower() + edited[1:])
        if self._chance.random() < 0.4:
            edited = edited.rstrip("?.! ")
        if self._chance.random() < 0.4:
            edited = typos(edited, self._chance) if _NUMBER.search(edited) is None else edited
        return Pair(text, edited, 1, "swap_pos_edit")

    def _number(self) -> Pair | None:
        text = self._chance.choice(self._numbered)
        match = self._chance.choice(list(_NUMBER.finditer(text)))
        digits = len(match[0])
        other = str(self._chance.randrange(10 ** (digits - 1), 10**digits))
        return None if other == match[0] else self._changed(text, match, other, "swap_number")

    def _name(self) -> Pair | None:
        text = self._chance.choice(self._named)
        match = self._chance.choice([match for match in _NAME.finditer(text) if match[0] not in _NO_NAMES])
        other = self._chance.choice(self._names)
        return None if set(other.split()) & set(match[0].split()) else self._changed(text, match, other, "swap_entity")

    def _names_exchanged(self) -> Pair | None:
        """Two names in each other's place, where the words between them say who does what."""
        for _ in range(_TRIES):
            text = self._chance.choice(self._named)
            names = [match for match in _NAME.finditer(text) if match[0] not in _NO_NAMES]
            if len(names) != 2 or names[0][0] == names[1][0]:
                continue
            one, two = names
            between = text[one.end() : two.start()]
            if re.fullmatch(r",? (?:and|or|vs\.?|versus|with) ", between) or "between" in text or len(between) < 5:
                continue
            return Pair(text, f"{text[: one.start()]}{two[0]}{between}{one[0]}{text[two.end() :]}", 0, "swap_order")
        return None

    def _ordered(self) -> Pair:
        """The text with an order that steers the answer, before or behind it."""
        text, order = self._chance.choice(self._texts), self._chance.choice(self._orders)
        steered = f"{order} {text}" if self._chance.random() < 0.25 else f"{text} {order}"
        return Pair(text, steered, 0, "swap_ordered")

    def _opposites_exchanged(self) -> Pair:
        text = self._chance.choice(self._opposed)
        match = self._chance.choice(list(self._opposite.finditer(text)))
        return self._changed(text, match, self._opposites[match[0].lower()], "swap_antonym_neg")

    def _negated(self) -> Pair | None:
        text = self._chance.choice(self._texts)
        match = _AUXILIARY.search(text)
        return None if match is None else self._changed(text, match, f"{match[0]} not", "swap_antonym_neg")

    def _changed(self, text: str, match: re.Match[str], other: str, source: str) -> Pair:
        changed = text[: match.start()] + other + text[match.end() :]
        return Pair(text, changed, 0, source)

    def _names_in(self, text: str) -> list[str]:
        return [name for name in _NAME.findall(text) if name not in _NO_NAMES]
