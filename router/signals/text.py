"""Which part of a text is read, and as which tokens. The same in training as in serving."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

HEAD_SHARE = 0.63
"""Of the tokens that are read of a long text, the share taken from its start; the rest is its end, where questions stand."""
END_CHARS = 2048
"""Of each end of a longer text so much is tokenised: room for 256 tokens at 8 characters each."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the model reads of a text."""

    ids: NDArray[np.int64]
    """(tokens,) int64, the special tokens at both ends included."""
    is_truncated: bool
    """The text is longer than what is read of it."""


class Reader:
    """Turns texts into tokens: a text that fits whole, of a longer one its start and its end.

    Tokenising megabytes would take seconds, so of a very long text only the ends are looked at.
    """

    def __init__(self, tokenizer_file: Path, max_tokens: int) -> None:
        self._tokenizer = Tokenizer.from_file(str(tokenizer_file))
        first, last = self._tokenizer.encode("").ids
        self._first, self._last = first, last
        self._room = max_tokens - 2
        self._head = round(self._room * HEAD_SHARE)

    def read(self, text: str) -> Tokens:
        """The tokens of `text`, 2 to `max_tokens` of them; 2 alone when there is nothing to read in it."""
        is_cut = len(text) > 2 * END_CHARS
        start = self._ids(text[:END_CHARS] if is_cut else text)
        if not is_cut and len(start) <= self._room:
            return self._tokens(start, is_truncated=False)
        end = self._ids(text[-END_CHARS:]) if is_cut else start
        return self._tokens(start[: self._head] + end[-(self._room - self._head) :], is_truncated=True)

    def _ids(self, text: str) -> list[int]:
        # JSON may carry half a surrogate pair, which no UTF-8 library takes.
        whole = text.encode("utf-8", "replace").decode("utf-8")
        ids: list[int] = self._tokenizer.encode(whole, add_special_tokens=False).ids
        return ids

    def _tokens(self, ids: list[int], *, is_truncated: bool) -> Tokens:
        return Tokens(np.array([self._first, *ids, self._last], dtype=np.int64), is_truncated)
