"""Decides whether two spellings of a word mean the same. They may differ in case, accents or apostrophe.

A difference that is not known to be harmless counts as one of meaning. The lists are short on purpose. A word that is missing in
a list of harmless forms costs a hit. A word that is missing in a list of forms with another meaning causes a wrong hit only when
two questions differ in nothing else.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Style = Literal["lower", "upper", "mixed"]
"""How a text uses case: only small letters, as people type in a hurry; only capitals; or mixed, as the language demands."""


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


_PLAIN = words(
    "a an the i you he she it we they me him her us them my your his its our their this that these those there here am is "
    "are was were be been do does did has have had can could may might must shall should will would to of in on at by for "
    "from with about into onto over under as and or but if then than so not no nor yet also just too very how what when "
    "where which who whom whose why all any some each both more most off out up down go get hi ok please one"
)
"""Words that get a capital only at the start of a sentence or in a title. In all capitals they are other words: IT, US, WHO."""
_CASE_TELLS = words(
    # chemical elements of one and two letters, which only case tells from compounds, units and words
    "h he li be b c n o f ne na mg al si p s cl ar k ca sc ti v cr mn fe co ni cu zn ga ge as se br kr rb sr y zr nb mo tc ru rh "
    "pd ag cd in sn sb te i xe cs ba la ce pr nd sm eu gd tb dy ho er tm yb lu hf ta w re os ir pt au hg tl pb bi po at rn fr "
    "ra ac th pa u np pu cm bk cf es fm md no lr rf db sg bh hs mt ds rg cn nh fl mc lv ts og "
    # units whose prefixes differ by case, and units that are words or other units in capitals
    "mm nm mg ug mb kb gb tb eb mbps kbps gbps mbit kbit gbit mib kib gib mw kw gw tw mv kv ma ka mpa ml dl mj ms ns ps mev kn "
    "nf pf mf hz ph mwh kt ah"
)
_ALSO_WORDS = words(
    "aids pin ram sat act led mac cat pos ice gap sad pie smart lean aim nice safe dare mad rip bit mens arm cad care chip "
    "cobra dos dot ear era eta fast gas gem hit ira lamp lap laser last less map mars mask met mit mop nit nose nut oasis "
    "oil pal pan par pass pets plan rat rest rom sap scan seal seed set sim sip sis soap soar solid spice start step tip "
    "top trips vat cop den dim ada basic blast cart clean dive fate flex focus force hope idea impact mint norm open prism "
    "raid read rice spin"
)
"""Words that are abbreviations of something else when in capitals."""
_CAPITONYMS = words(
    "polish turkey china march may august job apple mercury mars earth lent cologne nice reading mobile bath jersey swede "
    "scotch hamlet catholic liberal democratic republican conservative labour labor bill mark will rose frank jack sue "
    "grant rich bob art guy ray gene dean earl dale cliff heath chase miles hunter mason cooper amazon oracle shell target "
    "orange windows word excel access outlook teams slack zoom meta alphabet discord chrome safari edge swift rust ruby "
    "swiss dutch welsh pole finn czech guinea japan chile cuba georgia jordan lima cork titanic union congress"
)
"""Words that mean something else with a capital."""
_LOAN_WORDS = words(
    "cafe cafes naive naively naivete cliche cliches cliched fiance fiancee facade facades jalapeno jalapenos pinata "
    "pinatas decor deja vu creme brulee fraiche crepe crepes entree entrees puree saute sauteed souffle soiree matinee "
    "melee protege senor senora senorita touche uber pokemon beyonce sao paulo bogota medellin cancun mexico peru panama "
    "zurich munchen dusseldorf koln malmo goteborg espana quebec montreal ivoire potosi curacao yucatan nestle loreal "
    "hermes citroen haagen moet chloe zoe renee andre rene francois jose garcia rodriguez martinez gonzalez hernandez lopez "
    "perez sanchez ramirez gomez fernandez alvarez jimenez munoz nunez schrodinger godel poincare erdos cesar chavez dali "
    "bronte brontes voila cooperate cooperation reelect debut debuts detente regime elite doppelganger smorgasbord angstrom "
    "acai latte emigre emigres attache seance"
)
"""Words and names that English texts write with and without accents."""
MIXED_NAMES = words(
    "iphone iphones ipad ipads ipod imac ios ipados macos imessage icloud itunes airpods macbook macbooks javascript "
    "typescript youtube youtuber youtubers linkedin whatsapp github gitlab mysql postgresql mongodb graphql wordpress "
    "powerpoint tiktok paypal ebay openai chatgpt latex nodejs numpy pytorch tensorflow iot phd wifi vscode devops facebook "
    "snapchat onedrive sharepoint airbnb playstation fedex doordash quickbooks hubspot bigquery nosql sqlite coffeescript "
    "jquery mcdonalds mcdonald deepmind bittorrent soundcloud blackberry spacex huggingface leetcode duckduckgo "
    "stackoverflow ph khz mhz ghz kwh gwh kpa"
)
"""Names in mixed case that people type as they like."""
_LABELLED = words("vitamin hepatitis plan type grade class option section appendix exhibit series group schedule hemophilia")
"""After these words, a letter is a name."""
_CONTRACTIONS = words(
    "whats wheres hows whos whens whys thats theres heres dont doesnt didnt isnt arent wasnt werent wont cant couldnt "
    "wouldnt shouldnt havent hasnt hadnt aint mustnt im ive youre youve youll theyre theyve theyll weve lets hes shes itll "
    "thatll"
)
"""Contractions that people often type without their apostrophe, and that are then no other common word."""
_OTHER_WITHOUT_APOSTROPHE = words("well shell hell were wed shed ill id its boys girls")
DASHES_AND_QUOTES = {
    **dict.fromkeys(map(ord, "\u201c\u201d\u201e\u201f"), '"'),
    **dict.fromkeys(map(ord, "\u2018\u2019\u201a\u201b\u02bc"), "'"),
    **dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\uff0d"), "-"),
}
"""Variants of dashes and quotes that different keyboards produce."""
_ACCENTS = re.compile(r"[\u0300-\u036f]")
_ABBREVIATION = re.compile(r"(?<![\w.])(?:[A-Za-z]\.){2,}(?!\w)")
_COUNTED = re.compile(r"\d+(?:st|nd|rd|th|am|pm)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a text: as written, and as a tokenizer reads it that drops case and accents."""

    form: str
    folded: str
    starts_sentence: bool
    follows: str
    """The word before it, folded; empty at the start."""

    def is_formula(self, touching: str) -> bool:
        """Whether a sign beside the word may be part of a formula. It may beside a number or a single letter; beside "a" and "I"
        only when it touches them."""
        if self.form[0].isnumeric() or self.form[-1].isnumeric():
            return True
        return len(self.folded) == 1 and (self.folded not in "ai" or touching not in " \n\t,.;:?!\"'")


def levelled(text: str) -> str:
    """A text with one kind of dash and apostrophe, and without accents on Latin, Greek and Cyrillic letters."""
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFD", text.translate(DASHES_AND_QUOTES))))


def without_dots(text: str) -> str:
    """A text with abbreviations like "U.S." written as "US"."""
    return _ABBREVIATION.sub(lambda found: found[0].replace(".", ""), text)


@lru_cache(maxsize=4096)
def fold(form: str) -> str:
    """A word without case, accents, joiners and apostrophes, with plain forms of raised and full-width characters."""
    if form.isascii():
        return form.lower().replace("'", "")
    apart = unicodedata.normalize("NFKD", form)
    return "".join(char for char in apart if char != "'" and unicodedata.category(char)[0] not in "MC").casefold()


def is_same_word(one: Word, style: Style, other: Word, other_style: Style, length: int) -> bool:
    """Whether two forms of one word mean the same. The texts have these styles; the shorter one has `length` words."""
    if one.form == other.form:
        return True
    is_hurried = "lower" in (style, other_style)
    if ("'" in one.form) != ("'" in other.form) and not _is_apostrophe_optional(one, other, is_hurried=is_hurried):
        return False
    if _decased(one.form) != _decased(other.form) and one.folded not in _LOAN_WORDS:
        return False
    kinds = {_case(one.form): (one, style), _case(other.form): (other, other_style)}
    return (len(kinds) == 1 and "odd" not in kinds) or _is_same_case(one.folded, kinds, length)


def _is_apostrophe_optional(one: Word, other: Word, *, is_hurried: bool) -> bool:
    if one.folded == "its":
        return is_hurried
    form = max(one.form, other.form, key=lambda form: "'" in form)
    is_possessive = form.lower().endswith("'s") and len(one.folded) > 3
    return one.folded in _CONTRACTIONS or (is_possessive and one.folded not in _OTHER_WITHOUT_APOSTROPHE)


def _decased(form: str) -> str:
    return form.replace("'", "").lower()


def _case(form: str) -> str:
    letters = "".join(char for char in form if char.lower() != char.upper())
    if letters == letters.lower():
        return "lower"
    if len(letters) > 1 and letters == letters.upper():
        return "upper"
    return "capital" if letters[1:] == letters[1:].lower() and form[0] == letters[0] else "odd"


def _is_same_case(folded: str, kinds: dict[str, tuple[Word, Style]], length: int) -> bool:
    """Whether two forms that differ in case mean the same. `kinds` has each form, with the style of its text, by kind of case."""
    cases = set(kinds)
    is_hurried = "lower" in cases and kinds["lower"][1] == "lower"
    if "odd" in cases:
        return folded in MIXED_NAMES or (is_hurried and len(folded) > 4 and folded.replace("-", "").isalpha())
    if any(char.isnumeric() for char in folded):
        is_name = not folded[0].isnumeric() and len(folded) > 2 and cases == {"lower", "upper"}
        return bool(_COUNTED.fullmatch(folded)) or (is_name and is_hurried)
    if "upper" in cases and kinds["upper"][1] == "upper":
        return folded in _PLAIN or folded not in _CASE_TELLS
    if all(_is_told_by_place(word) for word, _ in kinds.values()):
        return is_hurried or folded in ("am", "pm")
    if folded in _PLAIN:
        return cases == {"lower", "capital"} and (len(folded) > 1 or _is_pronoun_or_article(folded, kinds, length))
    if folded in _CASE_TELLS or any(len(word.form) == 1 for word, _ in kinds.values()):
        return False
    is_said_by_context = is_hurried and length > 4
    if cases == {"lower", "capital"}:
        return folded not in _CAPITONYMS or kinds["capital"][0].starts_sentence or is_said_by_context
    return (folded not in _ALSO_WORDS or is_said_by_context) and ("lower" in cases or len(folded) > 3)


def _is_told_by_place(word: Word) -> bool:
    """Whether the word before it tells the meaning: "vitamin d", "5 pm", "the us"."""
    if len(word.folded) == 1:
        return word.follows in _LABELLED
    return word.follows[-1:].isnumeric() if word.folded in ("am", "pm") else word.folded == "us" and word.follows in ("the", "a")


def _is_pronoun_or_article(letter: str, kinds: dict[str, tuple[Word, Style]], length: int) -> bool:
    """Whether a letter is the pronoun `I` in a sentence, or the article `A` at the start of one. Otherwise it names something."""
    return length > 3 if letter == "i" else kinds["capital"][0].starts_sentence
