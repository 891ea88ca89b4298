"""Who may ask the admin port: programs on this network, and no web page that somebody's browser happens to show.

The port has no passwords. What keeps a page from it is what browsers say of themselves: `Host` names the site whose address
was looked up (a name of somebody else's is DNS rebinding), `Origin` and `Sec-Fetch-Site` say which page asks, and a page
cannot send JSON elsewhere without asking first. Programs such as curl and Prometheus send none of that but `Host`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from router.errors import RequestError

PROBES = frozenset({"/healthz", "/readyz"})
"""Answered under any name: they tell no more than a connection does, and load balancers ask under their own names."""
_READS = frozenset({"GET", "HEAD"})
_FORMS = frozenset({"text/plain", "application/x-www-form-urlencoded", "multipart/form-data"})
"""What a page of another site may send without asking, also without a body: `/restart` needs none."""
_OWN_SITE = frozenset({"none", "same-origin"})
"""Of `Sec-Fetch-Site`: typed into the address bar, or a page of this port's own."""


def guard(address: str, allowed_hosts: Callable[[], Iterable[str]] = tuple) -> Middleware:
    """Refuses what a foreign web page could have sent. `address` is where the port listens, `host:port` or `unix:/path`.

    Names are answered to when they are `localhost`, the one in `address`, or among `allowed_hosts` at that moment; IP addresses
    always, for nobody can have them looked up to something else.
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
    """The name or IP address in `host:port`, without brackets, a last dot and capitals."""
    name, _, port = host.strip().rpartition(":")
    if not name or not port.isdecimal():
        name = host.strip()
    return name.removeprefix("[").removesuffix("]").removesuffix(".").lower()


def _check_host(request: web.Request, names: set[str]) -> None:
    """HTTP/1.0 may leave it out; no browser does."""
    for host in request.headers.getall(hdrs.HOST, ()):
        if not _is_address(name := name_in(host)) and name not in names and request.path not in PROBES:
            message = (
                "this port answers to IP addresses, 'localhost' and the names in admin.allowed_hosts, "
                "and the Host header names something else"
            )
            raise RequestError(403, message, param="host", code="host_not_allowed")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _check_page(request: web.Request) -> None:
    """Where a browser asks: a link that somebody follows may open what can be read here, and nothing else may ask at all."""
    headers = request.headers
    own = {f"{scheme}://{host.strip().lower()}" for host in headers.getall(hdrs.HOST, ()) for scheme in ("http", "https")}
    if any(origin.strip().lower() not in own for origin in headers.getall(hdrs.ORIGIN, ())):
        raise _another_site("origin")
    sites = {site.strip().lower() for site in headers.getall("Sec-Fetch-Site", ())}
    is_link = headers.get("Sec-Fetch-Mode") == "navigate" and headers.get("Sec-Fetch-Dest") == "document"
    if not sites <= _OWN_SITE and not (is_link and request.method in _READS):
        raise _another_site("sec-fetch-site")


def _another_site(header: str) -> RequestError:
    message = f"a page of another site may not ask this port (by the header '{header}'); ask from a terminal"
    return RequestError(403, message, param=header, code="cross_site")


def _check_type(request: web.Request) -> None:
    """A page may send forms and plain text to any address; JSON it may not."""
    is_form = hdrs.CONTENT_TYPE in request.headers and request.content_type in _FORMS
    is_json = request.content_type == "application/json"
    if request.method not in _READS and (is_form or (request.body_exists and not is_json)):
        message = "send the body with 'Content-Type: application/json'"
        raise RequestError(415, message, param="content-type", code="json_expected")
