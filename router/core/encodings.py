"""Text that stands encoded in other text, in the encodings that models read: base64, base32, hex, codes, escapes, references."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from urllib.parse import unquote

_LEAST_LETTERS = 0.8  # of what was decoded, letters, digits and spaces: else it was no text

_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{20,}(?:\r?\n[A-Za-z0-9+/_-]{20,})*={0,2}")
_BASE64_PIECES = re.compile(
    r"(?<![\w+/=])(?:(?:[A-Za-z0-9+/]{4})*+(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?[\s,;]{1,3}){3,}[A-Za-z0-9+/=]*"
)
_BASE32 = re.compile(r"(?<![A-Za-z0-9])[A-Z2-7]{24,}+={0,6}")
_HEX = re.compile(r"(?<![0-9A-Za-z])(?:(?:0x|\\x|x)?[0-9A-Fa-f]{2}[ ,:;]{0,2}){12,}(?![0-9A-Za-z])")
_BITS = re.compile(r"(?<!\d)(?:[01]{8} ?){12,}(?!\d)")
_CODES = re.compile(r"(?<![\d.])(?:\d{2,3}[ ,;]{1,2}){11,}\d{2,3}(?![\d.])")
_PERCENT = re.compile(r"(?:%[0-9A-Fa-f]{2}[\w.!~*'()+-]*){3,}")
_QUOTED = re.compile(r"=([0-9A-F]{2})")
_REFERENCES = re.compile(r"(?:&#(?:\d{1,7}|[xX][0-9A-Fa-f]{1,6});?\s*){3,}")
_REFERENCE = re.compile(r"&#(?:(\d{1,7})|[xX]([0-9A-Fa-f]{1,6}));?")
_ESCAPES = re.compile(r"\\u[0-9A-Fa-f]{4}|\\U000[0-9A-Fa-f]{5}|\\u\{[0-9A-Fa-f]{1,6}\}")
_OCTAL = re.compile(r"\\([01][0-7]{2})")
_HEX_DIGITS = re.compile(r"[0-9A-Fa-f]+")
_LEAST_QUOTED = 6  # `a=20` and `b=3F` stand in addresses and code


def decoded(text: str) -> Iterator[str]:
    """What encoded stretches of `text` say: each by itself when long, in its place when it is part of a word."""
    for pattern, decode in _STRETCHES:
        for found in pattern.finditer(text):
            said = decode(found[0])
            if _is_text(said) or _BASE64.fullmatch(said):
                yield said
    for pattern, say, least in _IN_PLACE:
        shown, count = pattern.subn(say, text)
        if count >= least and shown != text:
            yield shown


def _is_text(said: str) -> bool:
    readable = sum(char.isalnum() or char in " \n" for char in said)
    return len(said) >= 12 and " " in said.strip() and readable >= _LEAST_LETTERS * len(said)


def _from_base64(found: str) -> str:
    plain = re.sub(r"[\s,;]", "", found).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return _text(base64.b64decode(plain + "=" * (-len(plain) % 4)))
    except ValueError:  # not of that length, or not of those letters
        return ""


def _from_pieces(found: str) -> str:
    return "".join(map(_from_base64, re.split(r"[\s,;]+", found)))


def _from_base32(found: str) -> str:
    plain = found.rstrip("=")
    try:
        return _text(base64.b32decode(plain + "=" * (-len(plain) % 8)))
    except ValueError:  # not of that length, or not of those letters
        return ""


def _from_hex(found: str) -> str:
    digits = "".join(re.findall(r"(?:0x|\\x|x)?([0-9A-Fa-f]{2})", found))
    return _text(bytes.fromhex(digits))


def _from_bits(found: str) -> str:
    digits = found.replace(" ", "")
    return _text(bytes(int(digits[at : at + 8], 2) for at in range(0, len(digits), 8)))


def _from_codes(found: str) -> str:
    return "".join(map(_char, map(int, re.findall(r"\d+", found))))


def _text(data: bytes) -> str:
    """UTF-8, or UTF-16 where every other byte is zero."""
    if data[1::2].count(0) > len(data) // 3:
        return data.decode("utf-16-le", "replace")
    return data.decode("utf-8", "replace")


def _from_percent(found: re.Match[str]) -> str:
    return unquote(found[0])


def _from_references(found: re.Match[str]) -> str:
    return _REFERENCE.sub(lambda one: _char(int(one[1] or one[2], 10 if one[1] else 16)), found[0])


def _from_letter(found: re.Match[str]) -> str:
    """A reference to a plain letter: nobody needs one, as opposed to those for quotes and accents."""
    char = _char(int(found[1] or found[2], 10 if found[1] else 16))
    return char if char.isascii() and char.isalpha() else found[0]


def _from_escape(found: re.Match[str]) -> str:
    return _char(int("".join(_HEX_DIGITS.findall(found[0].lstrip("\\uU"))), 16))


def _from_quoted(found: re.Match[str]) -> str:
    return _char(int(found[1], 16))


def _from_octal(found: re.Match[str]) -> str:
    return _char(int(found[1], 8))


def _char(code: int) -> str:
    return chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else " "


_STRETCHES: tuple[tuple[re.Pattern[str], Callable[[str], str]], ...] = (
    (_BASE64, _from_base64),
    (_BASE64_PIECES, _from_pieces),
    (_BASE32, _from_base32),
    (_HEX, _from_hex),
    (_BITS, _from_bits),
    (_CODES, _from_codes),
)
_IN_PLACE: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str], int], ...] = (
    (_PERCENT, _from_percent, 1),
    (_REFERENCES, _from_references, 1),
    (_REFERENCE, _from_letter, 1),
    (_ESCAPES, _from_escape, 1),
    (_QUOTED, _from_quoted, _LEAST_QUOTED),
    (_OCTAL, _from_octal, _LEAST_QUOTED),
)
"""With how often each must stand in a text to be undone."""
