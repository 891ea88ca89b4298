"""Any text is read without an error, and no character of any script is mistaken for a hidden one."""

from __future__ import annotations

import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from router.core.text.disguise import readings_of
from router.core.text.invisible import has_invisible
from tests.unit.test_disguise import DISGUISES

PIECES = st.sampled_from(
    [*"aA1=+/_-%&#;\\|*.,'\"<>{}[] \n\t", "🙂", "е", "ɐ", "\u0301", "\u20de", "\U000e0041", "\ufe0f", "&#", "\\u", "=C3"]
)
AWKWARD = st.one_of(
    st.text(max_size=60), st.lists(st.one_of(PIECES, st.text(max_size=4), st.sampled_from(list(DISGUISES.values())))).map("".join)
)


@given(AWKWARD)
@settings(max_examples=400, deadline=None)
def test_any_text_is_read(text: str) -> None:
    """There is no error, the text itself comes first, and there are no more readings than promised."""
    readings = readings_of(text)
    assert readings[0] == text
    assert len(readings) == len(set(readings)) <= 8


def test_no_letter_mark_digit_or_sign_of_any_script_counts_as_hidden() -> None:
    """All of Unicode is tried, except fillers and variation selectors."""
    fillers = {"\u034f", "\u115f", "\u1160", "\u17b4", "\u17b5", "\u3164", "\uffa0"}
    told = {
        char
        for char in map(chr, range(0x110000))
        if unicodedata.category(char) not in ("Cc", "Cf", "Cn", "Co", "Cs") and has_invisible(f"a{char}b")
    }
    assert told - fillers == {char for char in told if "VARIATION SELECTOR" in unicodedata.name(char, "")}
