"""What a backend's headers say about keeping its answer."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.freshness import backend_ttl_s
from router.core.openai.completion import NotStorable

JSON = {"content-type": "application/json"}
EVENTS = {"content-type": "text/event-stream; charset=utf-8"}
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
NOW_S = 784_111_777.0
"""The same moment."""


def ttl_of(headers: dict[str, str], scope_header: str = "authorization") -> float | None:
    """The lifetime of an answer as vLLM sends it, with these headers added."""
    return backend_ttl_s({**JSON, **headers}, NOW_S, scope_header)


@pytest.mark.parametrize(
    "kind", [JSON, EVENTS, {"content-type": "Application/JSON; charset=UTF-8"}, {"content-type": "text/event-stream"}]
)
def test_what_vllm_sends_is_kept_without_a_bound(kind: dict[str, str]) -> None:
    """vLLM says nothing of caching, so the operator decides."""
    assert backend_ttl_s({**kind, "date": DATE, "server": "uvicorn", "content-length": "5", "x-request-id": "1"}, NOW_S) is None


@pytest.mark.parametrize(
    "kind", ["text/html", "text/plain", "application/octet-stream", "", "application/json, text/html", "json"]
)
def test_what_is_no_answer_by_its_type_is_not_kept(kind: str) -> None:
    """An error page of a proxy is not a completion, whatever it looks like."""
    with pytest.raises(NotStorable, match=r"^content_type$"):
        ttl_of({"content-type": kind})


def test_an_answer_without_a_type_is_not_kept() -> None:
    """Nobody knows what such a body is."""
    with pytest.raises(NotStorable, match=r"^content_type$"):
        backend_ttl_s({}, NOW_S)


@pytest.mark.parametrize(
    ("headers", "ttl_s"),
    [
        ({"cache-control": "public"}, None),
        ({"cache-control": "max-age=60"}, 60.0),
        ({"cache-control": 'Max-Age="60"'}, 60.0),
        ({"cache-control": "max-age=60, s-maxage=7"}, 7.0),
        ({"cache-control": "max-age=7, s-maxage=60"}, 60.0),
        ({"cache-control": "max-age=60, max-age=7, max-age=30"}, 7.0),
        ({"cache-control": 'foo="a, s-maxage=900", max-age=7'}, 7.0),
        ({"cache-control": "max-age=99999999999999"}, 2.0**31),
        ({**EVENTS, "cache-control": "no-cache"}, None),
        ({**EVENTS, "cache-control": "no-cache, max-age=5", "pragma": "no-cache"}, 5.0),
        ({"cache-control": "max-age=60", "age": "20"}, 40.0),
        ({"cache-control": "max-age=60", "age": "20, 50"}, 40.0),
        ({"cache-control": "max-age=60", "age": "-5"}, 60.0),
        ({"cache-control": "max-age=60", "age": "old"}, 60.0),
        ({"age": "20"}, None),
        ({"expires": "Sun, 06 Nov 1994 08:50:37 GMT"}, 60.0),
        ({"expires": "Sunday, 06-Nov-94 08:50:37 GMT"}, 60.0),
        ({"expires": "Sun Nov  6 08:50:37 1994"}, 60.0),
        ({"expires": "Sun, 06 Nov 1994 08:50:37 GMT", "date": "Sun, 06 Nov 1994 08:50:00 GMT"}, 37.0),
        ({"expires": "Sun, 06 Nov 1994 08:50:37 GMT", "date": "yesterday"}, 60.0),
        ({"expires": "Sun, 06 Nov 1994 08:50:37 GMT", "age": "20"}, 40.0),
        ({"expires": "Thu, 01 Jan 1970 00:00:00 GMT", "cache-control": "max-age=5"}, 5.0),
        ({"expires": "Sun, 06 Nov 1994 08:50:37 GMT", "cache-control": "public"}, 60.0),
        ({"vary": "Accept-Encoding, Origin"}, None),
        ({"vary": "accept-encoding,  Authorization,"}, None),
    ],
)
def test_it_says_how_long_an_answer_may_be_kept(headers: dict[str, str], ttl_s: float | None) -> None:
    """RFC 9111, 4.2.1 and 4.2.3, define this. Without such a header the operator decides."""
    assert ttl_of(headers) == ttl_s


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"cache-control": "no-store"}, "no_store"),
        ({**EVENTS, "cache-control": "No-Cache, No-Store"}, "no_store"),
        ({**EVENTS, "cache-control": "private, max-age=60"}, "private"),
        ({"cache-control": 'private="set-cookie"'}, "private"),
        ({"cache-control": "no-cache"}, "no_cache"),
        ({"cache-control": 'no-cache="set-cookie, x"'}, "no_cache"),
        ({"pragma": "No-Cache"}, "no_cache"),
        ({"pragma": "no-cache", "cache-control": "max-age=60"}, "no_cache"),
        ({**EVENTS, "cache-control": "max-age=0"}, "expired"),
        ({"cache-control": "s-maxage=0, max-age=60"}, "expired"),
        ({"cache-control": "max-age=60, max-age=0"}, "expired"),
        ({"cache-control": "max-age=-1"}, "expired"),
        ({"cache-control": "max-age=soon"}, "expired"),
        ({"cache-control": "max-age"}, "expired"),
        ({"cache-control": "max-age=, max-age=60"}, "expired"),
        ({"cache-control": "max-age, max-age=60"}, "expired"),
        ({"cache-control": "max-age=60, max-age"}, "expired"),
        ({"cache-control": "s-maxage=soon, max-age=60"}, "expired"),
        ({"cache-control": "max-age=1.5"}, "expired"),
        ({"cache-control": "max-age=60", "age": "60"}, "expired"),
        ({"cache-control": "max-age=60", "age": "99999999999999"}, "expired"),
        ({"expires": "0"}, "expired"),
        ({"expires": "-1"}, "expired"),
        ({"expires": ""}, "expired"),
        ({"expires": DATE}, "expired"),
        ({"expires": "Thu, 01 Jan 1970 00:00:00 GMT"}, "expired"),
        ({"expires": "Sun, 06 Nov 2094 28:49:37 GMT"}, "expired"),
        ({"expires": "Sun, 06 Now 2094 08:49:37 GMT"}, "expired"),
        ({"expires": "Sun, 06 Nov 2094 08:49:37 GMT, Sun, 06 Nov 2094 08:49:37 GMT"}, "expired"),
        ({**EVENTS, "expires": "0"}, "expired"),
        ({"vary": "*"}, "vary"),
        ({"vary": "accept-encoding, X-Team"}, "vary"),
        ({"vary": "Cookie"}, "vary"),
        ({**EVENTS, "vary": "Accept"}, "vary"),
    ],
)
def test_what_it_forbids_is_not_kept(headers: dict[str, str], reason: str) -> None:
    """RFC 9111, 4.1, 5.2.2, 5.3 and 5.4, forbid it."""
    with pytest.raises(NotStorable, match=f"^{reason}$"):
        ttl_of(headers)


@given(st.integers(0, 13_569_465_599))
def test_every_date_is_read(second: int) -> None:
    """The dates of four centuries agree with `datetime`."""
    expires = datetime.fromtimestamp(second, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    assert backend_ttl_s({**JSON, "expires": expires}, now_s=-1.0) == second + 1


def test_what_answers_vary_by_must_be_what_the_cache_keeps_apart() -> None:
    """The cache separates by the scope's own header. A global scope separates by nothing."""
    assert ttl_of({"vary": "X-User"}, "x-user") is None
    for scope_header, vary in (("", "Authorization"), ("x-user", "Authorization"), ("authorization", "X-User")):
        with pytest.raises(NotStorable, match=r"^vary$"):
            ttl_of({"vary": vary}, scope_header)
