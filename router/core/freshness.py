"""What a backend's response headers say about giving its answer again, and for how long (RFC 9111).

Reads headers only; `openai/completion` says whether the body may be stored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from router.core.headers import ACCEPT_ENCODING, AGE, CACHE_CONTROL, CONTENT_TYPE, DATE, EXPIRES, ORIGIN, PRAGMA, VARY
from router.core.openai.completion import NotStorable

EVENT_STREAM = "text/event-stream"
_JSON = "application/json"
_HARMLESS_VARY = frozenset({ACCEPT_ENCODING, ORIGIN})
"""The router asks for no encoding, and what a browser's page is allowed to read stands in headers that are not stored."""
_DIRECTIVE = re.compile(r'([\w!#$%&\'*+.^`|~-]+)[ \t]*(?:=[ \t]*("(?:[^"\\]|\\.)*"|[^",]*))?', re.ASCII)
_SECONDS = re.compile(r"\d+", re.ASCII)
_MAX_DIGITS, _MAX_SECONDS = 9, 2.0**31  # RFC 9111, 1.2.2: what is too large to be held is this much
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
"""Of `_MONTHS`: years are counted from there, so that a leap day is the last."""
_DAYS_TO_1970 = 719_469  # from the first of March of the year 0, which is day 1
_CENTURY_TURNS = 70  # a year of two digits from here on is of the last century


def media_type(headers: Mapping[str, str]) -> str:
    """Of a `Content-Type`, in lower case and without parameters; empty when there is none."""
    return headers.get(CONTENT_TYPE, "").partition(";")[0].strip().lower()


def directives(headers: Mapping[str, str]) -> dict[str, float]:
    """The directives of a `Cache-Control` header in lower case, each with its seconds (RFC 9111, 5.2).

    What is no number of seconds is 0, and of a directive that is repeated the smallest counts: rather stale than kept too long
    (4.2.1).
    """
    found: dict[str, float] = {}
    for name, argument in _DIRECTIVE.findall(headers.get(CACHE_CONTROL, "")):
        seconds = _seconds(argument.strip().strip('"'))
        found[name.lower()] = min(found.get(name.lower(), seconds), seconds)
    return found


def backend_ttl_s(headers: Mapping[str, str], now_s: float, scope_header: str = "") -> float | None:
    """For how many seconds from now the backend lets its answer be given again; None when it sets no bound.

    RFC 9111, with the section of each: `no-store` and `private` forbid it (5.2.2.5, 5.2.2.7), `no-cache` too, which would have
    the backend asked each time (5.2.2.4), and so does its old form in `Pragma` (5.4). These two count for JSON alone: on event
    streams servers send them by habit, to keep proxies from holding them back. `Vary` forbids it where it names what the cache
    does not keep apart (4.1): all but `scope_header`, which every request of a scope sends alike. The lifetime is `s-maxage`,
    else `max-age`, else `Expires` minus `Date` (4.2.1); what was spent of it in other caches is `Age` (4.2.3). `now_s`, a Unix
    time, stands for a missing `Date`.

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
    # "0" and other values that are no date mean the past (5.3).
    return 0.0 if expires_s is None else expires_s - (now_s if date_s is None else date_s)


def _age_s(headers: Mapping[str, str]) -> float:
    """Of a list the first; one that is no number says nothing (5.1)."""
    age = headers.get(AGE, "").partition(",")[0].strip()
    return _seconds(age)


def _seconds(text: str) -> float:
    """A number of seconds; what is none is 0."""
    if not _SECONDS.fullmatch(text):
        return 0.0
    return float(text) if len(text) <= _MAX_DIGITS else _MAX_SECONDS


def _unix_time(text: str) -> float | None:
    """A date of HTTP in seconds since 1970; None when it is none."""
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
