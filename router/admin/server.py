"""The operator's HTTP port: health, metrics, explanations, the routing table. On loopback unless the operator says otherwise.

It has no access control of its own, which is why a non-loopback address is the operator's explicit choice.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from router.errors import ConfigError, Problem, RequestError

_BODY_BYTES = 16 * 1024 * 1024
_SHUTDOWN_S = 1.0

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AdminRoutes:
    """What the port can be asked, each as a callable: this module knows no other part of the router."""

    readiness: Callable[[], Awaitable[tuple[bool, Document]]]
    """Whether traffic is welcome, and a document that says why or why not."""
    metrics: Callable[[], Awaitable[bytes]]
    """Prometheus' text format."""
    explain: Callable[[bytes], Awaitable[Document]]
    """Takes a chat request's body. Raises `RequestError` for one that cannot be read."""
    describe: Callable[[], Awaitable[Document]]
    """Models, rules and thresholds in force."""
    version: str


class AdminServer:
    """Serves `/healthz`, `/readyz`, `/metrics`, `/explain` (POST), `/config` and `/version`."""

    def __init__(self, address: str, routes: AdminRoutes) -> None:
        self._address = address
        self._routes = routes
        app = web.Application(client_max_size=_BODY_BYTES, middlewares=[_errors])
        app.add_routes(
            [
                web.get("/healthz", self._health),
                web.get("/readyz", self._ready),
                web.get("/metrics", self._metrics),
                web.post("/explain", self._explain),
                web.get("/config", self._config),
                web.get("/version", self._version),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_S)

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        await self._runner.setup()
        await listen(self._runner, self._address)

    async def stop(self) -> None:
        """Close the port; answers under way get a second."""
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

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": self._routes.version})


async def listen(runner: web.AppRunner, address: str) -> None:
    """Bind a runner to `host:port` or `unix:/path`.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    try:
        if address.startswith("unix:"):
            await web.UnixSite(runner, address.removeprefix("unix:")).start()
        else:
            host, _, port = address.rpartition(":")
            await web.TCPSite(runner, host.strip("[]"), int(port)).start()
    except OSError as error:
        message = f"cannot listen on {address}: {error.strerror or error}"
        raise ConfigError([Problem("config", 0, "admin.address", message)]) from None


@web.middleware
async def _errors(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> web.StreamResponse:
    """Errors as JSON, as everywhere else."""
    try:
        return await handler(request)
    except RequestError as error:
        return web.json_response({"error": {"message": error.message, "param": error.param}}, status=error.http_status)
    except web.HTTPException as error:
        return web.json_response({"error": {"message": error.reason}}, status=error.status)


def _dumps(document: object) -> str:
    return json.dumps(document, ensure_ascii=False, indent=2)
