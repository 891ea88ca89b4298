"""Removes disguises from text, for rules that block. The text that is sent to the model is never changed.

It undoes disguises that keep the words and change their letters: letters that look alike, invisible characters, text hidden in
tag characters, other spellings (respelled.py) and encodings (encodings.py). A text without disguises costs one search by the
patterns.
"""

from __future__ import annotations

import re
import unicodedata

from router.core.text.encodings import decoded
from router.core.text.invisible import without_invisible
from router.core.text.respelled import in_latin, is_prose, respelled

_MAX_READINGS = 8  # of one text, because decoded text can hold encoded text again
_LATIN = re.compile(r"[a-z]", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]+")
_LETTERS = str.maketrans(
    {chr(0x1F1E6 + n): chr(0x61 + n) for n in range(26)}  # regional indicators
    | {chr(start + n): chr(0x61 + n) for start in (0x1F150, 0x1F170) for n in range(26)}  # white in black circles and squares
    | {chr(0x249C + n): chr(0x61 + n) for n in range(26)}  # letters in parentheses; NFKC would keep the parentheses
    | dict(zip("⠁⠃⠉⠙⠑⠋⠛⠓⠊⠚⠅⠇⠍⠝⠕⠏⠟⠗⠎⠞⠥⠧⠺⠭⠽⠵", "abcdefghijklmnopqrstuvwxyz", strict=True))  # braille
    | {"\ufdfa": " ", "\ufdfb": " "}  # single characters for Arabic phrases; NFKC expands them to up to eighteen letters
)
_TAGS = re.compile(r"[\U000e0020-\U000e007e]+")
_VARIATION = re.compile(r"[\ufe00-\ufe0f\U000e0100-\U000e01ef]{4,}")
_MARKS = re.compile(r"[\u0300-\u036f\u0489\u20d0-\u20f0]+")


def readings_of(text: str) -> list[str]:
    """`text` itself, and the different texts that appear when its disguises are removed: at most eight in all."""
    if is_prose(text):
        return [text]
    found = [text]
    waiting = [text]
    while waiting and len(found) < _MAX_READINGS:
        some = waiting.pop()
        plain = _plain(some)
        for reading in (plain, *_hidden(some), *decoded(plain), *respelled(plain)):
            if reading not in found and len(found) < _MAX_READINGS:
                found.append(reading)
                waiting += [reading] if reading is not plain else []
    return found


def _hidden(text: str) -> list[str]:
    """The hidden text alone, because it would score lower beside a harmless question."""
    if text.isascii():
        return []
    return [*map(_said_by_tags, _TAGS.finditer(text)), *map(_said_by_variations, _VARIATION.finditer(text))]


def _plain(text: str) -> str:
    """The text in plain letters; the text itself when a reader would see no difference."""
    if text.isascii():
        return text
    shown = _VARIATION.sub(_said_by_variations, _TAGS.sub(_said_by_tags, text)).translate(_LETTERS)
    shown = without_invisible(unicodedata.normalize("NFKC", shown))
    shown = _MARKS.sub("", unicodedata.normalize("NFD", shown))
    shown = _WORD.sub(_latin, unicodedata.normalize("NFC", shown))
    return shown if _folded(shown) != _folded(text) else text


def _folded(text: str) -> str:
    """The letters, digits and punctuation of a text without accents: the part that the encoder reads as words."""
    return "".join(
        char for char in unicodedata.normalize("NFD", text.lower()) if char.isalnum() or unicodedata.category(char) == "Me"
    )


def _said_by_tags(found: re.Match[str]) -> str:
    """The ASCII text that tag characters spell."""
    return f" {''.join(chr(ord(tag) - 0xE0000) for tag in found[0])} "


def _said_by_variations(found: re.Match[str]) -> str:
    """The bytes that variation selectors carry: selectors 1 to 256 stand for one byte each."""
    values = [ord(char) - 0xFE00 if ord(char) < 0xFE10 else ord(char) - 0xE0100 + 16 for char in found[0]]
    return f" {bytes(values).decode('utf-8', 'ignore')} "


def _latin(found: re.Match[str]) -> str:
    """A word in Latin letters, if it mixes them with letters that look alike. A foreign word stays."""
    word = found[0]
    return in_latin(word) if not word.isascii() and _LATIN.search(word) else word
