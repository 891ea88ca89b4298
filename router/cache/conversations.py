"""Compares a query with a stored text where both may be conversations: what of them is judged, and how their writing differs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from router.cache.wording import UNREAD, are_spelled_alike, difference, words_of
from router.core.lookup import CachePolicy, CacheQuery, Objection
from router.core.text.conversation import Turn, turns_of

_MAX_COMPARED = 16
"""Pairs of turns with the same words whose writing is compared; more of them refuse."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What is judged of a query and a stored text."""

    asked: str
    stored: str
    is_whole: bool
    """These are two conversations, or a conversation and a message. If not, they are two questions."""
    is_after_equal_turns: bool = False
    """They are the last messages of two conversations whose earlier turns are equal."""

    def under(self, cache_policy: CachePolicy) -> CachePolicy:
        """The policy under which this pair is judged."""
        return cache_policy.for_conversations if self.is_whole else cache_policy

    def found_under(self, cache_policy: CachePolicy) -> CachePolicy:
        """The policy whose similarity counts where the vectors are of whole conversations."""
        return cache_policy.for_conversations if self.is_whole or self.is_after_equal_turns else cache_policy


def pair_of(query: CacheQuery, stored: str) -> Pair:
    """What is judged: of conversations with equal earlier turns the last messages, as if earlier turns were in the namespace."""
    return pair_of_texts(query.text, stored) if query.with_turns else Pair(query.text, stored, is_whole=False)


def pair_of_texts(asked: str, stored: str) -> Pair:
    """The same of two texts in the form of `as_text`."""
    mine, its = turns_of(asked), turns_of(stored)
    if mine[:-1] == its[:-1]:
        return Pair(mine[-1].text, its[-1].text, is_whole=False, is_after_equal_turns=len(mine) > 1)
    return Pair(asked, stored, is_whole=True)


def objection_to(asked: str, stored: str) -> Objection | Literal[""]:
    """Why the verifier is not asked about two conversations; empty when it is.

    `continuation`: what one asks last was asked in the other, and then something else. Every turn of a conversation is looked up,
    so the turns before it are what is nearest in the cache. `unread_difference`: turns with the same words have to be written
    alike, and words that the user says in both have to be spelled alike. Signs and indentation that only one conversation has
    are left to the verifier: its turns say more, or less, or say it otherwise.
    """
    mine, its = turns_of(asked), turns_of(stored)
    if _goes_on(mine, its):
        return "continuation"
    one, other = _by_words(mine), _by_words(its)
    if any(_are_unread(one[words], other[words]) for words in one.keys() & other.keys()):
        return UNREAD
    said = ("\n".join(turn.text for turn in turns if turn.role == "user") for turns in (mine, its))
    return "" if are_spelled_alike(*said) else UNREAD


def _goes_on(mine: Sequence[Turn], its: Sequence[Turn]) -> bool:
    (*before, last), (*its_before, its_last) = (
        [words_of(turn.text) for turn in turns if turn.role == "user"] for turns in (mine, its)
    )
    return last != its_last and (its_last in before or last in its_before)


def _by_words(turns: Iterable[Turn]) -> dict[tuple[str, ...], set[str]]:
    """The texts of turns by role and words."""
    found: dict[tuple[str, ...], set[str]] = {}
    for turn in turns:
        found.setdefault((turn.role, *words_of(turn.text)), set()).add(turn.text)
    return found


def _are_unread(some: set[str], others: set[str]) -> bool:
    """Whether a text has no counterpart of the same meaning among texts with the same words."""
    if some == others:
        return False
    if len(some) * len(others) > _MAX_COMPARED:
        return True
    alike = {(one, other) for one in some for other in others if difference(one, other) != "unread"}
    return {one for one, _ in alike} != some or {other for _, other in alike} != others
