"""Writes a conversation as one text, for models that read one text: the encoder and the verifier. Reads such a text again."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal, NamedTuple

from router.core.text.invisible import has_invisible

MAX_CHARS = 4000
"""A longer conversation is not compared with others. Every model that we know of reads less; stores have room for this much."""
NotCompared = Literal["verifier_too_long", "unclear_turns"]
"""Why a conversation is compared with no other. `unclear_turns`: a turn holds hidden text, or a role with a colon (`User:`), so
that other turns would make the same text."""
_ROLE = re.compile(r"(?<![^\W_])(?:user|assistant)\s*:")
_TURN = re.compile(r"(?:\A|\n)(user|assistant): ")


class Turn(NamedTuple):
    """One message of a conversation."""

    role: str
    """`system`, `user` or `assistant`."""
    text: str


def as_text(turns: Sequence[Turn]) -> str:
    """The conversation with each turn's role before it; a single message of the user stands alone, without a role.

    So a question that tells its context in one message has the form of any other question. System messages are left out: two
    conversations are compared only where these are equal.
    """
    said = [turn for turn in turns if turn.role != "system"]
    if len(said) == 1:
        return said[0].text
    return "\n".join(f"{turn.role}: {turn.text}" for turn in said)


def turns_of(text: str) -> list[Turn]:
    """The turns of a text that `as_text` made of turns that may be compared."""
    start, *rest = _TURN.split(text)
    return (
        [Turn(role, said) for role, said in zip(rest[::2], rest[1::2], strict=True)]
        if rest and not start
        else [Turn("user", text)]
    )


def why_not_compared(turns: Sequence[Turn]) -> NotCompared | None:
    """Why a conversation is compared with no other; None when it may be. Only one conversation then has its text.

    The verifier reads no line breaks, capitals and accents, so a role with a colon anywhere in a turn might begin a turn.
    """
    if len(as_text(turns)) > MAX_CHARS:
        return "verifier_too_long"
    is_unclear = any(has_invisible(turn.text) or _ROLE.search(_folded(turn.text)) for turn in turns)
    return "unclear_turns" if is_unclear else None


def _folded(text: str) -> str:
    """The text as the verifier's tokenizer takes it, without capitals and accents. Wide letters and colons become usual ones."""
    if text.isascii():
        return text.lower()
    return "".join(char for char in unicodedata.normalize("NFKD", text) if unicodedata.category(char) != "Mn").lower()
