"""The shell with a real cache in memory: equal questions under way, and answers that do not arrive whole."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace

import grpc.aio
import numpy as np
import pytest

from router.cache.cache import Cache
from router.cache.settings import CacheLimits
from router.cache.verifier import Verifier
from router.core.cache_key import Eligibility
from router.core.cache_policy import CachePlan, ScopePlan
from router.core.events import ReadSignals
from router.core.lookup import CachePolicy
from router.core.policy import Default
from router.core.types import Readings
from router.extproc.pb import extproc_pb2 as pb
from router.extproc.processor import Processor
from router.extproc.server import Server
from tests.contract.test_server import Recorder, body_message, ended, headers_message, read_math, stream
from tests.unit.builders import MATH_RULE, SMALL, chat_body, snapshot

POLICY = CachePolicy(0.8, 60.0, (), coalesce_timeout_s=20.0)
PLAN = CachePlan(ScopePlan("authorization", b"key"), Eligibility(), {"default": POLICY}, "v1")
MESSAGE = {"role": "assistant", "content": "Paris."}
ANSWER = json.dumps({"choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}]}).encode()


async def encode(text: str) -> SimpleNamespace:
    """Give every text the same vector."""
    return SimpleNamespace(vector=np.eye(1, 384, dtype=np.float32)[0], is_truncated=False)


class Site:
    """A listening router, its cache and the record of its instruments."""

    def __init__(self, port: int, cache: Cache, recorder: Recorder) -> None:
        self.port, self.cache, self.recorder = port, cache, recorder


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """A site with an empty cache."""
    cache, recorder = Cache(CacheLimits(), encode, Verifier(), None), Recorder()
    shot = replace(snapshot(default=Default(SMALL)), cache=PLAN)
    server = Server("127.0.0.1:0", Processor(shot, read_math, recorder, cache), 1 << 20)
    yield Site(await server.start(), cache, recorder)
    await server.drain(0, 0)


def response_headers(**more: str) -> pb.ProcessingRequest:
    """A 200 from the model."""
    values = {":status": "200", "content-type": "application/json", **more}
    headers = [pb.HeaderValue(key=key, raw_value=value.encode()) for key, value in values.items()]
    return pb.ProcessingRequest(response_headers=pb.HttpHeaders(headers=pb.HeaderMap(headers=headers)))


def response_body(data: bytes, *, is_end: bool) -> pb.ProcessingRequest:
    """A piece of the answer."""
    return pb.ProcessingRequest(response_body=pb.HttpBody(body=data, end_of_stream=is_end))


async def asked(call: grpc.aio.StreamStreamCall) -> pb.ProcessingResponse:
    """The router's answer to a question. A question that waits is answered with a request for more time."""
    await call.write(headers_message(authorization="Bearer a"))
    await call.read()
    await call.write(body_message(chat_body("What is the capital of France?")))
    reply = await call.read()
    assert isinstance(reply, pb.ProcessingResponse)
    return reply


async def test_the_second_of_equal_questions_waits_though_the_cache_is_empty(site: Site) -> None:
    """This happens after a start and after a purge. The first one leads, and the second gets its answer."""
    async with stream(site.port) as first, stream(site.port) as second:
        assert (await asked(first)).request_body.response.clear_route_cache
        waiting = await asked(second)
        assert waiting.HasField("override_message_timeout")
        await first.write(response_headers())
        await first.read()
        await first.write(response_body(ANSWER, is_end=True))
        await first.read()
        reply = await second.read()
        assert json.loads(reply.immediate_response.body)["choices"][0]["message"] == MESSAGE
    assert site.cache.counts.hits == {"coalesced": 1}


@pytest.mark.parametrize("pieces", [[], [ANSWER[:20]], [ANSWER]], ids=["nothing", "half", "all but the end"])
async def test_an_answer_that_does_not_arrive_whole_is_recorded_as_interrupted(site: Site, pieces: list[bytes]) -> None:
    """The client or the model disconnected. Nothing is stored, and the record says why."""
    async with stream(site.port) as call:
        await asked(call)
        for piece in pieces:
            await call.write(response_headers())
            await call.read()
            await call.write(response_body(piece, is_end=False))
            await call.read()
        call.cancel()
    record = await ended(site.recorder)
    assert (record.ending, record.stored) == ("abandoned", "interrupted")
    assert len(site.cache) == 0


async def test_an_answer_is_kept_no_longer_than_its_backend_says(site: Site) -> None:
    """Its `max-age` is below the operator's `ttl_seconds`."""
    async with stream(site.port) as call:
        await asked(call)
        await call.write(response_headers(**{"cache-control": "max-age=7"}))
        await call.read()
        await call.write(response_body(ANSWER, is_end=True))
        await call.read()
    await ended(site.recorder)
    async with asyncio.timeout(5):
        while not site.cache.entries:
            await asyncio.sleep(0.01)
    (entry,) = site.cache.entries
    assert entry.expires_ms - entry.created_ms == 7000


async def test_an_answer_to_the_same_text_needs_no_signal() -> None:
    """The shell asks the cache first. A question of other words is read, and may be a hit after that."""
    read: list[str] = []

    async def read_signals(wanted: ReadSignals) -> Readings:
        read.append(wanted.request.text)
        return await read_math(wanted)

    cache, recorder = Cache(CacheLimits(), encode, Verifier(), None), Recorder()
    plan = replace(PLAN, policies=dict.fromkeys(("default", MATH_RULE.name), POLICY))
    shot = replace(snapshot(MATH_RULE), cache=plan)
    server = Server("127.0.0.1:0", Processor(shot, read_signals, recorder, cache), 1 << 20)
    port = await server.start()
    async with stream(port) as call:
        assert (await asked(call)).request_body.response.clear_route_cache
        await call.write(response_headers())
        await call.read()
        await call.write(response_body(ANSWER, is_end=True))
        await call.read()
    await ended(recorder)
    async with asyncio.timeout(5):
        while not cache.entries:
            await asyncio.sleep(0.01)
    async with stream(port) as call:
        reply = await asked(call)
    headers = {each.header.key: each.header.raw_value.decode() for each in reply.immediate_response.headers.set_headers}
    assert (headers["x-vsr-cache-status"], headers["x-vsr-decision-reason"]) == ("hit:exact", "cached")
    assert (headers["x-vsr-cache-decision"], headers["x-vsr-cache-model"]) == (MATH_RULE.name, "large")
    assert len(read) == 1
    await server.drain(0, 0)
