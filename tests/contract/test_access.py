"""Who may ask the admin port: programs that use its own names. Web pages shown by a browser may not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from aiohttp import web

from router.admin.access import name_in, only_programs
from router.admin.server import AdminServer, errors_as_json
from router.runtime.supervisor import Worker
from router.runtime.workers import AggregatedAdmin
from tests.contract.test_admin import Behind

ALLOWED = ["router.monitoring.svc"]
"""Names that the operator allows. A test may change them."""


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """The port of a guarded server that listens as `admin.internal`."""

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(text="answered")

    app = web.Application(middlewares=[errors_as_json, only_programs("admin.internal:8802", lambda: ALLOWED)])
    app.add_routes([web.route("*", "/{path:.*}", answer)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield runner.addresses[0][1]
    await runner.cleanup()


async def ask(where: int | str, *headers: str, method: str = "GET", path: str = "/metrics", body: str = "") -> int:
    """The status of a raw request."""
    is_port = isinstance(where, int)
    reader, writer = await (asyncio.open_connection("127.0.0.1", where) if is_port else asyncio.open_unix_connection(where))
    lines = [f"{method} {path} HTTP/1.1", *headers, "connection: close", f"content-length: {len(body)}"]
    writer.write(("\r\n".join(lines) + "\r\n\r\n" + body).encode())
    answer = await reader.read()
    writer.close()
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8802", "127.0.0.1", "10.1.2.3:8802", "[::1]:8802", "localhost:8802", "LocalHost", "localhost.:8802",
     "admin.internal:8802", "router.monitoring.svc:8802", "Router.Monitoring.svc"],
)  # fmt: skip
async def test_names_of_its_own_and_addresses_are_answered(port: int, host: str) -> None:
    """curl, Prometheus, probes and the command line ask this way."""
    assert await ask(port, f"host: {host}") == 200
    body = ("content-type: application/json; charset=utf-8",)
    assert await ask(port, f"host: {host}", *body, method="POST", path="/cache/invalidate", body="{}") == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example:8802", "127.0.0.1.evil.example", "localhost.evil.example", "xlocalhost", "router.monitoring.svc.evil.example",
     "127.0.0.1@evil.example", ""],
)  # fmt: skip
async def test_a_name_of_somebody_elses_is_refused(port: int, host: str) -> None:
    """A page can make its own name resolve to this address. Probes are exempt, for they reveal nothing."""
    assert await ask(port, f"host: {host}") in (400, 403)
    if host and "@" not in host:
        assert await ask(port, f"host: {host}", path="/healthz") == 200


async def test_names_that_the_operator_allows_count_after_a_restart(port: int) -> None:
    """A new list counts after a restart with it."""
    assert await ask(port, "host: later.svc") == 403
    ALLOWED.append("later.svc")
    try:
        assert await ask(port, "host: later.svc") == 200
    finally:
        ALLOWED.remove("later.svc")


PAGES = {
    "another site's script": ("origin: https://evil.example", "sec-fetch-site: cross-site", "sec-fetch-mode: cors"),
    "a sandboxed page": ("origin: null",),
    "a page of another port": ("origin: http://localhost:3000", "sec-fetch-site: same-site"),
    "an image in a page": ("sec-fetch-site: cross-site", "sec-fetch-mode: no-cors", "sec-fetch-dest: image"),
    "a frame in a page": ("sec-fetch-site: cross-site", "sec-fetch-mode: navigate", "sec-fetch-dest: iframe"),
}


@pytest.mark.parametrize("page", PAGES)
async def test_a_page_of_another_site_may_not_ask(port: int, page: str) -> None:
    """This holds for any request and any content type."""
    json = "content-type: application/json"
    assert await ask(port, "host: localhost:8802", *PAGES[page]) == 403
    assert await ask(port, "host: localhost:8802", *PAGES[page], json, method="POST", path="/explain", body="{}") == 403


async def test_a_form_that_says_nothing_of_its_page_is_refused(port: int) -> None:
    """Old browsers send neither Origin nor Sec-Fetch-Site. No page can send JSON to another site."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        assert await ask(port, "host: localhost", f"content-type: {kind}", method="POST", path="/explain", body="{}") == 415
        assert await ask(port, "host: localhost", f"content-type: {kind}", method="POST", path="/restart") == 415
    assert await ask(port, "host: localhost", method="POST", path="/explain", body="{}") == 415
    assert await ask(port, "host: localhost", method="POST", path="/restart") == 200


async def test_a_link_and_the_address_bar_may_look(port: int) -> None:
    """Both show the answer to the operator alone."""
    typed = ("sec-fetch-site: none", "sec-fetch-mode: navigate", "sec-fetch-dest: document")
    link = ("sec-fetch-site: cross-site", "sec-fetch-mode: navigate", "sec-fetch-dest: document")
    own = ("origin: http://localhost:8802", "sec-fetch-site: same-origin")
    for headers in (typed, link, own):
        assert await ask(port, "host: localhost:8802", *headers) == 200
    assert await ask(port, "host: localhost:8802", *link, method="POST", path="/cache/invalidate") == 403


@pytest.mark.parametrize(
    ("host", "name"),
    [("LOCALHOST:1", "localhost"), ("[::1]:80", "::1"), ("[::1]", "::1"), ("a.b.:80", "a.b"), ("a", "a"), (" a ", "a")],
)
def test_the_name_in_a_host(host: str, name: str) -> None:
    """It has no port, brackets, last dot or capitals."""
    assert name_in(host) == name


@pytest.fixture(params=["a worker's socket", "the port of all workers", "a port of its own"])
async def real(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[int | str]:
    """Where a real admin server listens: a port, or a socket's path."""
    socket = str(tmp_path / "0.sock")
    is_own = request.param == "a port of its own"
    server = AdminServer("127.0.0.1:0" if is_own else f"unix:{socket}", Behind().routes())
    port = await server.start()
    workers = cast("list[Worker]", [SimpleNamespace(index=0, socket=socket, is_up=True, failures=0, status=None, problems=[])])
    front = AggregatedAdmin(workers, address="127.0.0.1:0")
    await front.runner.setup()
    if request.param == "the port of all workers":
        await web.TCPSite(front.runner, "127.0.0.1", 0).start()
        port = front.runner.addresses[0][1]
    yield port or socket
    await front.runner.cleanup()
    await server.stop()


@pytest.mark.parametrize(
    "line", ["GET /metrics", "GET /config", "GET /version", "POST /explain", "POST /cache/invalidate", "POST /restart"]
)
async def test_each_of_the_real_servers_stands_behind_the_guard(real: int | str, line: str) -> None:
    """This covers the supervisor's server and each worker's. Both still answer programs."""
    method, path = line.split()
    body, json = ("{}", ("content-type: application/json",)) if method == "POST" else ("", ())
    rebound = ("host: evil.example:8802", "origin: http://evil.example:8802", "sec-fetch-site: same-origin")
    assert await ask(real, *rebound, *json, method=method, path=path, body=body) == 403
    for page in PAGES.values():
        assert await ask(real, "host: 127.0.0.1:8802", *page, *json, method=method, path=path, body=body) == 403
    answered = await ask(real, "host: 10.1.2.3:8802", "user-agent: curl/8", *json, method=method, path=path, body=body)
    assert answered not in (403, 415)
