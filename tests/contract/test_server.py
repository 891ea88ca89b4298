"""The gRPC shell over a real socket, spoken to as Envoy does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from router.core.conditions import LabelIs
from router.core.events import ReadSignals
from router.core.exchange_record import ExchangeRecord
from router.core.policy import Rule
from router.core.types import Block, Missing, Readings, Scores
from router.errors import ConfigError
from router.extproc import wire
from router.extproc.pb import extproc_pb2 as pb
from router.extproc.processor import Processor
from router.extproc.server import Server
from tests.unit.builders import MATH_RULE, SMALL, chat_body, snapshot, sure
from tests.waiting import until

GUARD = Rule("g", LabelIs("prompt jailbreak", frozenset({"jailbreak"}), 0.5), SMALL, block=Block("no"))
SECRET = "a prompt that must not be seen"


@dataclass
class Recorder:
    """Instruments that record their calls."""

    records: list[ExchangeRecord] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def begin(self, headers: Mapping[str, str]) -> Recorder:
        """One scope serves all exchanges."""
        return self

    def upstream_headers(self) -> Mapping[str, str]:
        """A header as a tracer would send it."""
        return {"traceparent": "00-trace"}

    def end(self, record: ExchangeRecord) -> None:
        """Record it."""
        self.records.append(record)
        self.ended.set()


async def read_math(wanted: ReadSignals) -> Readings:
    """Every text is mathematics."""
    return dict.fromkeys(wanted.wanted, sure("math"))


Serve = Callable[..., Awaitable[tuple[Server, int, Recorder]]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start servers, and stop them at the end."""
    servers = []

    async def start(
        read_signals: Callable[[ReadSignals], Awaitable[Readings]] = read_math, **options: object
    ) -> tuple[Server, int, Recorder]:
        recorder = Recorder()
        shot = snapshot(*options.pop("rules", (MATH_RULE,)), **{"max_body_bytes": 12 << 20, **options})
        server = Server("127.0.0.1:0", Processor(shot, read_signals, recorder), shot.max_body_bytes)
        servers.append(server)
        return server, await server.start(), recorder

    yield start
    for server in servers:
        await server.drain(0, 0)


@contextlib.asynccontextmanager
async def stream(port: int) -> AsyncIterator[grpc.aio.StreamStreamCall]:
    """An open Process stream."""
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        method = channel.stream_stream(
            f"/{wire.SERVICE}/Process",
            request_serializer=pb.ProcessingRequest.SerializeToString,
            response_deserializer=pb.ProcessingResponse.FromString,
        )
        yield method()


def headers_message(**more: str) -> pb.ProcessingRequest:
    """Envoy's first message."""
    values = {":method": "POST", ":path": "/v1/chat/completions", **more}
    headers = [pb.HeaderValue(key=key, raw_value=value.encode()) for key, value in values.items()]
    return pb.ProcessingRequest(request_headers=pb.HttpHeaders(headers=pb.HeaderMap(headers=headers)))


def body_message(body: bytes) -> pb.ProcessingRequest:
    """Envoy's second message."""
    return pb.ProcessingRequest(request_body=pb.HttpBody(body=body, end_of_stream=True))


async def is_listening(port: int) -> bool:
    """Whether the server takes new connections."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def ended(recorder: Recorder) -> ExchangeRecord:
    """The record, once the shell has handed it over."""
    async with asyncio.timeout(5):
        await recorder.ended.wait()
    return recorder.records[0]


async def test_a_question_is_routed_and_the_stream_ends(serve: Serve) -> None:
    """The router replies twice, then closes the stream. The trace goes upstream, and the record has the times."""
    _, port, recorder = await serve()
    async with stream(port) as call:
        await call.write(headers_message())
        first = await call.read()
        assert first.WhichOneof("response") == "request_headers"
        await call.write(body_message(chat_body()))
        reply = await call.read()
        assert await call.read() is grpc.aio.EOF
    sent = {option.header.key: option.header.raw_value for option in reply.request_body.response.header_mutation.set_headers}
    assert (sent["x-upstream-cluster"], sent["traceparent"]) == (b"cluster-large", b"00-trace")
    record = await ended(recorder)
    assert (record.ending, record.model, record.category) == ("routed", "large", "math")
    assert 0 < record.signals_s < record.routing_s <= record.duration_s


@pytest.mark.parametrize(("kind", "is_timed"), [("text/event-stream", True), ("application/json", False)])
async def test_a_first_token_is_a_streams(serve: Serve, kind: str, is_timed: bool) -> None:
    """The first byte of a whole answer comes with its last token, whatever the client had asked for."""
    _, port, recorder = await serve(records_usage=True)
    headers = pb.HeaderMap(
        headers=[pb.HeaderValue(key=":status", raw_value=b"200"), pb.HeaderValue(key="content-type", raw_value=kind.encode())]
    )
    async with stream(port) as call:
        for message in (
            headers_message(),
            body_message(chat_body(stream=True)),
            pb.ProcessingRequest(response_headers=pb.HttpHeaders(headers=headers)),
            pb.ProcessingRequest(response_body=pb.HttpBody(body=b"data: {}\n\n", end_of_stream=True)),
        ):
            await call.write(message)
            await call.read()
    record = await ended(recorder)
    assert record.ending == "completed"
    assert (record.first_token_s is not None) is is_timed


async def test_a_body_of_ten_megabytes_is_routed(serve: Serve) -> None:
    """gRPC's default limit of 4 MiB would cause a silent bypass."""
    _, port, _ = await serve()
    async with stream(port) as call:
        await call.write(headers_message())
        await call.read()
        await call.write(body_message(chat_body("x" * (10 << 20))))
        reply = await call.read()
    assert len(reply.request_body.response.body_mutation.body) > 10 << 20


async def test_many_large_bodies_at_once_hold_up_each_other_and_nobody_else(serve: Serve) -> None:
    """They are read one at a time, in steps. A body that waits too long is refused, and never left to Envoy's policy."""
    _, port, recorder = await serve()
    large = body_message(chat_body("x" * (10 << 20)))

    async def answer(message: pb.ProcessingRequest) -> pb.ProcessingResponse:
        async with stream(port) as call:
            await call.write(headers_message())
            await call.read()
            await call.write(message)
            return await call.read()

    flood = [asyncio.create_task(answer(large)) for _ in range(12)]
    small = 0
    while not all(task.done() for task in flood):
        assert (await answer(body_message(chat_body()))).WhichOneof("response") == "request_body"
        small += 1
    assert small >= 2, "the second small request began when the whole flood had been read"
    answers = [task.result() for task in flood]
    refused = [reply.immediate_response.status.code for reply in answers if reply.HasField("immediate_response")]
    assert set(refused) <= {503}
    assert len(refused) < len(flood)
    assert all(record.ending in ("routed", "replied") for record in recorder.records)


async def test_a_client_that_leaves_while_signals_are_read_cancels_the_reading(serve: Serve) -> None:
    """No work continues for a client that has left."""
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def read_for_ever(wanted: ReadSignals) -> Readings:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return {}

    _, port, recorder = await serve(read_for_ever)
    async with stream(port) as call:
        await call.write(headers_message())
        await call.read()
        await call.write(body_message(chat_body()))
        await began.wait()
        call.cancel()
        async with asyncio.timeout(5):
            await cancelled.wait()
    assert (await ended(recorder)).ending == "abandoned"


async def test_a_stream_that_ends_after_the_headers_is_abandoned(serve: Serve) -> None:
    """The client died after half a body."""
    _, port, recorder = await serve()
    async with stream(port) as call:
        await call.write(headers_message())
        await call.read()
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
    assert (await ended(recorder)).ending == "abandoned"


async def test_a_fault_of_ours_tells_nobody_what_was_asked(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """The stream fails, so Envoy's policy acts. Neither the log nor the status quotes the prompt."""

    async def fail(wanted: ReadSignals) -> Readings:
        raise ValueError(f"cannot read {SECRET}")

    _, port, recorder = await serve(fail)
    with caplog.at_level(logging.DEBUG):
        async with stream(port) as call:
            await call.write(headers_message())
            await call.read()
            await call.write(body_message(chat_body(SECRET)))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert SECRET not in str(caught.value)
    assert SECRET not in caplog.text
    assert "ValueError" in caplog.text
    assert (await ended(recorder)).ending == "failed"


async def test_a_message_out_of_order_ends_the_stream(serve: Serve) -> None:
    """Envoy never sends a body before its headers."""
    _, port, recorder = await serve()
    async with stream(port) as call:
        await call.write(body_message(chat_body()))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert (await ended(recorder)).ending == "failed"


async def test_a_missing_signal_still_routes(serve: Serve) -> None:
    """The default decision is sent."""

    async def miss(wanted: ReadSignals) -> Readings:
        return dict.fromkeys(wanted.wanted, Missing("deadline"))

    _, port, recorder = await serve(miss)
    async with stream(port) as call:
        await call.write(headers_message())
        await call.read()
        await call.write(body_message(chat_body()))
        assert (await call.read()).WhichOneof("response") == "request_body"
    record = await ended(recorder)
    assert (record.model, record.reason, record.missing) == ("small", "intent_missing", {"intent": "deadline"})


async def test_a_guard_that_takes_long_asks_envoy_for_the_time(serve: Serve) -> None:
    """It asks once, and only if it takes long: most requests need no such message."""
    go = asyncio.Event()

    async def scan(wanted: ReadSignals) -> Readings:
        await go.wait()
        return {name: Scores({}) for name in wanted.wanted}

    _, port, recorder = await serve(scan, rules=(GUARD,))
    async with stream(port) as call:
        await call.write(headers_message())
        await call.read()
        await call.write(body_message(chat_body()))
        more = await call.read()
        assert more.WhichOneof("response") is None
        assert more.override_message_timeout.ToSeconds() == 30
        go.set()
        assert (await call.read()).WhichOneof("response") == "request_body"
    record = await ended(recorder)
    assert record.signals_s >= 0.25


async def test_a_client_that_leaves_ends_the_scan(serve: Serve) -> None:
    """Nobody would read the result."""
    cancelled = asyncio.Event()

    async def scan(wanted: ReadSignals) -> Readings:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    _, port, _ = await serve(scan, rules=(GUARD,))
    async with stream(port) as call:
        await call.write(headers_message())
        await call.read()
        await call.write(body_message(chat_body()))
        await call.read()
        call.cancel()
        async with asyncio.timeout(5):
            await cancelled.wait()


async def test_health_flips_before_the_socket_closes_and_nothing_in_flight_is_lost(serve: Serve) -> None:
    """Envoy has time to choose another worker. New streams are served until then."""
    server, port, _ = await serve()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel, stream(port) as call:
        check = health_pb2_grpc.HealthStub(channel).Check
        request = health_pb2.HealthCheckRequest(service=wire.SERVICE)
        assert (await check(request)).status == health_pb2.HealthCheckResponse.SERVING
        await call.write(headers_message())
        await call.read()
        draining = asyncio.create_task(server.drain(0.4, 5))
        await until(lambda: not server.is_ready)
        assert (await check(request)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        async with stream(port) as late:
            await late.write(headers_message())
            assert (await late.read()).WhichOneof("response") == "request_headers"
            await late.write(body_message(chat_body()))
            assert (await late.read()).WhichOneof("response") == "request_body"
        async with asyncio.timeout(20):
            while await is_listening(port):
                await asyncio.sleep(0.02)
        await call.write(body_message(chat_body()))
        assert (await call.read()).WhichOneof("response") == "request_body"
        await draining


async def test_a_taken_address_is_an_operators_error(serve: Serve) -> None:
    """Two routers on one port would share traffic at random."""
    _, port, _ = await serve()
    second = Server(f"127.0.0.1:{port}", Processor(snapshot(), read_math, Recorder()), 1000)
    with pytest.raises(ConfigError, match=r"server\.address"):
        await second.start()
