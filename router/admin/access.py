"""Decides who may use the admin port: programs on this network may, web pages in somebody's browser may not.

The port has no password. The headers that browsers send keep web pages out. `Host` holds the name that the browser looked up; a
foreign name there means DNS rebinding. `Origin` and `Sec-Fetch-Site` name the page that asks. A page cannot send JSON to another
site without a preflight request. Programs such as curl and Prometheus send only `Host`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from router.errors import RequestError

PROBES = frozenset({"/healthz", "/readyz"})
"""Answered for any `Host`: load balancers use their own names, and the answer reveals no more than a connection does."""
_READS = frozenset({"GET", "HEAD"})
_FORMS = frozenset({"text/plain", "application/x-www-form-urlencoded", "multipart/form-data"})
"""Content types that a page may send to another site without a preflight request. Refused even without a body, because `/restart`
needs none."""
_OWN_SITE = frozenset({"none", "same-origin"})
"""Values of `Sec-Fetch-Site` for a typed address and for a page of this port."""


def only_programs(address: str, allowed_hosts: Callable[[], Iterable[str]] = tuple) -> Middleware:
    """Middleware that refuses every request that a foreign web page could have sent.

    `address` is where the port listens, `host:port` or `unix:/path`. The `Host` header may hold an IP address, `localhost`, the
    name in `address`, or one of `allowed_hosts`, which is called for each request. IP addresses are safe: they need no DNS.
    """
    own = {"localhost"} if address.startswith("unix:") else {"localhost", name_in(address)}

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        _check_host(request, own.union(allowed_hosts()))
        _check_page(request)
        _check_type(request)
        return await handler(request)

    return check


def name_in(host: str) -> str:
    """The name or IP address in `host:port`: lower case, without brackets and final dot."""
    name, _, port = host.strip().rpartition(":")
    if not name or not port.isdecimal():
        name = host.strip()
    return name.removeprefix("[").removesuffix("]").removesuffix(".").lower()


def _check_host(request: web.Request, names: set[str]) -> None:
    """A missing header passes: HTTP/1.0 programs omit it, browsers never do."""
    for host in request.headers.getall(hdrs.HOST, ()):
        if not _is_address(name := name_in(host)) and name not in names and request.path not in PROBES:
            message = (
                "the Host header must hold an IP address, 'localhost' or one of admin.allowed_hosts, and it holds something else"
            )
            raise RequestError(403, message, param="host", code="host_not_allowed")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _check_page(request: web.Request) -> None:
    """Refuse pages of other sites. A link from one may be followed, but only to read."""
    headers = request.headers
    own = {f"{scheme}://{host.strip().lower()}" for host in headers.getall(hdrs.HOST, ()) for scheme in ("http", "https")}
    if any(origin.strip().lower() not in own for origin in headers.getall(hdrs.ORIGIN, ())):
        raise _another_site("origin")
    sites = {site.strip().lower() for site in headers.getall("Sec-Fetch-Site", ())}
    is_link = headers.get("Sec-Fetch-Mode") == "navigate" and headers.get("Sec-Fetch-Dest") == "document"
    if not sites <= _OWN_SITE and not (is_link and request.method in _READS):
        raise _another_site("sec-fetch-site")


def _another_site(header: str) -> RequestError:
    message = f"a page of another site may not use this port (see the header '{header}'); use a terminal"
    return RequestError(403, message, param=header, code="cross_site")


def _check_type(request: web.Request) -> None:
    """Require JSON: a page may send forms and plain text to any site, but not JSON."""
    is_form = hdrs.CONTENT_TYPE in request.headers and request.content_type in _FORMS
    is_json = request.content_type == "application/json"
    if request.method not in _READS and (is_form or (request.body_exists and not is_json)):
        message = "send the body with 'Content-Type: application/json'"
        raise RequestError(415, message, param="content-type", code="json_expected")
