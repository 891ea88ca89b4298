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
    """Whether it is an address of the internet. Of private and reserved ones the model tells whether they are somebody's."""
    try:
        return ip_address(text).is_global
    except ValueError:
        return False


def _is_mailbox(text: str) -> bool:
    """Whether it can be somebody's. RFC 2606 reserves some domains for examples."""
    return not re.search(r"[@.]example(?:\.(?:com|net|org|co\.uk))?$|\.(?:test|invalid|localhost)$", text, re.IGNORECASE)


def _always(_text: str) -> bool:
    return True


_PATTERNS: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("EMAIL_ADDRESS", re.compile(r"(?<![\w.+%-])[\w.+%-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w-])"), _is_mailbox),
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


_URL = re.compile(r"(?<![\w/])(?:https?://|www\.)[^\s<>\"'`\[\]{}|]{2,2000}", re.IGNORECASE)


def _with_whole_urls(text: str, spans: tuple[Span, ...]) -> tuple[Span, ...]:
    """`spans` where each URL that the model has seen a part of is one span, with its scheme and its query."""
    if not any(span.kind == "URL" for span in spans):
        return spans
    for match in _URL.finditer(text):
        start, end = match.start(), match.start() + len(match[0].rstrip(".,;:!?)"))
        inside = [span for span in spans if span.start < end and start < span.end]
        if any(span.kind == "URL" for span in inside):
            whole = Span(start, end, "URL", max(span.probability for span in inside if span.kind == "URL"))
            spans = tuple(sorted((*(span for span in spans if span not in inside), whole), key=lambda span: span.start))
    return spans


def with_patterns(text: str, spans: Iterable[Span], kinds: Iterable[str]) -> tuple[Span, ...]:
    """`spans` and all that has the form of one of `kinds`, in the order of the text. A form replaces spans that it overlaps."""
    known, spans = set(kinds), _with_whole_urls(text, tuple(spans))
    sure = [
        Span(match.start(), match.end(), kind, 1.0)
        for kind, pattern, is_valid in _PATTERNS
        if kind in known
        for match in pattern.finditer(text)
        if is_valid(match[0])
    ]
    if not sure:
        return spans
    rest = [span for span in spans if all(span.end <= found.start or span.start >= found.end for found in sure)]
    return tuple(sorted((*sure, *rest), key=lambda span: (span.start, span.end)))
