"""Selects the part of a text that a model reads, and tokenises it. Training and serving use the same code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from router.errors import BackendError

SPECIAL_TOKENS = 2
"""Every pass has one before the text and one after it."""
HEAD_SHARE = 0.63
"""The share of tokens that a long text's start gets. The rest go to its end, where the question usually is."""
END_CHARS = 2048
"""Characters tokenised at each end of a longer text: 256 tokens of 8 characters."""
WINDOW_CHARS = 512
"""About how many characters a window holds that is as wide as the model reads."""
OVERLAP = 32
"""Tokens that a window shares with the one before, so that a word or name at an edge stands whole in one of them."""
_MAX_CHARS_A_TOKEN = 32
"""Characters tokenised for each token that is wanted. Prose has about 4, so only blobs and padding use more."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens that a model reads of a text."""

    ids: NDArray[np.int64]
    """(tokens,) int64, including the special tokens at both ends."""
    offsets: tuple[tuple[int, int], ...]
    """Start and end of each token in the text. (0, 0) for special tokens and for the tail that `WindowTokenizer.read` appends."""
    is_truncated: bool
    """The text is longer than the part that is read."""


class WindowTokenizer:
    """Tokenises a text: all of it if it fits, else its start and its end.

    Tokenising megabytes would take seconds, so a very long text is cut before it is tokenised.
    """

    def __init__(self, tokenizer_file: Path, max_tokens: int) -> None:
        self._tokenizer = Tokenizer.from_file(str(tokenizer_file))
        first, last = self._tokenizer.encode("").ids
        self._first, self._last = first, last
        self._room = max_tokens - 2
        self._head = round(self._room * HEAD_SHARE)

    def read(self, text: str) -> Tokens:
        """The tokens of `text`, at most `max_tokens`. Only the two special tokens when there is nothing to read."""
        is_cut = len(text) > 2 * END_CHARS
        ids, offsets = self._read(text[:END_CHARS] if is_cut else text)
        if not is_cut and len(ids) <= self._room:
            return self._tokens(ids, offsets, is_truncated=False)
        end, _ = self._read(text[-END_CHARS:]) if is_cut else (ids, offsets)
        tail = end[-(self._room - self._head) :]
        return self._tokens(ids[: self._head] + tail, offsets[: self._head] + [(0, 0)] * len(tail), is_truncated=True)

    def windows(self, text: str, max_windows: int, width: int | None = None) -> tuple[list[Tokens], bool]:
        """`text` in overlapping windows, and whether they cover all of it. Of more than `max_windows`, the first and the last.

        A window has at most `width` tokens, by default as many as the model reads at once, and the special ones.
        """
        width = min(width or self._room, self._room)
        overlap = min(OVERLAP, width // 3)
        max_chars = (max_windows * (width - overlap) + width) * _MAX_CHARS_A_TOKEN
        end_chars = width * _MAX_CHARS_A_TOKEN
        is_cut = len(text) > max_chars + end_chars
        ids, offsets = self._read(text[:max_chars] if is_cut else text)
        if not is_cut and len(ids) <= width:
            return [self._tokens(ids, offsets, is_truncated=False)], True
        starts = list(range(0, max(1, len(ids) - overlap), width - overlap))
        if not is_cut and len(starts) <= max_windows:
            return [self._window(ids, offsets, start, width) for start in starts], True
        end = self._end(text, end_chars) if is_cut else (ids, offsets)
        windows = [self._window(ids, offsets, start, width) for start in starts[: max_windows - 1]]
        windows.append(self._window(*end, max(0, len(end[0]) - width), width))
        return [window for window in windows if len(window.ids) > SPECIAL_TOKENS] or windows[:1], False

    def _end(self, text: str, chars: int) -> tuple[list[int], list[tuple[int, int]]]:
        """The tokens of the last `chars` characters, and their places in the whole text."""
        first = len(text) - chars
        ids, offsets = self._read(text[first:])
        return ids, [(first + start, first + end) for start, end in offsets]

    def _window(self, ids: list[int], offsets: list[tuple[int, int]], start: int, width: int) -> Tokens:
        piece = slice(start, start + width)
        return self._tokens(ids[piece], offsets[piece], is_truncated=True)

    def _read(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        read = self._tokenizer.encode(_encodable(text), add_special_tokens=False)
        return read.ids, read.offsets

    def _tokens(self, ids: list[int], offsets: list[tuple[int, int]], *, is_truncated: bool) -> Tokens:
        whole = np.array([self._first, *ids, self._last], dtype=np.int64)
        return Tokens(whole, ((0, 0), *offsets, (0, 0)), is_truncated)


class PairTokenizer:
    """Tokenises two texts for one pass. Never truncates, because the texts could differ in the part left out."""

    def __init__(self, tokenizer_file: Path, max_tokens: int) -> None:
        self._tokenizer = Tokenizer.from_file(str(tokenizer_file))
        self._unknown = self._tokenizer.token_to_id(getattr(self._tokenizer.model, "unk_token", None) or "")
        self._max_tokens = max_tokens

    def read(self, first: str, second: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Token ids and kinds, each (tokens,) int64. The kind is 1 for the second text, else 0.

        Raises:
            BackendError: `too_long`, or `unknown_words` when the texts differ in words without a token: emoji, rare scripts,
                words of over a hundred letters.
        """
        if len(first) + len(second) > 2 * END_CHARS:
            raise BackendError("too_long")
        texts = (_encodable(first), _encodable(second))
        read = self._tokenizer.encode(*texts)
        if len(read.ids) > self._max_tokens:
            raise BackendError("too_long")
        unknown: tuple[list[str], list[str]] = ([], [])
        for token, side, (start, end) in zip(read.ids, read.sequence_ids, read.offsets, strict=True):
            if token == self._unknown and side is not None:
                unknown[side].append(texts[side][start:end])
        if unknown[0] != unknown[1]:
            raise BackendError("unknown_words")
        return np.array(read.ids, dtype=np.int64), np.array(read.type_ids, dtype=np.int64)


def _encodable(text: str) -> str:
    """The text without half surrogate pairs, which JSON may hold but UTF-8 libraries reject."""
    return text.encode("utf-8", "replace").decode("utf-8")
