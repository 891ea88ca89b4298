"""Text as a reader would take it who sees through disguises: for rules that block, never for what is sent on.

Undone is what keeps the words and changes their letters: letters that look alike, invisible characters, text hidden in tag
characters, spelled-out words, digits for letters, words backwards, and the encodings that models read (base64, hex, percent,
character references, escapes, rot13). A text with none of them costs its patterns once and is read as it stands.
"""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Callable, Iterator
from urllib.parse import unquote

from router.core.invisible import HIDDEN_CATEGORIES

_MOST_READINGS = 8  # of one text; what is decoded may hold something encoded again
_LEAST_LETTERS = 0.8  # of what was decoded, letters, digits and spaces: else it was no text

# -- letters ---------------------------------------------------------------------------------------------------------

_ALIKE = {
    # Cyrillic
    **dict(zip("абвгдеёзиіїјкмнопрсԁтуѵхѕһԛԝүьӏ", "abbrdee3niijkmhonpcdtyvxshqwybl", strict=True)),
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
_LATIN = re.compile(r"[a-z]", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]+")
_LETTERS = str.maketrans(
    {chr(0x1F1E6 + n): chr(0x61 + n) for n in range(26)}  # regional indicators
    | {chr(start + n): chr(0x61 + n) for start in (0x1F150, 0x1F170) for n in range(26)}  # white in black circles and squares
)
_TAGS = re.compile(r"[\U000e0020-\U000e007e]+")
_VARIATION = re.compile(r"[\ufe00-\ufe0f\U000e0100-\U000e01ef]{4,}")
_MOST_MARKS = re.compile(r"(\w)[\u0300-\u036f\u0489\u20d0-\u20f0]+")


def readings_of(text: str) -> list[str]:
    """`text` itself, and what it says without its disguises where that is something else: at most eight texts."""
    found = [text]
    waiting = [text]
    while waiting and len(found) < _MOST_READINGS:
        some = waiting.pop()
        plain = _plain(some)
        for reading in (plain, *_decoded(plain), *_regrouped(plain)):
            if reading not in found and len(found) < _MOST_READINGS:
                found.append(reading)
                waiting += [reading] if reading is not plain else []
    return found


def _plain(text: str) -> str:
    """The same letters as plain ones; the text itself where a reader of plain ones sees no difference."""
    if text.isascii():
        return text
    shown = _TAGS.sub(lambda tags: " " + "".join(chr(ord(tag) - 0xE0000) for tag in tags[0]) + " ", text)
    shown = _VARIATION.sub(_bytes_of_variations, shown).translate(_LETTERS)
    shown = unicodedata.normalize("NFKC", shown)
    shown = "".join(
        char for char in shown if char.isprintable() or char in "\n\t" or unicodedata.category(char) not in HIDDEN_CATEGORIES
    )
    shown = _MOST_MARKS.sub(r"\1", unicodedata.normalize("NFD", shown))
    shown = _WORD.sub(_latin, unicodedata.normalize("NFC", shown))
    return shown if _folded(shown) != _folded(text) else text


def _is_shown(char: str) -> bool:
    return char.isprintable() or char in "\n\t" or unicodedata.category(char) not in HIDDEN_CATEGORIES


def _folded(text: str) -> str:
    """Its letters and digits, without marks: as much of it as makes words."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFD", text.lower())))


def _bytes_of_variations(found: re.Match[str]) -> str:
    """Variation selectors can carry a byte each: 1 to 16 and 17 to 256."""
    values = [ord(char) - 0xFE00 if ord(char) < 0xFE10 else ord(char) - 0xE0100 + 16 for char in found[0]]
    return f" {bytes(values).decode('utf-8', 'ignore')} "


def _latin(found: re.Match[str]) -> str:
    """A word that mixes Latin letters with others that look like some, as Latin letters; a foreign word stays."""
    word = found[0]
    if word.isascii() or not _LATIN.search(word):
        return word
    return "".join(char if char.isascii() else _ALIKE.get(char.lower(), char) for char in word)


# -- words -----------------------------------------------------------------------------------------------------------

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
_SPELLED = re.compile(r"(?<![\w])(?:[^\W_][ .\-_*|/,·•]{1,3}){5,}[^\W_](?![^\W_])")
_GAP = re.compile(r"[ .\-_*|/,·•]+")
_LEET = str.maketrans("0134578@$!|+", "oieastbasiit")
_LEET_WORD = re.compile(r"(?<![\w@$!|+])(?=[\w@$!|+]{0,19}[a-zA-Z])(?=[\w@$!|+]{0,19}[0134578@$!|+][\w@$!|+]*\b)[\w@$!|+]{3,20}")
_LEAST_LEET = 2  # common words that appear when digits become letters: names of versions and hashes give none
_ROT13 = str.maketrans(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", "nopqrstuvwxyzabcdefghijklmNOPQRSTUVWXYZABCDEFGHIJKLM"
)
_SHORTEST_LINE = 16


def _regrouped(text: str) -> Iterator[str]:
    """Words spelled out, with digits for letters, backwards or rotated."""
    if _SPELLED.search(text):
        yield _SPELLED.sub(_joined, text)
    leet = [word.translate(_LEET).lower() for word in _LEET_WORD.findall(text)]
    if sum(word in _COMMON for word in leet) >= _LEAST_LEET:
        yield text.translate(_LEET)
    lines = text.splitlines()
    for turn in (_backwards, _rotated):
        turned = [turn(line) if _is_turned(line, turn) else line for line in lines]
        if turned != lines:
            yield "\n".join(turned)


def _backwards(line: str) -> str:
    return line[::-1]


def _rotated(line: str) -> str:
    return line.translate(_ROT13)


def _joined(found: re.Match[str]) -> str:
    """Single letters as words: what stands between most letters joins them, anything else begins a new word."""
    gaps = _GAP.findall(found[0])
    usual = max(set(gaps), key=gaps.count)
    return _GAP.sub(lambda gap: "" if gap[0] == usual else " ", found[0])


def _is_turned(line: str, turn: Callable[[str], str]) -> bool:
    """Common words stand in the line turned round, and hardly any in it as it is."""
    if len(line) < _SHORTEST_LINE:
        return False
    said = _common_share(turn(line))
    return said > 0.25 and said > 2.5 * _common_share(line)  # some words are words either way: no, was, a


def _common_share(line: str) -> float:
    words = re.findall(r"[a-z]+", line.lower())
    return sum(word in _COMMON for word in words) / max(1, len(words))


# -- encodings -------------------------------------------------------------------------------------------------------

_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{20,}(?:\r?\n[A-Za-z0-9+/_-]{20,})*={0,2}")
_HEX = re.compile(r"(?<![0-9A-Za-z])(?:(?:0x|\\x|x)?[0-9A-Fa-f]{2}[ ,:;]{0,2}){12,}(?![0-9A-Za-z])")
_BITS = re.compile(r"(?<!\d)(?:[01]{8} ?){12,}(?!\d)")
_PERCENT = re.compile(r"(?:%[0-9A-Fa-f]{2}[\w.!~*'()+-]*){3,}")
_REFERENCES = re.compile(r"(?:&#(?:\d{1,7}|[xX][0-9A-Fa-f]{1,6});\s*){3,}")
_REFERENCE = re.compile(r"&#(?:(\d{1,7})|[xX]([0-9A-Fa-f]{1,6}));")
_ESCAPES = re.compile(r"(?:\\u[0-9A-Fa-f]{4}|\\U000[0-9A-Fa-f]{5}|\\u\{[0-9A-Fa-f]{1,6}\})")
_HEX_DIGITS = re.compile(r"[0-9A-Fa-f]+")


def _decoded(text: str) -> Iterator[str]:
    """What encoded stretches say: each by itself when long, in its place when it is part of a word."""
    for pattern, decode in ((_BASE64, _from_base64), (_HEX, _from_hex), (_BITS, _from_bits)):
        for found in pattern.finditer(text):
            said = decode(found[0])
            if _is_text(said) or _BASE64.fullmatch(said):
                yield said
    for pattern, say in ((_PERCENT, _from_percent), (_REFERENCES, _from_references), (_ESCAPES, _from_escape)):
        shown = pattern.sub(say, text)
        if shown != text:
            yield shown


def _is_text(said: str) -> bool:
    readable = sum(char.isalnum() or char in " \n" for char in said)
    return len(said) >= 12 and " " in said.strip() and readable >= _LEAST_LETTERS * len(said)


def _from_base64(found: str) -> str:
    plain = re.sub(r"\s", "", found).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4)).decode("utf-8", "replace")
    except binascii.Error:
        return ""


def _from_hex(found: str) -> str:
    digits = "".join(re.findall(r"(?:0x|\\x|x)?([0-9A-Fa-f]{2})", found))
    return bytes.fromhex(digits).decode("utf-8", "replace")


def _from_bits(found: str) -> str:
    digits = found.replace(" ", "")
    return bytes(int(digits[at : at + 8], 2) for at in range(0, len(digits), 8)).decode("utf-8", "replace")


def _from_percent(found: re.Match[str]) -> str:
    return unquote(found[0])


def _from_references(found: re.Match[str]) -> str:
    return _REFERENCE.sub(lambda one: _char(int(one[1] or one[2], 10 if one[1] else 16)), found[0])


def _from_escape(found: re.Match[str]) -> str:
    return _char(int("".join(_HEX_DIGITS.findall(found[0].lstrip("\\uU"))), 16))


def _char(code: int) -> str:
    return chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else " "
