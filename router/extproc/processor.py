"""The shell's loop: takes Envoy's messages, reads signals, asks the cache, and sends the actions of the exchange.

It decides nothing. One call of `Processor.process` is one exchange, and everything that the exchange owns ends with the call.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
import grpc.aio

from router.core.events import Action, Event, Lookup, ReadSignals, RequestHeaders, SignalsRead
from router.core.exchange import Exchange
from router.core.lookup import Waiting
from router.core.snapshot import Snapshot
from router.core.types import Readings
from router.errors import ProtocolError
from router.extproc import wire
from router.extproc.active import ActiveExchange, Instruments
from router.extproc.answers import AnswerCache, ExchangeLookup, looked_up
from router.extproc.pb import extproc_pb2 as pb
from router.extproc.turns import BodyTurns

log = logging.getLogger(__name__)

_ENVOY_MARGIN_S = 0.5  # asked of Envoy beyond the longest wait, because Envoy counts from the moment when it gets the message

Messages = AsyncIterator[pb.ProcessingRequest]
Context = grpc.aio.ServicerContext[pb.ProcessingRequest, pb.ProcessingResponse]
SignalReader = Callable[[ReadSignals], Awaitable[Readings]]
"""Reads all signals that a `ReadSignals` wants, within its own deadline. A signal that fails is `Missing` and never raises."""


class Processor:
    """Serves exchanges. One instance serves all streams of a process."""

    def __init__(
        self, snapshot: Snapshot, read_signals: SignalReader, instruments: Instruments, cache: AnswerCache[Any] | None = None
    ) -> None:
        self.snapshot = snapshot
        """The configuration for new exchanges. Exchanges in progress keep the one that they began with."""
        self._read_signals = read_signals
        self._instruments = instruments
        self._cache = cache
        self._turns = BodyTurns()

    async def process(self, messages: Messages, context: Context) -> AsyncIterator[pb.ProcessingResponse]:
        """Serve one gRPC stream, which is one exchange."""
        active: ActiveExchange | None = None
        try:
            async for message in messages:
                phase, event = wire.decode(message)
                active = active or self._begin(event)
                exchange = active.exchange
                action = await self._receive(active, event)
                while isinstance(action, ReadSignals):
                    with active.timing_signals():
                        if action.prompt is None:
                            readings = await self._read_signals(action)
                        else:  # guards read all of the prompt and may take longer than Envoy waits unasked
                            with _as_task(self._read_signals(action)) as task:
                                done, _ = await asyncio.wait([task], timeout=exchange.snapshot.guard_patience_s)
                                if not done:
                                    yield wire.more_time(exchange.snapshot.longest_wait_s + _ENVOY_MARGIN_S)
                                readings = await task
                    action = await self._turns.past_pauses(exchange, exchange.receive(SignalsRead(readings)))
                if isinstance(action, Lookup):
                    found = await active.lookup.look_up(action)
                    if isinstance(found, Waiting):  # for the answer to an equal question that another exchange asked first
                        yield wire.more_time(found.timeout_s + _ENVOY_MARGIN_S)
                        found = await active.lookup.await_leader()
                    action = await self._turns.past_pauses(exchange, exchange.receive(looked_up(found)))
                action = active.prepare(event, action)
                yield wire.encode(phase, action)
                if wire.is_last(action):
                    return
        except Exception as error:  # noqa: BLE001 - the shell's outer edge: a fault of ours must not end the process
            await _fail(active, context, error)
        finally:
            if active is not None:
                active.finish()

    async def _receive(self, active: ActiveExchange, event: Event) -> Action:
        """The action that answers an event, after the turns of a large body and the lookup ahead of signals."""
        exchange = active.exchange
        action = await self._turns.past_pauses(exchange, exchange.receive(event))
        if isinstance(action, Lookup) and action.is_ahead:
            found = looked_up(active.lookup.look_ahead(action))
            action = await self._turns.past_pauses(exchange, exchange.receive(found))
        return action

    def _begin(self, event: Event) -> ActiveExchange:
        headers = event.headers if isinstance(event, RequestHeaders) else {}
        return ActiveExchange(Exchange(self.snapshot), self._instruments.begin(headers), ExchangeLookup(self._cache))


@contextlib.contextmanager
def _as_task(work: Awaitable[Readings]) -> Iterator[asyncio.Future[Readings]]:
    """Start the work. It never outlives this context."""
    task = asyncio.ensure_future(work)
    try:
        yield task
    finally:
        task.cancel()


async def _fail(active: ActiveExchange | None, context: Context, error: Exception) -> None:
    """End the stream with a gRPC status. Envoy's failure policy then acts."""
    if active is not None:
        active.ending = "failed"
    if isinstance(error, ProtocolError):
        log.error("exchange ended: %s", error)
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
    else:
        # The message of the error is left out, because it may quote a prompt.
        log.error("exchange failed: %s at %s", type(error).__name__, _place(error))
        await context.abort(grpc.StatusCode.INTERNAL, "internal error")


def _place(error: BaseException) -> str:
    """File and line where an error was raised."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return f"{traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}" if traceback else "an unknown place"
