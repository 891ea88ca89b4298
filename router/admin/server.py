"""The admin port, over HTTP: health, metrics, explanations, the routing table and the cache. By default it listens on loopback.

The port has no password. `access.py` keeps web pages out.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.typedefs import Handler

from router.admin.access import only_programs
from router.errors import ConfigError, Problem, RequestError

log = logging.getLogger(__name__)

_BODY_BYTES = 16 * 1024 * 1024
_SHUTDOWN_S = 1.0
_HALF_PAIR = re.compile("[\ud800-\udfff]")

Document = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class AdminRoutes:
    """The operations of the port as callables, so that this module knows no other part of the router."""

    readiness: Callable[[], Awaitable[tuple[bool, Document]]]
    """Whether the process accepts traffic, and a document with details."""
    metrics: Callable[[], Awaitable[bytes]]
    """In Prometheus' text format."""
    explain: Callable[[bytes], Awaitable[Document]]
    """Takes a document that `read_asked` reads. Raises `RequestError` for any other."""
    describe: Callable[[], Awaitable[Document]]
    """Models, rules and thresholds in force."""
    version: str
    cache: Mapping[str, Callable[[Document], Awaitable[Document]]] = field(default_factory=dict)
    """Cache operations by name. Each takes and returns a document, and may raise `RequestError`. Empty when the cache is off."""


class AdminServer:
    """Serves `/healthz`, `/readyz`, `/metrics`, `/explain` (POST), `/config`, `/version` and `/cache/OPERATION` (POST)."""

    def __init__(self, address: str, routes: AdminRoutes) -> None:
        self._address = address
        self._routes = routes
        app = web.Application(client_max_size=_BODY_BYTES, middlewares=[errors_as_json, only_programs(address)])
        app.add_routes(
            [
                web.get("/healthz", self._health),
                web.get("/readyz", self._ready),
                web.get("/metrics", self._metrics),
                web.post("/explain", self._explain),
                web.get("/config", self._config),
                web.get("/version", self._version),
                web.get("/cache/stats", self._cache_stats),
                web.post("/cache/{operation}", self._cache),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_S)

    async def start(self) -> int:
        """Listen, and return the bound port, which matters if the address asks for port 0. Returns 0 for a unix socket.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        await self._runner.setup()
        await listen(self._runner, self._address)
        bound = self._runner.addresses[0]
        return 0 if isinstance(bound, str) else int(bound[1])

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._runner.server.connections) if self._runner.server else 0

    async def stop(self) -> None:
        """Close the port. Open requests get one more second."""
        await self._runner.cleanup()

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _ready(self, request: web.Request) -> web.Response:
        is_ready, document = await self._routes.readiness()
        return web.json_response(document, status=200 if is_ready else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        body = await self._routes.metrics()
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _explain(self, request: web.Request) -> web.Response:
        return web.json_response(await self._routes.explain(await request.read()), dumps=_dumps)

    async def _config(self, request: web.Request) -> web.Response:
        return web.json_response(await self._routes.describe(), dumps=_dumps)

    async def _cache_stats(self, request: web.Request) -> web.Response:
        return await self._operate("stats", b"")

    async def _cache(self, request: web.Request) -> web.Response:
        return await self._operate(request.match_info["operation"], await request.read())

    async def _operate(self, name: str, body: bytes) -> web.Response:
        operations = self._routes.cache
        if not operations:
            raise RequestError(404, "the cache is off; set semantic_cache.enabled to true", code="cache_off")
        if name not in operations:
            message = f"there is no such operation; known operations are: {', '.join(operations)}"
            raise RequestError(404, message, code="unknown_operation")
        return web.json_response(await operations[name](_document(body)), dumps=_dumps)

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": self._routes.version})


def _document(body: bytes) -> Document:
    """Parse a request's body. An empty body is an empty document."""
    try:
        document = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise RequestError(400, "the body is not valid JSON", code="invalid_json") from None
    if not isinstance(document, dict):
        raise RequestError(400, "a JSON object was expected", code="invalid_json")
    return document


async def listen(runner: web.AppRunner, address: str) -> None:
    """Bind a runner to `host:port` or `unix:/path`.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    try:
        if address.startswith("unix:"):
            path = address.removeprefix("unix:")
            await _check_unused(path)
            await web.UnixSite(runner, path).start()
        else:
            host, _, port = address.rpartition(":")
            await web.TCPSite(runner, host.strip("[]"), int(port)).start()
    except (OSError, OverflowError, ValueError) as error:
        why = (isinstance(error, OSError) and error.strerror) or error
        raise ConfigError([Problem("config", 0, "admin.address", f"cannot listen on {address}: {why}")]) from None


async def _check_unused(path: str) -> None:
    """Refuse a socket that a living process uses, because binding would replace it. A dead process's socket is replaced."""
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return
    writer.close()
    raise OSError(errno.EADDRINUSE, "another process listens there")


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns every error into a JSON document."""
    try:
        return await handler(request)
    except RequestError as error:
        document = {"message": error.message, "param": error.param, "code": error.code}
        return web.json_response({"error": document}, status=error.http_status)
    except web.HTTPException as error:
        return web.json_response({"error": {"message": error.reason}}, status=error.status)
    except Exception as error:  # noqa: BLE001 - this port's outer edge; the log must not quote the request
        log.error("%s failed: %s", _route_of(request), type(error).__name__)
        return web.json_response({"error": {"message": "internal error"}}, status=500)


def _route_of(request: web.Request) -> str:
    """The route's pattern. The requested path is not logged, because it may hold anything."""
    resource = request.match_info.route.resource
    return resource.canonical if resource else "an unknown path"


def _dumps(document: object) -> str:
    """JSON for people to read. Half a surrogate pair stays escaped, because UTF-8 cannot encode it."""
    text = json.dumps(document, ensure_ascii=False, indent=2)
    return _HALF_PAIR.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
