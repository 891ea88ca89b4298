"""The shell's loop: takes Envoy's messages, reads signals, asks the cache, and sends the actions of the exchange.

It decides nothing. One call of `Processor.process` is one exchange, and everything that the exchange owns ends with the call.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from time import perf_counter
from typing import Any

import grpc
import grpc.aio

from router.core.events import Event, Lookup, ReadSignals, RequestHeaders, SignalsRead
from router.core.exchange import Exchange
from router.core.lookup import Waiting
from router.core.snapshot import Snapshot
from router.core.types import Readings
from router.errors import ProtocolError
from router.extproc import wire
from router.extproc.active import ActiveExchange, Instruments
from router.extproc.answers import Answers, ExchangeLookup, looked_up
from router.extproc.pb import extproc_pb2 as pb
from router.extproc.turns import BodyTurns

log = logging.getLogger(__name__)

_WAITING_ROOM_S = 0.5  # added to the wait, because Envoy counts from the moment when it gets the message

Messages = AsyncIterator[pb.ProcessingRequest]
Context = grpc.aio.ServicerContext[pb.ProcessingRequest, pb.ProcessingResponse]
SignalReader = Callable[[ReadSignals], Awaitable[Readings]]
"""Reads all signals that a `ReadSignals` wants, within its own deadline. A signal that fails is `Missing` and never raises."""


class Processor:
    """Serves exchanges. One instance serves all streams of a process."""

    def __init__(
        self, snapshot: Snapshot, read_signals: SignalReader, instruments: Instruments, answers: Answers[Any] | None = None
    ) -> None:
        self.snapshot = snapshot
        """The configuration for new exchanges. Exchanges in progress keep the one that they began with."""
        self._read_signals = read_signals
        self._instruments = instruments
        self._answers = answers
        self._turns = BodyTurns()

    async def process(self, messages: Messages, context: Context) -> AsyncIterator[pb.ProcessingResponse]:
        """Serve one gRPC stream, which is one exchange."""
        active: ActiveExchange | None = None
        try:
            async for message in messages:
                phase, event = wire.decode(message)
                active = active or self._begin(event)
                exchange = active.exchange
                action = await self._turns.past_pauses(exchange, exchange.receive(event))
                while isinstance(action, ReadSignals):
                    async with self._reading(active, action) as readings:
                        snapshot = exchange.snapshot
                        if action.prompt and not await _is_done(readings, snapshot.guard_patience_s):
                            yield wire.more_time(snapshot.longest_wait_s + _WAITING_ROOM_S)
                        action = exchange.receive(SignalsRead(await readings))
                    action = await self._turns.past_pauses(exchange, action)
                if isinstance(action, Lookup):
                    found = await active.lookup.look_up(action)
                    if isinstance(found, Waiting):
                        yield wire.more_time(found.timeout_s + _WAITING_ROOM_S)
                        found = await active.lookup.await_leader()
                    action = await self._turns.past_pauses(exchange, exchange.receive(looked_up(found)))
                action = active.note(event, action)
                yield wire.encode(phase, action)
                if wire.is_last(action):
                    return
        except Exception as error:  # noqa: BLE001 - the shell's outer edge: a fault of ours must not end the process
            if active is not None:
                active.ending = "failed"
            await _abort(context, error)
        finally:
            if active is not None:
                active.finish()

    def _begin(self, event: Event) -> ActiveExchange:
        headers = event.headers if isinstance(event, RequestHeaders) else {}
        return ActiveExchange(Exchange(self.snapshot), self._instruments.begin(headers), ExchangeLookup(self._answers))

    @contextlib.asynccontextmanager
    async def _reading(self, active: ActiveExchange, action: ReadSignals) -> AsyncIterator[Awaitable[Readings]]:
        """Start the readings, in a task of their own if they may take long. They never outlive this context."""
        began = perf_counter()
        readings = self._read_signals(action)
        task = asyncio.ensure_future(readings) if action.prompt else None
        try:
            yield task or readings
        finally:
            if task:
                task.cancel()
            active.signals_s += perf_counter() - began


async def _is_done(work: Awaitable[object], within_s: float) -> bool:
    future = asyncio.ensure_future(work)
    await asyncio.wait([future], timeout=within_s)
    return future.done()


async def _abort(context: Context, error: Exception) -> None:
    if isinstance(error, ProtocolError):
        log.error("exchange ended: %s", error)
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
    # The message of the error is left out, because it may quote a prompt.
    log.error("exchange failed: %s at %s", type(error).__name__, _place(error))
    await context.abort(grpc.StatusCode.INTERNAL, "internal error")


def _place(error: BaseException) -> str:
    """File and line where an error was raised."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return f"{traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}" if traceback else "an unknown place"
