"""English words in another spelling: spelled out, cut up, glued, doubled, backwards, rotated, with other signs for letters.

Each is undone only where more everyday words stand in the text afterwards, so that code, names, tables and other languages are
left as they are.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_COMMON_WORDS = """
a about above act after again all also am an and answer any are as ask at be because been before but by can code could create
describe develop did do does each even every explain first follow for from get give go good guide had has have he help her
here him his how i if ignore in instructions into is it its just know let like list make man many me more most must my need
never new no not now of on one only or other our out over people person plan previous program prompt provide question rules
said say script see she should show so some someone step steps story system take teach tell than that the their them then
there these they thing this time to tutorial two up us use user using want was way we were what when where which who why will
with without work would write year you your
"""
_COMMON = frozenset(_COMMON_WORDS.split())
_LEAST_COMMON = 2  # everyday words that must appear: names of versions, hashes and identifiers give none
_WORD = re.compile(r"[A-Za-z]+")
_LETTER = r"[^\W\d_]"


_PROSE = re.compile(
    r"""(?:(?:(?!(?:([a-z])\1)+\b)[A-Z]?[a-z]{2,19}(?:['’][a-z]{1,2})?|[AIa]|\d{1,9}(?![.):]))[,.;:!?)"”]{0,2}+(?:\s++[("“]?|\Z))++"""
)


def is_prose(text: str) -> bool:
    """Whether `text` is English words and nothing else, so that nothing in it can be in another spelling. Takes microseconds."""
    return _PROSE.fullmatch(text) is not None and all(_common_share(line) >= _NOT_PLAIN for line in text.splitlines() if line)


def respelled(text: str) -> Iterator[str]:
    """What `text` says in the usual spelling, for each way in which it may be in another. In time proportional to `text`."""
    yield from _without_symbols(text)
    if _SPELLED.search(text):
        yield _SPELLED.sub(_joined, text)
    yield from _with_letters(text)
    yield from _without_cuts(text)
    yield from _as_prose(text)
    yield from _turned(text)


def _common_in(text: str) -> set[str]:
    """The everyday words of two letters or more that stand in `text`."""
    return {word for word in _WORD.findall(text.lower()) if len(word) > 1 and word in _COMMON}


# -- signs in and between words ----------------------------------------------------------------------------------------

_NOT_ASCII_SIGNS = re.compile(r"[^\w\s\x00-\x7f]++")
_LEAST_BETWEEN, _LEAST_BESIDE = 2, 4
"""How many symbols must stand between two letters, or beside one: one in an expression or after a word is nothing unusual."""
_SPELLED = re.compile(r"""(?<![\w])(?:[^\W_][ .\-_*|/,·•"']{1,9}){5,}[^\W_](?![^\W_])""")
_GAP = re.compile(r"""[ .\-_*|/,·•"']+""")
_SIGNS = r"""[|*_.\-/,~^=+:;'"`\\]"""
_CUT = re.compile(rf"(?<=[A-Za-z]){_SIGNS}(?=[A-Za-z])")
_CUT_WORD = re.compile(rf"(?<![A-Za-z])[A-Za-z]++(?:{_SIGNS}[A-Za-z]++)++")
_LEAST_CUTS = 4
_REPEATED = tuple(
    (re.compile(rf"\b(?:({_LETTER}){again})++\b", re.IGNORECASE), re.compile(rf"({_LETTER}){again}", re.IGNORECASE))
    for again in (r"\1", r"\1\1")
)


def _without_symbols(text: str) -> Iterator[str]:
    """Emoji, dingbats and blanks that are no white space make one unknown word of what they stand in or between."""
    if text.isascii():
        return
    beside = [(before, after) for found in _NOT_ASCII_SIGNS.finditer(text) for before, after in _symbol(found) if before or after]
    if len(beside) >= _LEAST_BESIDE or sum(before and after for before, after in beside) >= _LEAST_BETWEEN:
        for instead in (" ", ""):
            yield _NOT_ASCII_SIGNS.sub(lambda found: instead if [*_symbol(found)] else found[0], text)  # noqa: B023 - used at once


def _symbol(found: re.Match[str]) -> Iterator[tuple[bool, bool]]:
    """Of signs with a symbol among them, whether a letter stands before and after; of quotes and dashes nothing."""
    if any(unicodedata.category(char)[0] == "S" for char in found[0]):
        text, start, end = found.string, found.start(), found.end()
        yield text[start - 1 : start].isalpha(), text[end : end + 1].isalpha()


def _joined(found: re.Match[str]) -> str:
    """Single letters as words: what stands between most letters joins them, anything else begins a new word."""
    gaps = _GAP.findall(found[0])
    usual = max(set(gaps), key=gaps.count)
    return _GAP.sub(lambda gap: "" if gap[0] == usual else " ", found[0])


def _without_cuts(text: str) -> Iterator[str]:
    """Words that a sign cuts up, and words of letters that stand twice or three times."""
    whole = {word: _CUT.sub("", word) for word in set(_CUT_WORD.findall(text))}
    if len(_COMMON.intersection(map(str.lower, whole.values()))) > _LEAST_COMMON:
        yield _CUT_WORD.sub(lambda found: whole[found[0]], text)
    for word, letter in _REPEATED:
        once = [letter.sub(r"\1", found[0]).lower() for found in word.finditer(text)]
        if sum(said in _COMMON and len(said) > 1 for said in once) >= _LEAST_COMMON:
            yield word.sub(lambda found: letter.sub(r"\1", found[0]), text)  # noqa: B023 - used at once


# -- other signs for letters -------------------------------------------------------------------------------------------

_LEET = str.maketrans("0134578@$!|+", "oieastbasiit")
_LEET_WORD = re.compile(r"(?<![\w@$!|+])(?=[\w@$!|+]{0,19}[a-zA-Z])(?=[\w@$!|+]{0,19}[0134578@$!|+][\w@$!|+]*\b)[\w@$!|+]{3,20}")
_ALIKE = {
    # Cyrillic
    **dict(zip("абвгдеёзиіїјкмнопрсԁтуѵхѕһԛԝүьӏ", "abbrdee3niijkmhonpcdtyvxshqwybl", strict=True)),
    **dict(zip("ɡгѵгцҽ", "grvrue", strict=True)),
    # Greek
    **dict(zip("αβγδεζηικλμνορστυχωϲϳ", "abydeznikluvopotuxwcj", strict=True)),
    # Armenian, Cherokee, Latin letters of phonetics and small capitals
    **dict(zip("աօոսհցզյ", "wonuhgqj", strict=True)),
    **dict(zip("ꭺᏼꮯꭰꭼꮐꮋꭻꮶꮮꮇꮲꭱꮪꭲꮩꮃꮓ", "abcdeghjklmprstvwz", strict=True)),
    **dict(zip("ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ", "abcdefghijklmnoprstuvwyz", strict=True)),
    **dict(zip("ɑƅçɗɛɡɦıɩʝɭɱɳøƿɋɍʂŧʋ", "abcdeghiijlmnopqrstu", strict=True)),
    **dict(zip("łđħŋɐ", "ldhna", strict=True)),
}
"""Lower-case letters that look like one Latin letter. Chosen by hand from Unicode's confusables (UTS 39, version 15.1:
confusables.txt); letters that only resemble one in capitals stand under their lower case."""
_FOREIGN = re.compile(rf"{_LETTER}+")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_TURNED = str.maketrans("ɐqɔpǝɟƃɥᴉıɾʞlɯuodbɹsʇnʌʍxʎz", "abcdefghiijklmnopqrstuvwxyz")
_TURNED_LETTER = re.compile("[ɐɔǝɟƃɥᴉɾʞɯɹʇʌʍʎ]")
"""Letters upside down: Latin letters of phonetics, and plain ones that are another's picture."""


def in_latin(word: str) -> str:
    """`word` with the Latin letters that its letters look like; other letters stay."""
    return "".join(char if char.isascii() else _ALIKE.get(char.lower(), char) for char in word)


def _with_letters(text: str) -> Iterator[str]:
    """Digits and signs, letters of other scripts, and letters upside down, as the letters that they look like."""
    leet = [word.translate(_LEET).lower() for word in _LEET_WORD.findall(text)]
    if sum(word in _COMMON for word in leet) >= _LEAST_COMMON:
        yield text.translate(_LEET)
    if text.isascii():
        return
    foreign = {word for word in _FOREIGN.findall(text) if not word.isascii() and len(word) > 2}
    if sum(in_latin(word).lower() in _COMMON for word in foreign) >= _LEAST_COMMON:
        yield in_latin(text)
    mixed = {word: latin for word in _FOREIGN.findall(text) if not word.isascii() and (latin := _NOT_ASCII.sub("", word))}
    if sum(latin.lower() in _COMMON and len(latin) > 2 for latin in mixed.values()) >= _LEAST_COMMON:
        yield _FOREIGN.sub(lambda found: mixed.get(found[0], found[0]), text)
    if len(_TURNED_LETTER.findall(text)) > _LEAST_CUTS:
        yield text[::-1].translate(_TURNED)


# -- prose in another order or form ------------------------------------------------------------------------------------

_SUSPECT = re.compile(r"""[_|\[\]{}<>\\/"=@#~^+*]|[A-Za-z][.,:;-][A-Za-z]|\d[.):]|[a-z][A-Z]|',""")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_TAG = re.compile(r"</?[A-Za-z][\w-]{0,15}>|\\[a-z]{1,12}\{")
_WORD_AND_GAP = re.compile(r"(?<![A-Za-z])([A-Za-z]++)([^A-Za-z]*+)")
_NOT_WORD = re.compile(r"[^A-Za-z]+")
_PROSE_GAP = re.compile(r"""\s+|['’]|[,.;:!?)"'’”…]{1,2}\s+|\s+["'“‘(]|\s[-–—&]\s""")
_LEAST_ODD = 5
_LEAST_SHARE = 0.35  # of everyday words where the gaps are odd: code and records have fewer
_PLAIN, _PLAINLY = 0.25, 2.5
"""The share of everyday words in a line turned round, and how many times that of the line as it is: some words are words either
way (no, was, a)."""
_NOT_PLAIN = 1 / _PLAINLY
_SHORTEST_LINE = 16
_SHORTEST_SENTENCE = 5
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_ROTATIONS = [
    str.maketrans(_LETTERS + _LETTERS.upper(), "".join(some[by:] + some[:by] for some in (_LETTERS, _LETTERS.upper())))
    for by in range(1, 26)
]


def _as_prose(text: str) -> Iterator[str]:
    """Words that stand in a list, an object, tags or an identifier, as words of a sentence."""
    if len(_SUSPECT.findall(text)) < _LEAST_ODD:
        return
    words: list[str] = []
    parted = _CAMEL.sub("|", _TAG.sub("|", text))
    for word, gap in _WORD_AND_GAP.findall(parted):
        words.append(word.lower())
        if not gap or _PROSE_GAP.fullmatch(gap):
            if _is_sentence(words):
                break
            words = []
    if _is_sentence(words):
        yield _NOT_WORD.sub(" ", parted)


def _is_sentence(words: list[str]) -> bool:
    return len(words) > _LEAST_ODD and sum(word in _COMMON for word in words) >= _LEAST_SHARE * len(words)


def _turned(text: str) -> Iterator[str]:
    """Lines that are backwards, whose words are, or whose letters are moved along the alphabet."""
    lines = text.splitlines()
    shares = {line: share for line in lines if len(line) >= _SHORTEST_LINE and (share := _common_share(line)) < _NOT_PLAIN}
    for turn in (_backwards, _words_backwards, _rotated) if shares else ():
        said = {line: turned for line in shares if _common_share(turned := turn(line)) > max(_PLAIN, _PLAINLY * shares[line])}
        if said:
            yield "\n".join(said.get(line, line) for line in lines)


def _backwards(line: str) -> str:
    return line[::-1]


def _words_backwards(line: str) -> str:
    return _FOREIGN.sub(lambda found: found[0][::-1], line)


def _rotated(line: str) -> str:
    """The rotation under which its first words are everyday ones; as it is under none."""
    some = " ".join(_WORD.findall(line)[:16])
    if some.count(" ") < _SHORTEST_SENTENCE or len(_common_in(some)) > 1:
        return line
    best = max(_ROTATIONS, key=lambda rotation: len(_common_in(some.translate(rotation))))
    return line.translate(best) if len(_common_in(some.translate(best))) > _LEAST_COMMON else line


def _common_share(line: str) -> float:
    words = _WORD.findall(line.lower())
    return sum(word in _COMMON for word in words) / max(1, len(words))
