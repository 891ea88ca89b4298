"""The gRPC server: listens, reports its health, and drains. The processor serves the streams."""

from __future__ import annotations

import asyncio
from time import perf_counter

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from router.errors import ConfigError, Problem
from router.extproc import wire
from router.extproc.processor import Processor

_ROOM_BYTES = 1024 * 1024  # for headers and attributes beside the largest body
_HEALTH_SERVICES = ("", "liveness", "readiness", wire.SERVICE)  # the names that the Gateway API's endpoint pickers use

HealthContext = grpc.aio.ServicerContext[HealthCheckRequest, HealthCheckResponse]


class Health(health.aio.HealthServicer):
    """The health service. It remembers when it last reported healthy, because then somebody sends requests to this router."""

    asked_at: float | None = None
    """In seconds of `perf_counter`; None before the first healthy report."""

    async def Check(self, request: HealthCheckRequest, context: HealthContext) -> HealthCheckResponse:  # noqa: N802 - gRPC's name
        """See gRPC's health protocol."""
        answer: HealthCheckResponse = await super().Check(request, context)
        if answer.status == HealthCheckResponse.SERVING:
            self.asked_at = perf_counter()
        return answer


class Server:
    """The listening gRPC server with its health service. Not ready before `start` returns, nor after `drain` begins."""

    def __init__(self, address: str, processor: Processor, max_body_bytes: int) -> None:
        size = max_body_bytes + _ROOM_BYTES  # with gRPC's default of 4 MiB, larger bodies would silently bypass the router
        options = [
            ("grpc.max_receive_message_length", size),
            ("grpc.max_send_message_length", size),
            # A window that grows lets one large body fill Envoy's only connection, and small requests wait behind it. Beside a
            # client with 16 MiB bodies, their median was 80 ms with the probe and is 45 ms without.
            ("grpc.http2.bdp_probe", 0),
            ("grpc.so_reuseport", 0),  # an old process must not share the port and get live traffic
        ]
        self._address = address
        self._server = grpc.aio.server(options=options)
        self._health = Health()
        self.is_ready = False
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        method = grpc.stream_stream_rpc_method_handler(processor.process, wire.parse_request, wire.serialize_response)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(wire.SERVICE, {"Process": method}),))

    @property
    def health_asked_s(self) -> float | None:
        """Seconds since the server last reported healthy; None when nobody has asked."""
        return None if self._health.asked_at is None else perf_counter() - self._health.asked_at

    async def start(self) -> int:
        """Listen and report healthy. Returns the bound port, which differs from the address when that says port 0.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        try:
            port = self._server.add_insecure_port(self._address)
        except RuntimeError:
            message = f"cannot listen on {self._address}: another process uses the port, or the address is not of this machine"
            raise ConfigError([Problem("config", 0, "server.address", message)]) from None
        await self._server.start()
        for service in _HEALTH_SERVICES:
            await self._health.set(service, HealthCheckResponse.SERVING)
        self.is_ready = True
        return port

    async def drain(self, drain_s: float, shutdown_timeout_s: float) -> None:
        """Report unhealthy, serve for another `drain_s` so that Envoy notices, then let open exchanges end.

        `drain_s` should cover Envoy's health check timeout plus its interval times its unhealthy threshold. Exchanges that are
        still open after another `shutdown_timeout_s` are cut; an Envoy that fails open then lets them pass.
        """
        self.is_ready = False
        await self._health.enter_graceful_shutdown()
        await asyncio.sleep(drain_s)
        await self._server.stop(shutdown_timeout_s)
