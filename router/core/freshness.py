"""Whether a backend's response headers allow its answer to be stored, and for how long (RFC 9111).

Reads headers only; `openai/completion` decides about the body.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from router.core.headers import ACCEPT_ENCODING, AGE, CACHE_CONTROL, CONTENT_TYPE, DATE, EXPIRES, ORIGIN, PRAGMA, VARY
from router.core.openai.completion import NotStorable

EVENT_STREAM = "text/event-stream"
_JSON = "application/json"
_HARMLESS_VARY = frozenset({ACCEPT_ENCODING, ORIGIN})
"""These do not change the stored answer: the router asks for no encoding, and CORS headers are not stored."""
_DIRECTIVE = re.compile(r'([\w!#$%&\'*+.^`|~-]+)[ \t]*(?:=[ \t]*("(?:[^"\\]|\\.)*"|[^",]*))?', re.ASCII)
_SECONDS = re.compile(r"\d+", re.ASCII)
_MAX_DIGITS, _MAX_SECONDS = 9, 2.0**31  # RFC 9111, 1.2.2: larger values count as 2^31
_NAME, _TIME = "[A-Z][a-z]{2}", r"(?P<hour>[01]\d|2[0-3]):(?P<minute>[0-5]\d):(?P<second>[0-5]\d)"
_DATES = (
    re.compile(
        rf"(?:{_NAME}|[A-Z][a-z]+day), (?P<day>\d\d)[ -](?P<month>{_NAME})[ -](?P<year>\d{{4}}|\d\d) {_TIME} GMT", re.ASCII
    ),
    re.compile(rf"{_NAME} (?P<month>{_NAME}) (?P<day>[ \d]\d) {_TIME} (?P<year>\d{{4}})", re.ASCII),
)
"""The three forms of RFC 9110, 5.6.7."""
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MARCH = 2
"""Index in `_MONTHS`. Years start in March here, so a leap day is the last day of its year."""
_DAYS_TO_1970 = 719_469  # from the first of March of the year 0, which is day 1
_CENTURY_TURNS = 70  # two-digit years from 70 on belong to the last century


def media_type(headers: Mapping[str, str]) -> str:
    """The media type of `Content-Type`, in lower case and without parameters; empty when there is none."""
    return headers.get(CONTENT_TYPE, "").partition(";")[0].strip().lower()


def directives(headers: Mapping[str, str]) -> dict[str, float]:
    """The directives of a `Cache-Control` header in lower case, each with its seconds (RFC 9111, 5.2).

    An argument that is not a number counts as 0. Of a repeated directive the smallest value counts, because storing an answer too
    briefly is safer than storing it too long (4.2.1).
    """
    found: dict[str, float] = {}
    for name, argument in _DIRECTIVE.findall(headers.get(CACHE_CONTROL, "")):
        seconds = _seconds(argument.strip().strip('"'))
        found[name.lower()] = min(found.get(name.lower(), seconds), seconds)
    return found


def backend_ttl_s(headers: Mapping[str, str], now_s: float, scope_header: str = "") -> float | None:
    """For how many seconds from now the backend allows its answer to be served again; None when it sets no bound.

    The rules, with their sections of RFC 9111. `no-store` and `private` forbid storing (5.2.2.5, 5.2.2.7). `no-cache` demands
    that the backend is asked each time, so it forbids storing as well (5.2.2.4), and so does its old form in `Pragma` (5.4).
    These two count only for JSON: on event streams servers send them by habit, so that proxies do not buffer. `Vary` forbids
    storing when it names a header that the cache does not separate by (4.1). It separates by `scope_header` only. The lifetime
    is `s-maxage`, else `max-age`, else `Expires` minus `Date` (4.2.1), less the `Age` that it spent in other caches (4.2.3).
    `now_s` is a Unix time and replaces a missing `Date`.

    Raises:
        NotStorable: the backend forbids it, or the body is neither JSON nor an event stream.
    """
    kind, said = media_type(headers), directives(headers)
    if kind not in (_JSON, EVENT_STREAM):
        raise NotStorable("content_type")
    if "no-store" in said or "private" in said:
        raise NotStorable("no_store" if "no-store" in said else "private")
    if kind != EVENT_STREAM and ("no-cache" in said or "no-cache" in headers.get(PRAGMA, "").lower()):
        raise NotStorable("no_cache")
    varies = {name.strip().lower() for name in headers.get(VARY, "").split(",")}
    if varies - _HARMLESS_VARY - {"", scope_header}:
        raise NotStorable("vary")
    lifetime_s = _lifetime_s(headers, said, now_s)
    if lifetime_s is None:
        return None
    left_s = lifetime_s - _age_s(headers)
    if left_s <= 0:
        raise NotStorable("expired")
    return left_s


def _lifetime_s(headers: Mapping[str, str], said: Mapping[str, float], now_s: float) -> float | None:
    for name in ("s-maxage", "max-age"):
        if name in said:
            return said[name]
    if EXPIRES not in headers:
        return None
    expires_s, date_s = _unix_time(headers[EXPIRES]), _unix_time(headers.get(DATE, ""))
    # "0" and other invalid dates mean the past (5.3).
    return 0.0 if expires_s is None else expires_s - (now_s if date_s is None else date_s)


def _age_s(headers: Mapping[str, str]) -> float:
    """The first value of a list; an invalid value counts as 0 (5.1)."""
    age = headers.get(AGE, "").partition(",")[0].strip()
    return _seconds(age)


def _seconds(text: str) -> float:
    """A number of seconds; 0 for anything else."""
    if not _SECONDS.fullmatch(text):
        return 0.0
    return float(text) if len(text) <= _MAX_DIGITS else _MAX_SECONDS


def _unix_time(text: str) -> float | None:
    """An HTTP date in seconds since 1970; None for anything else."""
    found = next((match for form in _DATES if (match := form.fullmatch(text.strip()))), None)
    if found is None or found["month"] not in _MONTHS:
        return None
    year, month = int(found["year"]), _MONTHS.index(found["month"])
    if len(found["year"]) < 4:
        year += 1900 if year >= _CENTURY_TURNS else 2000
    if month < _MARCH:
        year, month = year - 1, month + 12
    leap_days, before = year // 4 - year // 100 + year // 400, (153 * (month - _MARCH) + 2) // 5  # of the year, of the months
    days = 365 * year + leap_days + before + int(found["day"]) - _DAYS_TO_1970
    return float(86_400 * days + 3600 * int(found["hour"]) + 60 * int(found["minute"]) + int(found["second"]))
