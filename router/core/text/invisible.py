"""Invisible characters: which ones can hide text that a model reads, and where they have an honest use.

Hidden text changes a question without changing its look. Other clients must not get an answer to such a question.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cn", "Co", "Cs"})
"""Control, format (zero width, bidirectional, tags), unassigned, private use, surrogates."""
_LAYOUT = "\t\n\r"
# Invisible characters of other categories: Default_Ignorable_Code_Point of Unicode 15.1, DerivedCoreProperties.txt.
_IGNORABLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
_PICTURE = "[\u00a9\u00ae\u203c-\u3299\U0001f000-\U0001faff]"
_SKIN = "[\U0001f3fb-\U0001f3ff]"
_JOINING_LETTER = "[\u0600-\u06ff\u0750-\u077f\u08a0-\u08ff\u0900-\u0dff\u1000-\u109f\u1780-\u17ff]"
_HONEST = re.compile(
    f"(?<={_PICTURE})\ufe0f?{_SKIN}?\u200d(?={_PICTURE})"  # emoji joined to one, such as families and professions
    f"|(?<=[#*0-9])\ufe0f(?=\u20e3)|(?<={_PICTURE})[\ufe0e\ufe0f]"  # keycaps, and selectors for text or emoji style
    f"|(?<={_JOINING_LETTER})[\u200c\u200d](?={_JOINING_LETTER})"  # joiners that Arabic, Indic, Burmese and Khmer spelling needs
)
"""Matches an invisible character that belongs to a visible one. Only one at a time, so a row of them cannot carry text."""


def has_invisible(text: str) -> bool:
    """Whether `text` has invisible characters that belong to no visible one. Takes linear time; 0.1 us for ASCII."""
    if text.isascii() and text.isprintable():
        return False
    if not any(map(_is_hidden, set(text))):
        return False
    return any(map(_is_hidden, _HONEST.sub("", text)))


def is_blank(text: str) -> bool:
    """Whether `text` shows nothing to a person."""
    return not any(not char.isspace() and not _is_hidden(char) for char in text)


def without_invisible(text: str) -> str:
    """`text` without all invisible characters, including those with an honest use. Tabs and line ends stay."""
    return "".join(char for char in text if (char.isprintable() and char < "\u034f") or not _is_hidden(char))


@lru_cache(maxsize=4096)
def _is_hidden(char: str) -> bool:
    if char in _LAYOUT:
        return False
    return unicodedata.category(char) in HIDDEN_CATEGORIES or _IGNORABLE.match(char) is not None
