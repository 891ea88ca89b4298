"""Operators' patterns: no text makes them slow, and what a linear engine cannot do is refused with a remedy."""

from __future__ import annotations

import copy
import pickle
import re
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.config.patterns import MAX_REPEATED, MAX_WORDS, PatternError, compile_pattern, keyword_patterns, repeated


def finds(words: list[str], text: str, *, is_case_sensitive: bool = False) -> bool:
    """Whether these words are found in the text."""
    return any(pattern.search(text) for pattern in keyword_patterns(words, [], is_case_sensitive=is_case_sensitive))


@pytest.mark.parametrize("pattern", [r"(a+)+$", r"(a|a)*b", r"(?:a*)*c", r"(\w+\s?)*!", r"(.*)(.*)(.*)(.*)[^a]"])
def test_a_pattern_that_would_backtrack_for_ever_does_not(pattern: str) -> None:
    """With `re`, 30 characters hold a process for minutes. Here the longest classified text takes no noticeable time."""
    compiled = compile_pattern(pattern)
    began = perf_counter()
    compiled.search("a" * 16_385)
    compiled.fullmatch("a" * 16_385 + "\n")
    assert perf_counter() - began < 1  # milliseconds, or else endless


WORDS = st.text(alphabet="ab\u00fc\u65e5\u672c_1+\u0301 ", min_size=1, max_size=4).filter(str.strip)


@given(st.lists(WORDS, min_size=1, max_size=3), st.text(alphabet="abAB\u00fc\u00dc\u65e5\u672c_1+\u0301. \n", max_size=12))
def test_words_are_bounded_in_every_script_as_pythons_are(words: list[str], text: str) -> None:
    """A word in letters of any script is found as a whole word, and not inside another."""
    expected = re.search(r"(?<!\w)(?:" + "|".join(map(re.escape, words)) + r")(?!\w)", text, re.IGNORECASE)
    assert finds(words, text) is (expected is not None)


@pytest.mark.parametrize(
    ("word", "text", "holds"),
    [
        ("\u00fcber", "das ist \u00dcBER allem", True),
        ("\u00fcber", "\u00fcberall", False),
        ("ber", "\u00fcber", False),
        ("\u65e5\u672c", "\u65e5\u672c \u3067", True),
        ("\u65e5\u672c", "\u65e5\u672c\u8a9e", False),
        ("c++", "C++!", True),
        ("c++", "c++11", False),
        ("stra\u00dfe", "STRA\u1e9eE", True),
        ("kelvin", "\u212aelvin", True),
        ("a.b", "axb", False),
    ],
)
def test_words_are_found(word: str, text: str, holds: bool) -> None:
    """Words are found in any case, by Unicode's rules."""
    assert finds([word], text) is holds


@pytest.mark.parametrize("text", ["sql\ud800", "\udc00 sql", "\ud83d\ude00sql", "sql \x00"])
def test_half_a_character_in_a_text_is_no_error(text: str) -> None:
    """JSON may carry it. The words beside it are found."""
    assert finds(["sql"], text)
    assert compile_pattern(".*sql.*").fullmatch(text)


def test_words_and_patterns_of_a_set_are_one_search() -> None:
    """A text is read once, however many words and patterns there are."""
    (pattern,) = keyword_patterns(["sql", "\u00fcber"], [r"(?i)def \w+\(", "x|y"], is_case_sensitive=True)
    assert [pattern.search(text) for text in ("sql", "SQL", "DEF f(", "zyz", "\u00fcber", "none")] == [
        True, False, True, True, True, False,
    ]  # fmt: skip


def test_patterns_whose_counts_do_not_fit_together_stay_apart() -> None:
    """Each pattern is allowed alone, so all of them are."""
    patterns = keyword_patterns([], ["a.{60}b", "c.{60}d"], is_case_sensitive=True)
    assert [pattern.pattern for pattern in patterns] == ["a.{60}b", "c.{60}d"]


def test_too_many_words_are_refused() -> None:
    """The message says what to do."""
    words = [f"word{number}" for number in range(MAX_WORDS)]
    assert finds(words, "a word9999!")
    with pytest.raises(PatternError, match="split them"):
        keyword_patterns([*words, "one"], [], is_case_sensitive=True)


@pytest.mark.parametrize(
    ("pattern", "remedy"),
    [
        ("(?=a)", "looks ahead or behind"),
        ("(?<!a)b", "looks ahead or behind"),
        (r"(a)\1", "refers back"),
        ("(?P<x>a)(?P=x)", "refers back"),
        (r"a\Z", r"write \\z"),
        (r"\u00e9", r"write \\x"),
        ("(?>a)", "never does"),
        ("a++", "never does"),
        ("(?(1)a|b)", "two patterns"),
        ("(?x) a", "without comments"),
        ("(?a)a", "leave the flag out"),
        ("a{1001}", r"write \* or \+"),
        ("[a-", "missing ]"),
        (r"\pL{100}" + "|x" * 50 + r"|\pL{1}", r"write \* or \+"),
        ("\ud800", "surrogate"),
        ("\\b\u00fcber", "ASCII letters alone"),
        ("caf\u00e9\\b", "ASCII letters alone"),
    ],
)
def test_what_is_not_understood_is_named_with_what_to_write_instead(pattern: str, remedy: str) -> None:
    """The operator need not know RE2."""
    with pytest.raises(PatternError, match=remedy):
        compile_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("abc", 0), ("a{3}", 3), ("a{3,}", 3), ("a{2,5}b+", 5), ("(?:ab{3}){10}", 40), ("(a{2}b{3}){4}x{7}", 27),
        (r"\Qa{90}\E", 0), (r"\{90}", 0), ("[{]{3}", 3), (r"[]\]{9}]{2}", 2), (r"(?i)\p{Greek}{4}", 4), ("(?P<n>ab){3}", 6),
        (r"(?i:a(?-s)b){3}", 6), ("[[:alpha:]]{5}", 5), ("(a|bc){3}", 9), (r"\x{1F600}{3}", 3),
    ],
)  # fmt: skip
def test_counted_repetitions_are_added_up(pattern: str, count: int) -> None:
    """Nested counts multiply, for that many places of the pattern can be alive at one place of the text."""
    assert repeated(pattern) == count
    assert (count > MAX_REPEATED) is False
    compile_pattern(pattern)


def test_equal_patterns_are_equal_and_can_be_copied_to_another_process() -> None:
    """Comparing finds a rule in the shadow of another. Copying gives workers the configuration."""
    one = compile_pattern("a+", is_case_sensitive=False)
    for other in (compile_pattern("a+", is_case_sensitive=False), pickle.loads(pickle.dumps(one)), copy.deepcopy(one)):  # noqa: S301
        assert other == one
        assert hash(other) == hash(one)
        assert other.search("xAx")
    assert compile_pattern("a+") != one


def test_nothing_is_written_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    """RE2 logs what it cannot compile, or when it lacks memory. Its words would stand between JSON lines."""
    for pattern in ("(", "(?=a)", r"(?:\pL{1,9}.){1,9}"):
        try:
            compile_pattern(pattern).search("ab\u00fc" * 5000)
        except PatternError:
            continue
    assert capfd.readouterr().err == ""
