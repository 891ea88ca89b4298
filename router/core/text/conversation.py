"""Writes a conversation as one text, for models that read one text: the encoder and the verifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


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
