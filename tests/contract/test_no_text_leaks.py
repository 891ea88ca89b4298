"""No text of a prompt, an answer or a header reaches a log line, a metric or a span, even when something fails.

One word that occurs nowhere else is sent in every place that a client and a backend can fill, down every path: real gRPC, real
instruments, real cache. The test then searches their output for that word.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import grpc.aio
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from router.admin.server import AdminServer
from router.cache.cache import Cache
from router.cache.settings import CacheLimits
from router.cache.verifier import Verifier
from router.config.patterns import compile_pattern
from router.core.cache_key import Eligibility
from router.core.cache_policy import CachePlan, ScopePlan
from router.core.conditions import LabelIs, TextMatches
from router.core.events import ReadSignals
from router.core.lookup import CachePolicy
from router.core.policy import Default, Policy, Rule
from router.core.types import Block, ChatRequest, Classification, Readings, Scores
from router.errors import BackendError
from router.extproc import wire
from router.extproc.pb import extproc_pb2 as pb
from router.extproc.processor import Processor
from router.extproc.server import Server
from router.signals.base import read_all
from router.telemetry import Telemetry
from router.telemetry.logs import Logs
from router.telemetry.metrics import Metrics
from router.telemetry.tracing import Tracing
from tests.contract.test_admin import Behind
from tests.contract.test_server import body_message, headers_message, stream
from tests.contract.test_shell_cache import response_body, response_headers
from tests.contract.test_tracing import Collector
from tests.unit.builders import MATH_RULE, SMALL, snapshot
from tests.waiting import until

MARKER = "Xyzzy7Plugh"
NAMES = ["authorization", "user-agent", "cookie", "x-team", "traceparent", "tracestate", "cache-control", "x-vsr-cache-ttl"]
NAMES += [
    "x-vsr-selected-model",
    "x-vsr-selected-decision",
    "x-upstream-cluster",
    "content-type",
    "x-forwarded-for",
    ":authority",
]
HEADERS = dict.fromkeys(NAMES, MARKER)
"""Every header except `x-request-id`, which the log shows on purpose."""
USER = {"role": "user", "content": f"What is {MARKER}?", "name": MARKER, MARKER: MARKER}
BODY = {
    "model": "auto",
    "messages": [{"role": "system", "content": MARKER}, USER],
    "metadata": {MARKER: MARKER},
    "user": MARKER,
    "stop": [MARKER],
    MARKER: {MARKER: [MARKER]},
}
TOOL = {"type": "function", "function": {"name": MARKER, "description": MARKER, "parameters": {MARKER: MARKER}}}
IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{MARKER}"}}
CHOICE = {"index": 0, "message": {"role": "assistant", "content": MARKER}, "finish_reason": "stop"}
ANSWER = json.dumps(
    {"id": MARKER, "model": MARKER, "choices": [CHOICE], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}
).encode()
EVENTS = (
    b"data: "
    + json.dumps({"choices": [{"index": 0, "delta": {"content": MARKER}}], MARKER: MARKER}).encode()
    + b"\n\ndata: [DONE]\n\n"
)

RULES = (
    Rule("no-word", TextMatches("words", (compile_pattern("forbidden"),)), SMALL, block=Block("no", fails_closed=True)),
    Rule("no-attack", LabelIs("jailbreak", frozenset({"jailbreak"}), 0.5), SMALL, block=Block("no", fails_closed=True)),
    MATH_RULE,
)


class Signal:
    """A signal that behaves as the test wants."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.error: Exception | None = None

    async def read(self, request: ChatRequest) -> Classification | Scores:
        """Read, or fail as told."""
        if self.error:
            raise self.error
        return Classification("other", 0.9) if self.name == "intent" else Scores({"jailbreak": 0.1})


class Site:
    """A listening router and everything that it writes."""

    def __init__(self, collector: Collector) -> None:
        self.reading, self.writing = os.pipe()
        self.written = bytearray()
        self._drain = threading.Thread(target=self._read, daemon=True)
        self._drain.start()
        self.logs, self.metrics = Logs("debug", access_log=True, fd=self.writing), Metrics()
        self.collector = collector
        self.telemetry = Telemetry(
            [self.metrics, Tracing(collector.endpoint, insecure=True, sample_ratio=1, service_name="x"), self.logs]
        )
        self.signals = {name: Signal(name) for name in ("intent", "jailbreak")}
        self.cache = Cache(CacheLimits(), self.encode, Verifier(), None)
        self.encoding_error: Exception | None = None
        plan = CachePlan(
            ScopePlan("authorization", b"key"), Eligibility(max_temperature=2), {"default": CachePolicy(0.8, 60.0, ())}, "v1"
        )
        policy = Policy.of(RULES, Default(SMALL), 0.5)
        shot = replace(snapshot(max_body_bytes=1 << 20, records_usage=True), policy=policy, cache=plan)
        self.server = Server("127.0.0.1:0", Processor(shot, self.read_signals, self.telemetry, self.cache), 1 << 20)
        self.port = 0

    def _read(self) -> None:
        while data := os.read(self.reading, 65536):
            self.written += data

    async def read_signals(self, wanted: ReadSignals) -> Readings:
        """Read signals as `build` wires it."""
        names = sorted({name.partition(":")[0] for name in wanted.wanted})
        found = await read_all([self.signals[name] for name in names], wanted.request, 5.0)
        return {name: found[name.partition(":")[0]] for name in wanted.wanted}

    async def encode(self, text: str) -> SimpleNamespace:
        """Give every text the same vector."""
        if self.encoding_error:
            raise self.encoding_error
        return SimpleNamespace(vector=np.eye(1, 384, dtype=np.float32)[0], is_truncated=False)

    async def send(self, *messages: pb.ProcessingRequest) -> list[pb.ProcessingResponse]:
        """Send the messages of one exchange until the router ends it."""
        answers = []
        async with stream(self.port) as call:
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                for message in messages:
                    await call.write(message)
                    answer = await call.read()
                    if answer is grpc.aio.EOF:
                        break
                    answers.append(answer)
        return answers

    async def ask(self, body: object, *rest: pb.ProcessingRequest, **headers: str) -> list[pb.ProcessingResponse]:
        """Send one request with the word in every header."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {**HEADERS, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return await self.send(headers_message(**given), body_message(data), *rest)

    async def ask_garbage(self) -> None:
        """Send bytes that are not a message of Envoy's."""
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            call = channel.stream_stream(f"/{wire.SERVICE}/Process")()
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await call.write(b"\xff\xff" + MARKER.encode())
                await call.read()

    async def page(self) -> str:
        """The metrics once every exchange has ended. The router may learn a moment later that a client has left."""
        await until(lambda: "llm_router_active_exchanges 0.0" in self.metrics.render().decode())
        return self.metrics.render().decode()

    async def everything(self) -> dict[str, bytes]:
        """All output, by place."""
        page = (await self.page()).encode()
        await self.server.drain(0, 1)
        self.telemetry.close()
        os.close(self.writing)
        self._drain.join(10)
        os.close(self.reading)
        spans = b""
        while not self.collector.received.empty():
            spans += self.collector.received.get().SerializeToString()
        return {"log": bytes(self.written), "metrics": page, "spans": spans}


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """A site with an empty cache."""
    collector = Collector()
    made = Site(collector)
    made.port = await made.server.start()
    yield made
    collector.stop()


def streamed() -> tuple[pb.ProcessingRequest, ...]:
    """An answer as a stream of events."""
    return response_headers(**{"content-type": "text/event-stream", "x-secret": MARKER}), response_body(EVENTS, is_end=True)


async def asked_twice(site: Site) -> None:
    """Store an answer and replay it, with a failed answer to another question between."""
    body = {**BODY, "messages": [USER]}
    await site.ask(body, response_headers(), response_body(ANSWER, is_end=True))
    await until(lambda: len(site.cache))  # it is stored after the last byte
    answers = await site.ask(body)
    assert MARKER.encode() in answers[-1].immediate_response.body


async def with_error(site: Site, error: Exception, name: str = "intent") -> None:
    """A signal that fails with the client's text in its error."""
    site.signals[name].error = error
    await site.ask(BODY)


async def with_broken_encoder(site: Site, error: Exception) -> None:
    """A cache whose encoder fails the same way."""
    site.encoding_error = error
    await site.ask({**BODY, "messages": [USER]})


async def in_the_loop(site: Site) -> None:
    """Errors in background tasks, which libraries print with their arguments."""

    def fail(text: str) -> None:
        raise ValueError(text)

    asyncio.get_running_loop().call_soon(fail, MARKER)
    asyncio.get_running_loop().call_exception_handler({"message": "lost", "exception": ValueError(MARKER), "what": MARKER})
    logging.getLogger("grpc").error("call failed", exc_info=ValueError(MARKER))
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def at_the_admin_port(site: Site) -> None:
    """Requests that are no HTTP, that name no path, and that cannot be explained."""
    behind = Behind()
    behind.error = ValueError(MARKER)
    admin = AdminServer("127.0.0.1:0", behind.routes())
    port = await admin.start()
    json_body = f"Host: {MARKER}\r\nContent-Type: application/json\r\nContent-Length: {len(MARKER)}\r\n\r\n{MARKER}"
    for request in (
        f"{MARKER} \x00 HTTP/{MARKER}\r\n\r\n",
        f"GET /{MARKER}?{MARKER} HTTP/1.1\r\nHost: localhost\r\n{MARKER}: \x01{MARKER}\r\n\r\n",
        f"POST /{MARKER} HTTP/1.1\r\n{json_body}",
        f"POST /explain HTTP/1.1\r\n{json_body.replace(MARKER, 'localhost', 1)}",
        f"POST /cache/{MARKER} HTTP/1.1\r\n{json_body.replace(MARKER, 'localhost', 1)}",
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request.encode())
        assert (await reader.read(12)).startswith(b"HTTP/1.")
        writer.close()
    await admin.stop()
    assert behind.explained


PATHS: dict[str, Callable[[Site], Awaitable[object]]] = {
    "routed": lambda site: site.ask({**BODY, "tools": [TOOL], "temperature": 3}),
    "routed with an image": lambda site: site.ask({**BODY, "messages": [{"role": "user", "content": [IMAGE]}]}),
    "named": lambda site: site.ask({**BODY, "model": "large"}),
    "an unknown model": lambda site: site.ask({**BODY, "model": MARKER}),
    "an unknown model of many letters": lambda site: site.ask({**BODY, "model": MARKER * 1000}),
    "a rule that blocks": lambda site: site.ask({**BODY, "messages": [{"role": "user", "content": f"forbidden {MARKER}"}]}),
    "no JSON": lambda site: site.ask(f'{{"{MARKER}": '.encode()),
    "no object": lambda site: site.ask([MARKER]),
    "no UTF-8": lambda site: site.ask(b'{"model": "\xff' + MARKER.encode()),
    "a wrong type": lambda site: site.ask({**BODY, "messages": MARKER}),
    "a wrong role": lambda site: site.ask({**BODY, "messages": [{"role": {MARKER: 1}, "content": MARKER}]}),
    "a wrong part": lambda site: site.ask(
        {**BODY, "messages": [{"role": "user", "content": [{"type": MARKER, MARKER: MARKER}]}]}
    ),
    "a key twice": lambda site: site.ask(f'{{"model": "auto", "{MARKER}": 1, "{MARKER}": 2, "messages": []}}'.encode()),
    "a compressed body": lambda site: site.ask(BODY, content_encoding=MARKER),
    "a length that is none": lambda site: site.ask(BODY, content_length=MARKER),
    "only what is cached": lambda site: site.ask({**BODY, "messages": [USER]}, cache_control="only-if-cached"),
    "another path": lambda site: site.ask(BODY, **{":path": f"/{MARKER}?key={MARKER}"}),
    "another method": lambda site: site.ask(BODY, **{":method": MARKER}),
    "a model's card": lambda site: site.ask(BODY, **{":method": "GET", ":path": f"/v1/models/{MARKER}"}),
    "a stream": lambda site: site.ask({**BODY, "stream": True}, *streamed()),
    "a refusal by the model": lambda site: site.ask(BODY, response_headers(**{":status": "500", "x-secret": MARKER})),
    "a status that is none": lambda site: site.ask(BODY, response_headers(**{":status": MARKER})),
    "an answer that is no JSON": lambda site: site.ask(BODY, response_headers(), response_body(MARKER.encode(), is_end=True)),
    "an answer cut off": lambda site: site.ask(BODY, response_headers(), response_body(ANSWER[:-9], is_end=False)),
    "stored and given again": asked_twice,
    "out of order": lambda site: site.send(body_message(MARKER.encode())),
    "twice the same": lambda site: site.send(headers_message(**HEADERS), headers_message(**HEADERS)),
    "no message": lambda site: site.ask_garbage(),
    "a signal that cannot read": lambda site: with_error(site, BackendError(f"cannot read {MARKER}")),
    "a signal that a rule hangs on": lambda site: with_error(site, BackendError(MARKER), "jailbreak"),
    "a signal with a fault": lambda site: with_error(site, ValueError(MARKER)),
    "a key that is not there": lambda site: with_error(site, KeyError(MARKER)),
    "a cache that cannot read": lambda site: with_broken_encoder(site, BackendError(f"cannot read {MARKER}")),
    "a cache with a fault": lambda site: with_broken_encoder(site, RuntimeError(MARKER)),
    "the admin port": at_the_admin_port,
    "faults behind everybody's back": in_the_loop,
}


@pytest.mark.parametrize("path", PATHS)
async def test_no_text_is_written(site: Site, path: str) -> None:
    """Logs, metrics and spans all show that there was an exchange, and none shows the word."""
    await PATHS[path](site)
    await site.ask({"model": "large", "messages": [{"role": "user", "content": "hello"}]})
    written = await site.everything()
    assert all(written.values())
    for where, data in written.items():
        assert MARKER.lower() not in data.decode("utf-8", "replace").lower(), where


async def test_clients_cannot_create_metric_series(site: Site) -> None:
    """A hundred clients that send different words in every place count under the same labels."""
    series = set()
    for number in range(2):
        for index in range(1 if number == 0 else 100):
            word = f"{MARKER}{index}"
            for body in ({**BODY, "model": word}, {**BODY, "messages": [{"role": word, "content": word}]}, {word: word}):
                await site.ask(body, content_encoding="" if index % 2 else "identity", **{"x-request-id": word})
        page = await site.page()
        found = {(s.name, *s.labels.values()) for f in text_string_to_metric_families(page) for s in f.samples}
        assert not series or found == series
        series = found
    await site.everything()
