"""Decodes encoded text inside other text, for encodings that models read: base64, base32, hex, codes, escapes, references."""

from __future__ import annotations

import base64
import re
import unicodedata
from collections.abc import Callable, Iterator
from urllib.parse import unquote

_MIN_LETTERS = 0.8  # the share of letters, digits and spaces; with fewer, the decoded bytes are not text

_BETWEEN = r"[^0-9A-Za-z]"
"""People and programs write these between two codes: blanks, commas, line ends, quotes ..."""
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{20,}(?:\r?\n[A-Za-z0-9+/_-]{20,})*={0,2}")
_PARTING = r"""(?:["'`]\s?[+.]\s?["'`]|[^A-Za-z0-9+/=]{1,5})"""
_BASE64_PIECES = re.compile(
    r"(?<![\w+/=])(?:(?:(?:[A-Za-z0-9+/]{4})++(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?|[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)"
    rf"{_PARTING}){{3,}}[A-Za-z0-9+/=]*"
)
_PARTS = re.compile(_PARTING)
_BASE32 = re.compile(r"(?<![A-Za-z0-9])(?:[A-Z2-7]{24,}+|[a-z2-7]{24,}+)={0,6}")
_HEX = re.compile(rf"(?<![0-9A-Za-z])(?:(?:0x|\\x|x)?[0-9A-Fa-f]{{2}}{_BETWEEN}{{0,4}}+){{12,}}+")
_HEX_BYTE = re.compile(r"(?:0x|\\x|x)?([0-9A-Fa-f]{2})")
_BITS = re.compile(rf"(?<!\d)(?:(?:[01]{{8}}{_BETWEEN}{{0,4}}+){{12,}}+|(?:[01]{{7}}{_BETWEEN}{{1,4}}+){{12,}}+)")
_CODES = re.compile(rf"(?<![\d.])(?:(?:chr\(|fromCharCode\()?0?\d{{2,3}}{_BETWEEN}{{1,5}}+){{11,}}+\d{{0,3}}")
_PERCENT = re.compile(r"(?:%[0-9A-Fa-f]{2}[\w.!~*'()+-]*){3,}")
_PERCENT_LETTER = re.compile(r"%(?:25){0,8}(4[1-9A-Fa-f]|5[0-9Aa]|6[1-9A-Fa-f]|7[0-9Aa])")
_QUOTED = re.compile(r"=([0-9A-F]{2})")
_REFERENCES = re.compile(r"(?:&#(?:\d{1,7}|[xX][0-9A-Fa-f]{1,6});?\s*){3,}")
_REFERENCE = re.compile(r"&#(?:(\d{1,7})|[xX]([0-9A-Fa-f]{1,6}));?")
_AMPERSAND = re.compile(r"&amp;(?=#|amp;#)")
_UNSEEN = re.compile(r"&(?:shy|zwj|zwnj|lrm|rlm|ZeroWidthSpace|NoBreak|InvisibleTimes|InvisibleComma|af|ic|it);")
_ESCAPES = re.compile(r"[\\%]u[0-9A-Fa-f]{4}|\\U000[0-9A-Fa-f]{5}|\\u\{[0-9A-Fa-f]{1,6}\}")
_CODE_POINTS = re.compile(r"U\+([0-9A-Fa-f]{4,6})[ ,;]?")
_CSS = re.compile(r"\\([0-9A-Fa-f]{2}) ")
_NAMES = re.compile(r"\\N\{([A-Z0-9 -]{1,60})\}")
_OCTAL = re.compile(r"\\([01][0-7]{2})")
_HEX_DIGITS = re.compile(r"[0-9A-Fa-f]+")
_LITERALS = re.compile(r"""["'`]\s{0,4}(?:\+|\.|~|\|\||&)\s{0,4}["'`]""")
_MIN_QUOTED = 6  # `a=20` and `b=3F` are common in addresses and code
_MIN_JOINED = 3


def decoded(text: str) -> Iterator[str]:
    """The decoded text of encoded stretches: a long stretch by itself, a short one in its place inside the text."""
    yield from stretches(text)
    for pattern, say, min_count in _IN_PLACE:
        shown, count = pattern.subn(say, text)
        if count >= min_count and shown != text:
            yield shown


def stretches(text: str, min_chars: int = 0) -> Iterator[str]:
    """The decoded text of each encoded stretch of at least `min_chars`."""
    for pattern, decode in _STRETCHES:
        for found in pattern.finditer(text):
            if len(found[0]) < min_chars:
                continue
            for said in decode(found[0]):
                if _is_text(said) or _BASE64.fullmatch(said):
                    yield said
                    break


def _is_text(said: str) -> bool:
    readable = sum(char.isalnum() or char in " \n" for char in said)
    return len(said) >= 12 and " " in said.strip() and readable >= _MIN_LETTERS * len(said)


def _from_base64(found: str) -> Iterator[str]:
    """Decode from the start, or from one of the next characters, because other text may directly precede it."""
    plain = re.sub(r"\s", "", found).rstrip("=").replace("-", "+").replace("_", "/")
    for start in range(4):
        yield from _texts(_base64_bytes(plain[start:]))


def _from_pieces(found: str) -> Iterator[str]:
    yield from _texts(b"".join(_base64_bytes(piece.rstrip("=")) for piece in _PARTS.split(found)))


def _base64_bytes(plain: str) -> bytes:
    plain = plain[: len(plain) - (len(plain) % 4 == 1)]
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4))
    except ValueError:  # an equals sign in the middle
        return b""


def _from_base32(found: str) -> Iterator[str]:
    plain = found.rstrip("=").upper()
    try:
        yield from _texts(base64.b32decode(plain + "=" * (-len(plain) % 8)))
    except ValueError:  # the wrong length
        return


def _from_hex(found: str) -> Iterator[str]:
    digits = "".join(_HEX_BYTE.findall(found))
    for start in range(2):
        yield from _texts(bytes.fromhex(digits[start : len(digits) - (len(digits) - start) % 2]))


def _from_bits(found: str) -> Iterator[str]:
    """Decode groups of seven or eight bits. Without gaps, the first group may start at any of the first eight bits."""
    groups = re.findall(r"[01]+", found)
    if len(groups) > 1 and all(len(group) in (7, 8) for group in groups):
        yield from _texts(bytes(int(group, 2) for group in groups))
        return
    digits = "".join(groups)
    for start in range(8):
        yield from _texts(bytes(int(digits[at : at + 8], 2) for at in range(start, len(digits) - 7, 8)))


def _from_codes(found: str) -> Iterator[str]:
    """Decode decimal codes, and octal ones when no digit is greater than seven."""
    codes = re.findall(r"\d+", found)
    yield "".join(_char(int(code)) for code in codes)
    if not re.search(r"[89]", found):
        yield "".join(_char(int(code, 8)) for code in codes)


def _texts(data: bytes) -> Iterator[str]:
    """Decode as UTF-8, or as UTF-16 when every other byte is zero."""
    for zeros, encoding in ((data[1::2], "utf-16-le"), (data[::2], "utf-16-be")):
        if zeros.count(0) > len(data) // 3:
            yield data.decode(encoding, "replace")
    yield data.decode("utf-8", "replace")


def _from_percent(found: re.Match[str]) -> str:
    return unquote(found[0])


def _from_references(found: re.Match[str]) -> str:
    return _REFERENCE.sub(_referred, found[0])


def _referred(found: re.Match[str]) -> str:
    return _char(int(found[1] or found[2], 10 if found[1] else 16))


def _from_letter(found: re.Match[str]) -> str:
    """The character of a reference to a plain letter or an invisible character. Honest text needs no such reference."""
    char = _referred(found)
    return char if (char.isascii() and char.isalpha()) or not char.isprintable() else found[0]


def _from_escape(found: re.Match[str]) -> str:
    return _char(int("".join(_HEX_DIGITS.findall(found[0].lstrip("\\%uU"))), 16))


def _from_octal(found: re.Match[str]) -> str:
    return _char(int(found[1], 8))


def _from_point(found: re.Match[str]) -> str:
    return _char(int(found[1], 16))


def _from_name(found: re.Match[str]) -> str:
    try:
        return unicodedata.lookup(found[1])
    except KeyError:
        return found[0]


def _char(code: int) -> str:
    return chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else " "


_STRETCHES: tuple[tuple[re.Pattern[str], Callable[[str], Iterator[str]]], ...] = (
    (_BASE64, _from_base64),
    (_BASE64_PIECES, _from_pieces),
    (_BASE32, _from_base32),
    (_HEX, _from_hex),
    (_BITS, _from_bits),
    (_CODES, _from_codes),
)
_IN_PLACE: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str], int], ...] = (
    (_AMPERSAND, lambda _: "&", 1),
    (_UNSEEN, lambda _: "", 1),
    (_PERCENT, _from_percent, 1),
    (_PERCENT_LETTER, _from_point, _MIN_JOINED),
    (_REFERENCES, _from_references, 1),
    (_REFERENCE, _from_letter, 1),
    (_ESCAPES, _from_escape, 1),
    (_CODE_POINTS, _from_point, _MIN_QUOTED),
    (_CSS, _from_point, _MIN_QUOTED),
    (_NAMES, _from_name, _MIN_JOINED),
    (_QUOTED, _from_point, _MIN_QUOTED),
    (_OCTAL, _from_octal, _MIN_QUOTED),
    (_LITERALS, lambda _: "", _MIN_JOINED),
)
"""Each pattern with the number of times that it must occur before it is decoded."""
