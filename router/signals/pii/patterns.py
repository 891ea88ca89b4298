"""Finds personal data that has a fixed form, such as card numbers, by form and check digits. Uses no model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from ipaddress import ip_address

from router.inference.spans import Span


def _is_card(text: str) -> bool:
    """ISO/IEC 7812-1, annex B (Luhn): every second digit from the right counts twice."""
    digits = [int(character) for character in text if character.isdigit()][::-1]
    return (sum(digits[0::2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])) % 10 == 0 and any(digits)


def _is_iban(text: str) -> bool:
    """ISO 13616: after moving the first four characters to the end and writing letters as numbers, it is 1 modulo 97."""
    plain = text.replace(" ", "").upper()
    return int("".join(str(int(character, 36)) for character in plain[4:] + plain[:4])) % 97 == 1


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _always(_text: str) -> bool:
    return True


_PATTERNS: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("EMAIL_ADDRESS", re.compile(r"(?<![\w.+%-])[\w.+%-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w-])"), _always),
    (
        "IBAN_CODE",
        re.compile(r"(?<!\w)[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]{4}){2,7}(?: ?[A-Za-z0-9]{1,3})?(?!\w)", re.ASCII),
        _is_iban,
    ),
    ("CREDIT_CARD", re.compile(r"(?<![\w-])[2-6]\d{3}(?:[ -]?\d){8,15}(?![\w-])", re.ASCII), _is_card),
    ("US_SSN", re.compile(r"(?<![\w-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])", re.ASCII), _always),
    ("IP_ADDRESS", re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\w)", re.ASCII), _is_address),
    ("IP_ADDRESS", re.compile(r"(?<![\w:])[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{0,4}){3,7}(?![\w:])"), _is_address),
)
"""Every repetition is bounded, so the time is linear in the text."""


def with_patterns(text: str, spans: Iterable[Span], kinds: Iterable[str]) -> tuple[Span, ...]:
    """`spans` and all that has the form of one of `kinds`, in the order of the text. A form replaces spans that it overlaps."""
    known = set(kinds)
    sure = [
        Span(match.start(), match.end(), kind, 1.0)
        for kind, pattern, is_valid in _PATTERNS
        if kind in known
        for match in pattern.finditer(text)
        if is_valid(match[0])
    ]
    if not sure:
        return tuple(spans)
    rest = [span for span in spans if all(span.end <= found.start or span.start >= found.end for found in sure)]
    return tuple(sorted((*sure, *rest), key=lambda span: (span.start, span.end)))
