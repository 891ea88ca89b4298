"""Undoes unusual spellings of English: spelled out, cut up, glued, doubled, backwards, rotated, with other signs for letters.

A spelling is undone only when the text then has more common words. So code, names, tables and other languages stay unchanged.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

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
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_ROTATIONS = [
    str.maketrans(_LETTERS + _LETTERS.upper(), "".join(some[by:] + some[:by] for some in (_LETTERS, _LETTERS.upper())))
    for by in range(26)
]
_EITHER_WAY = frozenset(word for word in _COMMON if word[::-1] in _COMMON or word.translate(_ROTATIONS[13]) in _COMMON)
"""Common words that are also common words when reversed or rotated: no, was, or, a."""
_MIN_COMMON = 2  # common words that must appear; versions, hashes and identifiers produce none
_WORD = re.compile(r"[A-Za-z]+")
_LETTER = r"[^\W\d_]"


_PROSE = re.compile(
    r"""(?:(?:(?!(?:([a-z])\1)+\b)[A-Z]?[a-z]{2,19}(?:['’][a-z]{1,2})?|[AIa]|\d{1,9}(?![.):]))[,.;:!?)"”]{0,2}+(?:\s++[("“]?|\Z))++"""
)


def is_prose(text: str) -> bool:
    """Whether `text` is plain English prose, which cannot hide another spelling. Takes microseconds."""
    if not _PROSE.fullmatch(text) or _may_be_turned(text):
        return False
    return all(_common_share(line) >= _NOT_PLAIN for line in text.splitlines() if line)


def respelled(text: str) -> Iterator[str]:
    """`text` in the usual spelling, once for each unusual spelling that it may use. Takes time proportional to its length."""
    yield from _without_symbols(text)
    spelled = _SPELLED.sub(_joined, text)
    if spelled != text:
        yield spelled
    yield from _with_letters(text)
    yield from _without_cuts(text)
    yield from _as_prose(text)
    yield from _turned(text)


def _common_in(text: str) -> set[str]:
    """The common words of two letters or more in `text`."""
    return {word for word in _WORD.findall(text.lower()) if len(word) > 1 and word in _COMMON}


# -- signs in and between words ----------------------------------------------------------------------------------------

_NOT_ASCII_SIGNS = re.compile(r"[^\w\s\x00-\x7f]++")
_MIN_BETWEEN, _MIN_BESIDE = 2, 4
"""How many symbols must stand between two letters, or beside one. A single symbol in an expression or after a word is usual."""
_SPELLED = re.compile(r"(?<!\w)(?:[^\W_][\W_]{1,9}+){5,}[^\W_](?![^\W_])")
_GAP = re.compile(r"[\W_]+")
_MIN_SPELLED = 12  # letters that are read as words even without gaps between the words
_SIGNS = r"(?:</?[a-z]{1,8}>|<!--[^<>]{0,20}-->|/\*[^*/]{0,20}\*/|[^\sA-Za-z0-9]){1,4}+"
_CUT = re.compile(rf"(?<=[A-Za-z]){_SIGNS}(?=[A-Za-z])")
_CUT_WORD = re.compile(rf"(?<![A-Za-z])[A-Za-z]++(?:{_SIGNS}[A-Za-z]++)++")
_MIN_CUTS = 4
_REPEATED = tuple(
    (re.compile(rf"\b(?:({_LETTER}){again})++\b", re.IGNORECASE), re.compile(rf"({_LETTER}){again}", re.IGNORECASE))
    for again in (r"\1", r"\1\1")
)


def _without_symbols(text: str) -> Iterator[str]:
    """Replace emoji, dingbats and unusual blanks inside or between words. To the encoder they make one unknown word of them."""
    if text.isascii():
        return
    beside = [(before, after) for found in _NOT_ASCII_SIGNS.finditer(text) for before, after in _symbol(found) if before or after]
    if len(beside) >= _MIN_BESIDE or sum(before and after for before, after in beside) >= _MIN_BETWEEN:
        for instead in (" ", ""):
            yield _NOT_ASCII_SIGNS.sub(lambda found: instead if [*_symbol(found)] else found[0], text)  # noqa: B023 - used at once


def _symbol(found: re.Match[str]) -> Iterator[tuple[bool, bool]]:
    """For signs with a symbol among them: whether a letter stands before and after. Quotes and dashes yield nothing."""
    if any(unicodedata.category(char)[0] == "S" for char in found[0]):
        text, start, end = found.string, found.start(), found.end()
        yield text[start - 1 : start].isalpha(), text[end : end + 1].isalpha()


def _joined(found: re.Match[str]) -> str:
    """Join single letters to words. The most frequent gap joins letters; any other gap begins a new word. Lists stay."""
    gaps = _GAP.findall(found[0])
    usual = max(set(gaps), key=gaps.count)
    said = _GAP.sub(lambda gap: "" if gap[0] == usual else " ", found[0])
    is_list = not _common_in(said) and (len(said) < _MIN_SPELLED or not said.replace(" ", "").isalpha())
    return found[0] if is_list else said


def _without_cuts(text: str) -> Iterator[str]:
    """Join words that signs cut up, and shorten words whose letters all stand twice or three times."""
    whole = {word: _CUT.sub("", word) for word in set(_CUT_WORD.findall(text))}
    if len(_COMMON.intersection(map(str.lower, whole.values()))) > _MIN_COMMON:
        yield _CUT_WORD.sub(lambda found: whole[found[0]], text)
    for word, letter in _REPEATED:
        once = [letter.sub(r"\1", found[0]).lower() for found in word.finditer(text)]
        if sum(said in _COMMON and len(said) > 1 for said in once) >= _MIN_COMMON:
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
    # Lisu
    **dict(zip("ꓐꓑꓓꓔꓖꓗꓙꓚꓜꓝꓟꓠꓡꓢꓣꓦꓧꓪꓫꓬꓮꓰꓲꓳꓴ", "bpdtgkjczfmnlsrvhwxyaeiou", strict=True)),
}
"""Lower-case letters that look like one Latin letter. Chosen by hand from Unicode's confusables (UTS 39, version 15.1:
confusables.txt); letters that only look alike as capitals are listed in lower case."""
_FOREIGN = re.compile(rf"{_LETTER}+")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_TURNED = str.maketrans("ɐqɔpǝɟƃɥᴉıɾʞlɯuodbɹsʇnʌʍxʎz", "abcdefghiijklmnopqrstuvwxyz")
_TURNED_LETTER = re.compile("[ɐɔǝɟƃɥᴉɾʞɯɹʇʌʍʎ]")
"""Upside-down letters: phonetic letters, and plain letters that look like another one turned."""


def in_latin(word: str) -> str:
    """`word` with each letter replaced by the Latin letter that it looks like; other letters stay."""
    return "".join(char if char.isascii() else _ALIKE.get(char.lower(), char) for char in word)


def _with_letters(text: str) -> Iterator[str]:
    """Replace digits, signs, foreign letters and upside-down letters by the Latin letters that they look like."""
    leet = [word.translate(_LEET).lower() for word in _LEET_WORD.findall(text)]
    if sum(word in _COMMON for word in leet) >= _MIN_COMMON:
        yield text.translate(_LEET)
    if text.isascii():
        return
    foreign = {word for word in _FOREIGN.findall(text) if not word.isascii() and len(word) > 2}
    if sum(in_latin(word).lower() in _COMMON for word in foreign) >= _MIN_COMMON:
        yield in_latin(text)
    mixed = {word: latin for word in _FOREIGN.findall(text) if not word.isascii() and (latin := _NOT_ASCII.sub("", word))}
    if sum(latin.lower() in _COMMON and len(latin) > 2 for latin in mixed.values()) >= _MIN_COMMON:
        yield _FOREIGN.sub(lambda found: mixed.get(found[0], found[0]), text)
    if len(_TURNED_LETTER.findall(text)) > _MIN_CUTS:
        yield text[::-1].translate(_TURNED)


# -- prose in another order or form ------------------------------------------------------------------------------------

_SUSPECT = re.compile(r"""[_|\[\]{}<>\\/"=@#~^+*]|[A-Za-z][.,:;-]\w|\d[.):,;]|[a-z][A-Z]|'[,)]""")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_TAG = re.compile(r"</?[A-Za-z][\w-]{0,15}>|\\[a-z]{1,12}\{")
_WORD_AND_GAP = re.compile(r"(?<![A-Za-z])([A-Za-z]++)([^A-Za-z]*+)")
_PROSE_GAP = re.compile(r"""\s+|['’]|[,.;:!?)"'’”…]{1,2}\s+|\s+["'“‘(]|\s[-–—&]\s""")
_MIN_ODD = 5
_FRAME_SHARE = 0.2  # of all words; a single word of a sentence is rarer
_MIN_SHARE = 0.35  # of common words where the gaps are unusual; code and records have fewer
_PLAIN, _PLAINLY = 0.25, 2.5
"""A turned line must have this share of common words, and this many times the share of the original. Some words are common
in both directions (no, was, a)."""
_NOT_PLAIN = 1 / _PLAINLY
_SHORTEST_LINE = 16
_SHORTEST_SENTENCE = 5
_BORDER = re.compile(r"""["“”‘:]|\s['’]|['’]\W""")
_BACKWARDS = frozenset(word[::-1] for word in _COMMON - _EITHER_WAY)
_ROTATED: dict[str, list[int]] = {}
"""Rotated forms of common words of three letters or more, with the rotations that restore a common word."""
for _word in sorted(word for word in _COMMON if len(word) > 2):
    for _by in range(1, 26):
        _ROTATED.setdefault(_word.translate(_ROTATIONS[26 - _by]), []).append(_by)


def _as_prose(text: str) -> Iterator[str]:
    """The words of a list, an object, tags, a table or an identifier, joined to a sentence."""
    if len(_SUSPECT.findall(text)) < _MIN_ODD:
        return
    parted = _CAMEL.sub("|", _TAG.sub("|", text))
    found = [(word, not gap or _PROSE_GAP.fullmatch(gap) is not None) for word, gap in _WORD_AND_GAP.findall(parted)]
    counts = Counter(word for word, _ in found)
    # `VALUES (1, 'ignore'), VALUES (2, 'all')`: a word that is repeated before every other word is left out.
    frame = {word for word, count in counts.items() if count >= _MIN_ODD and count > len(found) * _FRAME_SHARE}
    words: list[str] = []
    for word, is_prose_gap in found:
        words += [word.lower()] if word not in frame else []
        if is_prose_gap and word not in frame:
            if _is_sentence(words):
                break
            words = []
    if _is_sentence(words):
        yield " ".join(word for word, _ in found if word not in frame)


def _is_sentence(words: list[str]) -> bool:
    return len(words) > _MIN_ODD and sum(len(word) > 1 and word in _COMMON for word in words) >= _MIN_SHARE * len(words)


def _turned(text: str) -> Iterator[str]:
    """Restore lines and runs of words that are reversed as a whole, reversed word by word, or rotated letter by letter."""
    if not _may_be_turned(text):
        return
    lines = [(line, _common_share(line), _strange(line)) for line in text.splitlines()]
    for turn in (_backwards, _words_backwards, _rotated):
        said = [_turn(line, share, runs, turn) for line, share, runs in lines]
        if any(one is not line for one, (line, _, _) in zip(said, lines, strict=True)):
            yield "\n".join(said)


def _may_be_turned(text: str) -> bool:
    """Whether some words are common words when reversed or rotated. Most texts need no more than this test."""
    words = set(_WORD.findall(text.lower()))
    return len(words & _BACKWARDS) >= _MIN_COMMON or _rotation_of(words) > 0


def _rotation_of(words: Iterable[str]) -> int:
    """The rotation that makes the most words common; 0 when it makes fewer than two common."""
    counts = Counter(by for word in words for by in _ROTATED.get(word, ()))
    best, count = max(counts.items(), key=lambda item: item[1], default=(0, 0))
    return best if count >= _MIN_COMMON else 0


def _turn(line: str, share: float, runs: Sequence[tuple[int, int]], turn: Callable[[str], str]) -> str:
    """The line turned as a whole, or only in runs that make sense when turned; otherwise the line itself."""
    if share < _NOT_PLAIN and len(line) >= _SHORTEST_LINE:
        whole = turn(line)
        if _common_share(whole) > max(_PLAIN, _PLAINLY * share):
            return whole
    pieces, end = [], 0
    for start, stop in runs:
        said = turn(line[start:stop])
        if _common_share(said) > _PLAIN and len(_common_in(said) - _EITHER_WAY) > 1:
            pieces += [line[end:start], said]
            end = stop
    return "".join((*pieces, line[end:])) if pieces else line


def _strange(line: str) -> list[tuple[int, int]]:
    """Start and end of each run of uncommon words. Quotes, colons and common words end a run."""
    runs: list[tuple[int, int]] = []
    start = end = count = 0
    for found in _WORD.finditer(line):
        word, gap = found[0].lower(), line[end : found.start()]
        is_common = word in _COMMON and word not in _EITHER_WAY
        if is_common or (count and _BORDER.search(gap)):
            if count >= _SHORTEST_SENTENCE:
                runs.append((start, end))
            count = 0
        if not is_common:
            start = start if count else found.start()
            count += 1
        end = found.end()
    return [*runs, (start, end)] if count >= _SHORTEST_SENTENCE else runs


def _backwards(line: str) -> str:
    return line[::-1]


def _words_backwards(line: str) -> str:
    return _FOREIGN.sub(lambda found: found[0][::-1], line)


def _rotated(line: str) -> str:
    return line.translate(_ROTATIONS[_rotation_of(set(_WORD.findall(line.lower())))])


def _common_share(line: str) -> float:
    words = _WORD.findall(line.lower())
    return sum(word in _COMMON for word in words) / max(1, len(words))
