"""Text that a person does not see and a model reads: which characters hide some, and where they have an honest use.

Such text changes what is asked without changing what a question looks like, so it must not decide what others are given.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cn", "Co", "Cs"})
"""Control, format (zero width, bidirectional, tags), unassigned, private use, half a surrogate pair."""
_LAYOUT = "\t\n\r"
# Of other categories, yet shown as nothing: Default_Ignorable_Code_Point of Unicode 15.1, DerivedCoreProperties.txt.
_IGNORABLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
_PICTURE = "[\u00a9\u00ae\u203c-\u3299\U0001f000-\U0001faff]"
_SKIN = "[\U0001f3fb-\U0001f3ff]"
_JOINING_LETTER = "[\u0600-\u06ff\u0750-\u077f\u08a0-\u08ff\u0900-\u0dff\u1000-\u109f\u1780-\u17ff]"
_HONEST = re.compile(
    f"(?<={_PICTURE})\ufe0f?{_SKIN}?\u200d(?={_PICTURE})"  # families and professions: emoji joined to one
    f"|(?<=[#*0-9])\ufe0f(?=\u20e3)|(?<={_PICTURE})[\ufe0e\ufe0f]"  # keycaps; the form of one emoji
    f"|(?<={_JOINING_LETTER})[\u200c\u200d](?={_JOINING_LETTER})"  # spelling in Arabic, Indic, Burmese and Khmer scripts
)
"""Places where an invisible character belongs to a visible one. One at a time, so that rows of them carry nothing."""


def has_invisible(text: str) -> bool:
    """Whether `text` holds characters that are not shown and do not belong to one that is. Linear; ASCII costs 0.1 us."""
    if text.isascii() and text.isprintable():
        return False
    if not any(map(_is_hidden, set(text))):
        return False
    return any(map(_is_hidden, _HONEST.sub("", text)))


def is_blank(text: str) -> bool:
    """Whether a person sees nothing in `text`."""
    return not any(not char.isspace() and not _is_hidden(char) for char in text)


def without_invisible(text: str) -> str:
    """`text` without its invisible characters, also those that have an honest use; the layout of lines stays."""
    return "".join(char for char in text if (char.isprintable() and char < "\u034f") or not _is_hidden(char))


@lru_cache(maxsize=4096)
def _is_hidden(char: str) -> bool:
    if char in _LAYOUT:
        return False
    return unicodedata.category(char) in HIDDEN_CATEGORIES or _IGNORABLE.match(char) is not None
