"""The gRPC shell: Envoy's messages in, the exchange's actions out, signals in between; health; drain.

It decides nothing. One `Processor` call is one exchange, and everything that an exchange owns ends with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any, Protocol

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from router.core.exchange import Exchange
from router.core.lookup import CachePolicy, CacheQuery, Found, Miss, Waiting
from router.core.messages import (
    Action,
    Event,
    LookedUp,
    Lookup,
    Overloaded,
    Pause,
    ReadSignals,
    RequestHeaders,
    ResponseBody,
    Resumed,
    Route,
    SignalsRead,
)
from router.core.outcome import Outcome
from router.core.policy import Readings
from router.core.snapshot import Snapshot
from router.errors import ConfigError, Problem, ProtocolError
from router.extproc import wire
from router.extproc.pb import extproc_pb2 as pb

log = logging.getLogger(__name__)

_WAITING_ROOM_S = 0.5  # beside the wait itself: Envoy counts from when it hears of it
_MAX_WAIT_S = 0.5  # of a large body for its turn: half of envoy.yaml's `message_timeout`, the other half is for reading it
_TURN_S = 0.004  # of work on a large body before others have their turn; most steps take a tenth of it
_ROOM_BYTES = 1024 * 1024  # for headers and attributes that come with the largest body
_HEALTH_SERVICES = ("", "liveness", "readiness", wire.SERVICE)  # the names that the Gateway API's endpoint pickers use

Messages = AsyncIterator[pb.ProcessingRequest]
Context = grpc.aio.ServicerContext[pb.ProcessingRequest, pb.ProcessingResponse]
Sensor = Callable[[ReadSignals], Awaitable[Readings]]
"""Takes every reading that a `ReadSignals` wants, within its own deadline; never raises for a signal that fails."""


class Observation(Protocol):
    """What the instruments hold while one exchange lasts."""

    def upstream_headers(self) -> Mapping[str, str]:
        """Headers that carry the trace to the backend; empty when tracing is off."""
        ...

    def end(self, outcome: Outcome) -> None:
        """Hand the record to every instrument. Called exactly once."""
        ...


class Instruments(Protocol):
    def begin(self, headers: Mapping[str, str]) -> Observation:
        """Called with the request's headers, when an exchange begins."""
        ...


class Answers(Protocol):
    """The cache, as the shell uses it. The pending lookup that it hands out comes back to it unread."""

    async def look_up(self, question: CacheQuery, cache_policy: CachePolicy) -> tuple[Found | Waiting, Any]:
        """A hit, a miss, or word of an equal question under way. Never raises for what fails."""
        ...

    async def await_leader(self, pending: Any) -> Found:
        """Wait for the equal question."""
        ...

    def complete(self, pending: Any, answer: bytes | None, max_ttl_s: float | None = None) -> None:
        """The request is over; called once for each pending lookup. `answer` may be stored, for `max_ttl_s` seconds at most."""
        ...


@dataclass(slots=True)
class ActiveExchange:
    """One exchange under way, and when things happened in it, in seconds of `perf_counter`; zero for what has not."""

    exchange: Exchange
    scope: Observation
    began: float = field(default_factory=perf_counter)
    routed: float = 0.0
    sensing_s: float = 0.0
    first_token: float = 0.0
    ending: str = "abandoned"
    pending: Any = None

    def finish(self) -> None:
        """Hand the record, with its durations, to the instruments."""
        outcome = replace(
            self.exchange.outcome(self.ending),
            routing_s=self.routed - self.began if self.routed else 0.0,
            sensing_s=self.sensing_s,
            first_token_s=self.first_token - self.routed if self.first_token and self.exchange.is_streamed else None,
            duration_s=perf_counter() - self.began,
        )
        self.scope.end(outcome)


class Processor:
    """Serves exchanges. One instance serves all streams of a process."""

    def __init__(self, snapshot: Snapshot, sense: Sensor, instruments: Instruments, answers: Answers | None = None) -> None:
        self.snapshot = snapshot
        """The configuration of exchanges that begin from now on; those under way keep theirs."""
        self._sense = sense
        self._instruments = instruments
        self._answers = answers
        self._is_reading = asyncio.Lock()

    async def process(self, messages: Messages, context: Context) -> AsyncIterator[pb.ProcessingResponse]:
        """One gRPC stream: the whole life of one exchange."""
        run: ActiveExchange | None = None
        try:
            async for message in messages:
                phase, event = wire.decode(message)
                run = run or self._begin(event)
                action = await self._past_pauses(run, run.exchange.receive(event))
                while isinstance(action, ReadSignals):
                    async with self._sensing(run, action) as readings:
                        shot = run.exchange.snapshot
                        if action.prompt and not await _is_done(readings, shot.guard_patience_s):
                            yield wire.more_time(shot.longest_wait_s + _WAITING_ROOM_S)
                        action = run.exchange.receive(SignalsRead(await readings))
                    action = await self._past_pauses(run, action)
                action = self._noted(run, event, action)
                if isinstance(action, Lookup):
                    found = await self._look_up(run, action)
                    if isinstance(found, Waiting):
                        yield wire.more_time(found.wait_s + _WAITING_ROOM_S)
                        found = await self._follow(run)
                    action = await self._past_pauses(run, run.exchange.receive(_looked_up(found)))
                    action = self._noted(run, event, action)
                is_last = _is_last(run, action)
                yield wire.encode(phase, action)
                if is_last:
                    return
        except Exception as error:  # noqa: BLE001 - the shell's edge: a fault of ours must not take the process down
            if run is not None:
                run.ending = "failed"
            await self._abort(context, error)
        finally:
            if run is not None:
                self._settle(run)
                run.finish()

    def _begin(self, event: Event) -> ActiveExchange:
        headers = event.headers if isinstance(event, RequestHeaders) else {}
        return ActiveExchange(Exchange(self.snapshot), self._instruments.begin(headers))

    @contextlib.asynccontextmanager
    async def _sensing(self, run: ActiveExchange, action: ReadSignals) -> AsyncIterator[Awaitable[Readings]]:
        """The readings under way, in a task of their own if they may take long; they never go on behind this."""
        began = perf_counter()
        readings = self._sense(action)
        task = asyncio.ensure_future(readings) if action.prompt else None
        try:
            yield task or readings
        finally:
            if task:
                task.cancel()
            run.sensing_s += perf_counter() - began

    async def _past_pauses(self, run: ActiveExchange, action: Action) -> Action:
        """Large bodies are worked on one at a time and in steps: whoever sends many of them holds up large ones alone."""
        if not isinstance(action, Pause):
            return action
        try:
            async with asyncio.timeout(_MAX_WAIT_S):
                await self._is_reading.acquire()
        except TimeoutError:
            return run.exchange.receive(Overloaded())
        try:
            began = 0.0
            while isinstance(action, Pause):
                if perf_counter() - began > _TURN_S:
                    await asyncio.sleep(0)
                    began = perf_counter()
                action = run.exchange.receive(Resumed())
            return action
        finally:
            self._is_reading.release()

    def _noted(self, run: ActiveExchange, event: Event, action: Action) -> Action:
        """Take the times; a route carries the trace on."""
        if isinstance(action, Route):
            run.routed = perf_counter()
            action = replace(action, set_headers={**action.set_headers, **run.scope.upstream_headers()})
        elif isinstance(event, ResponseBody) and not run.first_token:
            run.first_token = perf_counter()
        return action

    async def _look_up(self, run: ActiveExchange, action: Lookup) -> Found | Waiting:
        if self._answers is None:
            return Miss("off")
        found, run.pending = await self._answers.look_up(action.question, action.cache_policy)
        return found

    async def _follow(self, run: ActiveExchange) -> Found:
        # Not by its truth: an empty cache is false, and the first of equal questions come to an empty one.
        return Miss("off") if self._answers is None else await self._answers.await_leader(run.pending)

    def _settle(self, run: ActiveExchange) -> None:
        """Keep the answer if it may be kept, after the client has its last byte; let go who waits for it in any case."""
        if self._answers is None or run.pending is None:
            return
        answer = None
        try:
            answer = run.exchange.answer(run.ending)
        finally:
            self._answers.complete(run.pending, answer, run.exchange.backend_ttl_s)

    async def _abort(self, context: Context, error: Exception) -> None:
        if isinstance(error, ProtocolError):
            log.error("exchange ended: %s", error)
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        # The error's own words are left out: they may quote a prompt.
        log.error("exchange failed: %s at %s", type(error).__name__, _place(error))
        await context.abort(grpc.StatusCode.INTERNAL, "internal error")


def _is_last(run: ActiveExchange, action: Action) -> bool:
    """Called before the answer goes out: Envoy may end the stream the moment it has it."""
    if wire.is_last(action):
        run.ending = run.exchange.ending
    return wire.is_last(action)


async def _is_done(work: Awaitable[Any], within_s: float) -> bool:
    future = asyncio.ensure_future(work)
    await asyncio.wait([future], timeout=within_s)
    return future.done()


def _looked_up(found: Found) -> LookedUp:
    return LookedUp(found, int(time.time()), uuid.uuid4().hex)


def _place(error: BaseException) -> str:
    """File and line where an error was raised."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return f"{traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}" if traceback else "an unknown place"


class Health(health.aio.HealthServicer):
    """The health service, which remembers when it was last asked: whoever asks uses us as soon as we say that we serve."""

    asked_at: float | None = None
    """In seconds of `perf_counter`; None before the first answer that we serve."""

    async def Check(self, request: HealthCheckRequest, context: Any) -> HealthCheckResponse:  # noqa: N802 - gRPC's name
        """See gRPC's health protocol."""
        answer: HealthCheckResponse = await super().Check(request, context)
        if answer.status == HealthCheckResponse.SERVING:
            self.asked_at = perf_counter()
        return answer


class Server:
    """The listening gRPC server with its health service. Not ready before `start` returns, nor after `drain` begins."""

    def __init__(self, address: str, processor: Processor, max_body_bytes: int) -> None:
        size = max_body_bytes + _ROOM_BYTES  # gRPC's own default of 4 MiB would silently bypass us for larger bodies
        options = [
            ("grpc.max_receive_message_length", size),
            ("grpc.max_send_message_length", size),
            # A window that grows to a large body's size lets it fill Envoy's one connection, and small requests wait behind it:
            # their median beside a client with 16 MiB bodies was 80 ms, and is 45 ms.
            ("grpc.http2.bdp_probe", 0),
            ("grpc.so_reuseport", 0),  # a stale process must not share our port and get live traffic
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
        """How long ago somebody was told that we serve, in seconds; None when nobody asked."""
        return None if self._health.asked_at is None else perf_counter() - self._health.asked_at

    async def start(self) -> int:
        """Listen and report healthy. The port that was bound, which matters when the address asked for port 0.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        try:
            port = self._server.add_insecure_port(self._address)
        except RuntimeError:
            message = f"cannot listen on {self._address}: is another router running there, or the address not this machine's?"
            raise ConfigError([Problem("config", 0, "server.address", message)]) from None
        await self._server.start()
        for service in _HEALTH_SERVICES:
            await self._health.set(service, HealthCheckResponse.SERVING)
        self.is_ready = True
        return port

    async def drain(self, drain_s: float, grace_s: float) -> None:
        """Say that we are leaving, serve on for `drain_seconds` so that Envoy can notice, then let open exchanges end.

        `drain_seconds` should cover Envoy's health check interval times its unhealthy threshold, and its timeout; exchanges still
        open after `shutdown_timeout_seconds` more are cut, which a fail-open Envoy turns into a pass-through.
        """
        self.is_ready = False
        await self._health.enter_graceful_shutdown()
        await asyncio.sleep(drain_s)
        await self._server.stop(grace_s)
