"""Compares the writing of two texts: no relevant difference, a difference that the verifier sees, or one that no model sees.

The verifier's tokenizer drops case, accents and invisible characters, and its model gives little weight to signs. `Co` and `CO`,
`9 % 4` and `9 / 4`, or code with another indentation look alike to it. So differences in writing are judged here. Each rule
declares one kind of difference harmless, and a difference without a rule refuses. The checks and the verifier compare the words.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import cached_property, lru_cache
from typing import Final, Literal

from router.cache.wordforms import DASHES_AND_QUOTES, Style, Word, fold, is_same_word, without_dots

UNREAD: Final = "unread_difference"
"""The refusal when two texts differ in something that no model sees."""
Difference = Literal["none", "visible", "unread"]
"""The difference between two texts. `none`: nothing relevant. `visible`: the verifier can judge it. `unread`: it cannot."""
_WORST_FIRST: tuple[Difference, ...] = ("unread", "visible", "none")

_WRITING = re.compile(
    r"\b(?:commas?|apostrophes?|hyphen\w*|semicolons?|colons?|punctuat\w*|gramma\w*|spell\w*|misspel\w*|capitali[sz]\w*|"
    r"(?:upper|lower|title|camel|snake)[ -]?case|capital letters?|with a capital|in capitals|accents?|accented|diacritic\w*|"
    r"umlauts?|typos?|proofread\w*|sentences?|pronounc\w*|transcri\w*|regexp?|regular expressions?|wildcards?|unicode|ascii|"
    r"emojis?|emoticons?|smileys?|md5|sha-?\d*|hash(?:es|ed)?|base64|encode[ds]?|encoding|anagrams?|palindromes?|indent\w*|"
    r"whitespace|parenthes\w*|brackets?|is (?:this|it) correct|correct (?:this|my)|edit my|which is (?:right|correct)|"
    r"how many (?:characters|letters|words|spaces)|verbatim)\b",
    re.IGNORECASE,
)
"""Questions about how something is written. Every sign and every capital counts in them."""
_SIGNS = re.compile(r"\b(?:means?|meant|meaning|translat\w*|symbols?|notation|operators?)\b", re.IGNORECASE)
"""Questions about a wording or a notation. Every sign counts in them."""
_ASKS = r"(?=(?:what|how|why|when|where|who|which|whose|if|whether)\b)"
_OPENING = re.compile(
    r"(?:(?:hi|hello|hey|thanks|thank you|okay|ok|so|well|good (?:morning|evening|afternoon))(?: there| all)?"
    r"(?:\s*[,.!:\n][\s-]*| - | (?=(?:hi|hello|hey|please|ok|okay|so|what|whats|how|why|when|where|who|which|is|are|can|could|"
    r"would|do|does|i|tell)\b)))*"
    r"(?:(?:can|could|would|will) you (?:please |kindly )|(?:can|could|would|will) you "
    r"(?=(?:tell|explain|describe|show|give|help|write|summari[sz]e|translate|list|compare|define|recommend|suggest)\b)|"
    r"please(?:, | )(?!please))?"
    rf"(?:(?:do|does) (?:you|anyone|anybody|somebody) know {_ASKS}|i(?:['’]d| would)? (?:like|want|need) to know {_ASKS}|"
    rf"(?:tell|let) me (?:know )?{_ASKS})?",
    re.IGNORECASE,
)
"""Polite phrases that people put before a question."""
_QUESTION = re.compile(r"(?:what|how|why|when|where|who|which|whose|is|are|do|does|did|can|could|should)\b", re.IGNORECASE)
_MIN_WORDS = 2  # that must follow an opening; in "so what" the "so" is none

_ALIKE = DASHES_AND_QUOTES | str.maketrans(
    {
        **dict.fromkeys("\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000", " "),
        **dict.fromkeys("\r\u2028\u2029", "\n"), **dict.fromkeys("\v\f\x1c\x1d\x1e\x1f\x85", "\0"),
        "\u2026": "...", "\uff1f": "?", "\u061f": "?", "\u3002": ".", "\u0964": ".", "\uff0c": ",", "\uff01": "!", "\ufe0f": "",
    }
)  # fmt: skip
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d.,]\d|\d)")
_AND = re.compile(r"(?<=[^\W\d_]{2}) & (?=[^\W\d_]{2})")
_WORD = re.compile(r"(?:(?<!\w)[^\W\d_]-(?=[^\W\d_]{2}))?\w+(?:'\w+)*")  # "x-ray" is one
_OF_SENTENCE = re.compile(r"[,;:?!/¿¡\"'()]|\.{1,3}|[?!]{2,}|--?|[\"')][.,;:?!]|[.,?!][\"')]")
"""A piece of punctuation between the words of a sentence; no smileys and operators."""
_BEGINS = re.compile(r"[.!?:\n\"(-]")
_ENDING = "?.! \n\t"
_OPERATORS = frozenset("+-*/=×÷<>^|&")
"""Operators may have blanks on both sides or on neither."""


class _Text:
    """The parts of a text: its words, and the gaps before, between and after them, one more than words."""

    def __init__(self, text: str) -> None:
        self.raw = _without_opening(text.strip(" \t\r\n"))
        text = unicodedata.normalize("NFC", self.raw).replace("\r\n", "\n").translate(_ALIKE)
        self.text = _AND.sub(" and ", _THOUSANDS.sub(lambda found: found[0].replace(",", ""), without_dots(text)))
        self.words: list[Word] = []
        self.gaps: list[str] = []
        at = 0
        for match in _WORD.finditer(_with_letters_for_marks(self.text)):
            gap, form = self.text[at : match.start()], self.text[match.start() : match.end()]
            folded = fold(form)
            if not folded:
                continue  # accents without a letter count as a sign
            follows = self.words[-1].folded if self.words else ""
            self.words.append(Word(form, folded, not follows or bool(_BEGINS.search(gap)), follows))
            self.gaps.append(gap)
            at = match.end()
        self.gaps.append(self.text[at:])
        self.folded = tuple(word.folded for word in self.words)

    @cached_property
    def style(self) -> Style:
        """How the text uses capitals."""
        letters = "".join(word.form for word in self.words)
        if letters == letters.lower():
            return "lower"
        return "upper" if letters == letters.upper() and len(self.words) > 2 and len(letters) > 9 else "mixed"

    @cached_property
    def exact(self) -> str:
        """The text without the capital and the final punctuation of a question. Every other character counts."""
        is_question = _QUESTION.match(self.raw)
        return self.raw[0].lower() + self.raw[1:].rstrip("?. ") if is_question else self.raw

    @cached_property
    def forms(self) -> dict[str, dict[str, Word]]:
        """The spellings of each word, by its folded form."""
        found: dict[str, dict[str, Word]] = {}
        for word in self.words:
            found.setdefault(word.folded, {}).setdefault(word.form, word)
        return found

    @cached_property
    def contrasted(self) -> frozenset[str]:
        """Words that the text writes in two ways, such as `mW` and `MW`. A capital at the start of a sentence does not count."""
        within = {key: sum(not word.starts_sentence for word in forms.values()) for key, forms in self.forms.items()}
        return frozenset(key for key, forms in self.forms.items() if within[key] > 1 or len(forms) > 2)

    @cached_property
    def indented(self) -> tuple[str, ...]:
        """The indentation of each line with its first word; empty when no line is indented."""
        lines = [line for line in self.text.split("\n") if line.strip()]
        starts = tuple(line[: len(line) - len(line.lstrip())] + line.split()[0] for line in lines)
        return starts if any(start[0].isspace() for start in starts) else ()

    @cached_property
    def signs(self) -> Counter[tuple[str, str, str]]:
        """Signs that mean something on their own, each with the numbers and letters beside it."""
        return Counter(sign for at in range(len(self.gaps)) if (sign := self._sign(at)))

    def beside(self, at: int) -> tuple[Word | None, Word | None]:
        """The words before and after a gap; None when there is none."""
        return (self.words[at - 1] if at else None), (self.words[at] if at < len(self.words) else None)

    def _sign(self, at: int) -> tuple[str, str, str] | None:
        left, right = self.beside(at)
        before = left.folded if left and left.is_formula(self.gaps[at][:1]) else ""
        after = right.folded if right and right.is_formula(self.gaps[at][-1:]) else ""
        gap = self.gaps[at] if right else _without_ending(self.gaps[at], left)
        gap = gap if left else f" {gap}"
        pieces = gap.split()
        is_alone = not (before or after or _stands_apart(gap))
        is_of_sentence = is_alone or (len(pieces) == 1 and _parts_sentences(gap, pieces[0], before, after))
        if not pieces or (is_of_sentence and _are_of_sentence(pieces)):
            return None
        sign = " ".join(pieces)
        return before, (sign if sign not in _OPERATORS or _is_even(gap) else gap), after


def difference(asked: str, stored: str) -> Difference:
    """The difference in writing between two texts. It is at least `visible` when the words differ."""
    one, other = _taken_apart(asked), _taken_apart(stored)
    if one.folded != other.folded:
        return "unread" if _differ_unread(one, other) else "visible"
    is_writing = _is_about(_WRITING, one, other)
    if one.raw == other.raw or (is_writing and one.exact == other.exact):
        return "none"
    if is_writing or one.indented != other.indented:
        return "unread"
    if not all(_is_same(mine, one, its, other) for mine, its in zip(one.words, other.words, strict=True)):
        return "unread"
    return min((_gap_difference(one, other, at) for at in range(len(one.gaps))), key=_WORST_FIRST.index)


def words_of(text: str) -> tuple[str, ...]:
    """The words of a text, folded."""
    return _taken_apart(text).folded


def are_spelled_alike(asked: str, stored: str) -> bool:
    """Whether words that both texts have are spelled alike; see `difference` for what counts."""
    one, other = _taken_apart(asked), _taken_apart(stored)
    return all(_is_written_alike(key, one, other) for key in one.forms.keys() & other.forms.keys())


def _is_about(subject: re.Pattern[str], one: _Text, other: _Text) -> bool:
    return bool(subject.search(one.text) or subject.search(other.text))


def _differ_unread(one: _Text, other: _Text) -> bool:
    """Whether texts with different words have an unread difference as well: in shared words, signs or indentation."""
    return (
        not all(_is_written_alike(key, one, other) for key in one.forms.keys() & other.forms.keys())
        or one.signs != other.signs
        or one.indented != other.indented
    )


def _is_written_alike(key: str, one: _Text, other: _Text) -> bool:
    """Whether each spelling of a word in one text has a spelling of the same meaning in the other."""
    mine, its = one.forms[key], other.forms[key]
    if mine.keys() == its.keys():
        return True
    if key in one.contrasted or key in other.contrasted:
        return False
    pairs = {(form, its_form) for form in mine for its_form in its if _is_same(mine[form], one, its[its_form], other)}
    return {form for form, _ in pairs} == mine.keys() and {form for _, form in pairs} == its.keys()


def _is_same(mine: Word, one: _Text, its: Word, other: _Text) -> bool:
    if mine.form != its.form and (mine.folded in one.contrasted or its.folded in other.contrasted):
        return False
    return is_same_word(mine, one.style, its, other.style, min(len(one.words), len(other.words)))


def _gap_difference(one: _Text, other: _Text, at: int) -> Difference:
    gap, its_gap = one.gaps[at], other.gaps[at]
    if gap == its_gap:
        return "none"
    left, right = one.beside(at)
    if not left or not right:
        return _end_difference(one, other) if left else _start_difference(gap, its_gap)
    pieces, its_pieces = gap.split(), its_gap.split()
    is_formula = any(left.is_formula(each[:1]) or right.is_formula(each[-1:]) for each in (gap, its_gap))
    if pieces == its_pieces:
        is_harmless = _is_spacing_harmless(gap, its_gap, left, right) if is_formula else _are_of_sentence(pieces)
        return "none" if is_harmless or (not pieces and not is_formula) else "unread"
    if _is_about(_SIGNS, one, other) or not _are_of_sentence(pieces + its_pieces) or _stands_apart(gap) or _stands_apart(its_gap):
        return "unread"
    return "visible" if not is_formula or (_is_behind_number(gap, right) and _is_behind_number(its_gap, right)) else "unread"


def _start_difference(gap: str, its_gap: str) -> Difference:
    if gap.strip() == its_gap.strip():
        return "none"
    return "visible" if set(gap + its_gap) <= set(" ¿¡\"'(") else "unread"


def _end_difference(one: _Text, other: _Text) -> Difference:
    gap, its_gap, last = one.gaps[-1], other.gaps[-1], one.words[-1]
    mine, its = _without_ending(gap, last), _without_ending(its_gap, last)
    is_about_signs = _is_about(_SIGNS, one, other)
    if mine.split() != its.split():
        is_formula = last.is_formula(gap[:1]) or last.is_formula(its_gap[:1])
        return "visible" if not (is_formula or is_about_signs) and _are_of_sentence(mine.split() + its.split()) else "unread"
    ending, its_ending = gap[len(mine) :].strip(), its_gap[len(its) :].strip()
    if ending != its_ending and is_about_signs and ":" in one.text:
        return "unread"
    is_question = {"?" in mark for mark in (ending, its_ending) if mark}
    return "none" if len(is_question) < 2 else "visible"


def _without_ending(gap: str, last: Word | None) -> str:
    """The gap after the last word without the punctuation that ends a sentence. The sign of `5!` stays."""
    if last and gap.startswith("!") and last.is_formula("!"):
        return "!" + gap[1:].rstrip(_ENDING)
    return gap.rstrip(_ENDING)


def _is_spacing_harmless(gap: str, its_gap: str, left: Word, right: Word) -> bool:
    """Whether other blanks around the same sign are harmless beside a number or a letter."""
    sign = gap.strip()
    if not sign:
        return ("\n" in gap) == ("\n" in its_gap)
    if sign in _OPERATORS:
        return _is_even(gap) and _is_even(its_gap)
    if sign == ",":
        return not (left.form[-1].isnumeric() and right.form[0].isnumeric())
    return sign in ("(", ")", "%", "$", "€", "£")


def _is_even(gap: str) -> bool:
    return gap[:1].isspace() == gap[-1:].isspace()


def _are_of_sentence(pieces: list[str]) -> bool:
    return all(_OF_SENTENCE.fullmatch(piece) for piece in pieces)


def _stands_apart(gap: str) -> bool:
    """Whether punctuation stands alone like a word, or before a word: "cd ..", ".net". Other punctuation there is a typo."""
    return gap[:1].isspace() and (gap.strip() in (".", "..", ";", ":", "!") or (gap.strip() == "?" and not gap[-1:].isspace()))


def _is_behind_number(gap: str, right: Word) -> bool:
    """Whether a gap is white space, a hyphen, or punctuation that belongs to the word before it."""
    if right.is_formula(gap[-1:]):
        return False
    return gap == "-" or (gap[-1:].isspace() and gap.strip() in ("", ",", ".", ";", ":", "?"))


def _parts_sentences(gap: str, sign: str, before: str, after: str) -> bool:
    """Whether a sign beside a number or letter belongs to the sentence, not to a formula: "in 2016, who", "3-digit"."""
    if sign == "-":
        return not gap[0].isspace() and not after
    if sign[0] in "\"'()/":
        return False
    return not gap[0].isspace() and (gap[-1].isspace() or not after) and not (before and sign == "!")


def _without_opening(text: str) -> str:
    opening = _OPENING.match(text)
    asked = text[opening.end() :] if opening else text
    return asked if len(asked.split()) >= _MIN_WORDS else text


def _with_letters_for_marks(text: str) -> str:
    """The text with a letter for each accent and joiner, which Python does not count as parts of words."""
    if text.isascii():
        return text
    return "".join("x" if ord(char) > 127 and _is_mark(char) else char for char in text)


def _is_mark(char: str) -> bool:
    return unicodedata.category(char)[0] == "M" or char in "\u200c\u200d"


@lru_cache(maxsize=1024)
def _taken_apart(text: str) -> _Text:
    """Cached, because one question is compared with several candidates, and the same candidates recur."""
    return _Text(text)
