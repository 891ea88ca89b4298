"""The HTTP shell of the mock vLLM backends: reads, waits, writes. `answers` composes the text, `wire` the JSON."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from aiohttp import typedefs, web

from router.devstack.vllm import wire
from router.devstack.vllm.answers import answer_all, embed
from router.devstack.vllm.faults import STALL_S, Faults, Pace, read_faults
from router.devstack.vllm.ledger import Ledger, Received
from router.devstack.vllm.requests import Generation, read_chat, read_completion, read_embedding
from router.errors import RequestError

SHUTDOWN_S = 0.3
"""How long open answers may continue at the end: long enough for a last chunk, short enough for Ctrl-C."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

UNSEEN = ("/sim/", "/health", "/version")
"""Look-ups and probes, which are neither remembered nor counted."""


PACES_MS = {"small": (120.0, 20.0), "large": (350.0, 45.0), "coder": (200.0, 30.0)}
"""Time to the first token and between tokens, by model name: 50, 22 and 33 tokens/s. Chosen, not measured, so that a person sees
which model is larger. Other names get the pace of `small`."""


@dataclass(frozen=True, slots=True)
class Backend:
    """One mock vLLM server."""

    name: str
    """The model that it serves, and that its answers name."""
    host: str = "127.0.0.1"
    port: int = 0
    """0 takes any free port; see `Running.ports`."""
    aliases: tuple[str, ...] = ()
    """Further names it answers to, as vLLM's `--served-model-name` takes several."""
    first_token_ms: float | None = None
    """From the request to the first token; None takes it from `PACES_MS`."""
    token_ms: float | None = None
    """Between two tokens; None takes it from `PACES_MS`."""

    def pace(self) -> Pace:
        """When tokens are due unless a request asks for another pace."""
        first_token_ms, token_ms = PACES_MS.get(self.name, PACES_MS["small"])
        return Pace(
            first_token_ms if self.first_token_ms is None else self.first_token_ms,
            token_ms if self.token_ms is None else self.token_ms,
        )


@dataclass(frozen=True, slots=True)
class Running:
    """Backends that are up."""

    ports: tuple[int, ...]
    """The port of each backend, in the order they were given."""


@contextlib.asynccontextmanager
async def serve(backends: Sequence[Backend]) -> AsyncIterator[Running]:
    """Serve all `backends` on this event loop during the `async with` block.

    Raises: `OSError` when an address is in use; then none of them is served.
    """
    runners = [_runner(backend) for backend in backends]
    try:
        ports = [await _listen(runner, backend) for runner, backend in zip(runners, backends, strict=True)]
        yield Running(tuple(ports))
    finally:
        await asyncio.gather(*(runner.cleanup() for runner in runners))


async def run(backends: Sequence[Backend], ready: Callable[[Running], None] | None = None) -> None:
    """Serve until SIGINT or SIGTERM. `ready` is called once, when all backends listen.

    Raises: `OSError` as `serve` does.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with serve(backends) as running:
        if ready is not None:
            ready(running)
        await stopped.wait()


def _runner(backend: Backend) -> web.AppRunner:
    ledger = Ledger()
    app = web.Application(middlewares=[_bookkeeping(ledger), _errors, _provoked], client_max_size=0)
    app.add_routes([*_Endpoints(backend).routes(), *_lookups(ledger)])
    return web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=SHUTDOWN_S)


async def _listen(runner: web.AppRunner, backend: Backend) -> int:
    await runner.setup()
    await web.TCPSite(runner, backend.host, backend.port).start()
    return int(runner.addresses[0][1])


# -- the endpoints ---------------------------------------------------------------------------------------------------


class _Endpoints:
    """vLLM's endpoints of one backend."""

    def __init__(self, backend: Backend) -> None:
        self._names = (backend.name, *backend.aliases)
        self._pace = backend.pace()
        self._created = int(time.time())

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/chat/completions", self._chat),
            web.post("/v1/completions", self._completion),
            web.post("/v1/embeddings", self._embeddings),
            web.get("/v1/models", self._models),
            web.get("/v1/models/{id:.+}", self._model),
            web.get("/health", _health),
            web.get("/version", _version),
        ]

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, read_chat(await _body(request)), wire.Chat())

    async def _completion(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, read_completion(await _body(request)), wire.Completion())

    async def _embeddings(self, request: web.Request) -> web.StreamResponse:
        asked = read_embedding(await _body(request))
        self._check_model(asked.model)
        vectors = [embed(text, asked.dimension_count) for text in asked.texts]
        return _json(wire.embeddings(self._names[0], vectors, asked.prompt_tokens, asked.is_base64))

    async def _models(self, _: web.Request) -> web.StreamResponse:
        return _json(wire.models(self._names, self._created))

    async def _model(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["id"]
        self._check_model(name)
        return _json(wire.model_card(name, self._names[0], self._created))

    async def _generate(self, request: web.Request, asked: Generation, shape: wire.Shape) -> web.StreamResponse:
        clock = _Clock(time.monotonic(), self._pace, read_faults(request.headers))
        self._check_model(asked.model)
        answers = answer_all(asked, self._names[0], clock.faults.answer_tokens)
        head = wire.Head(
            response_id=shape.id_prefix + (request.headers.get("x-request-id") or uuid.uuid4().hex),
            created=int(time.time()),
            model=self._names[0],
            prompt_tokens=sum(prompt.prompt_tokens for prompt in asked.prompts),
        )
        if asked.is_stream:
            return await _stream(request, clock, wire.frames(shape, head, answers, asked))
        await clock.wait_for_end(max(len(answer.tokens) for answer in answers))
        return _json(wire.whole(shape, head, answers))

    def _check_model(self, name: str) -> None:
        if name not in self._names:
            raise RequestError(404, f"The model `{name}` does not exist.", param="model")


async def _body(request: web.Request) -> bytes:
    if request.content_type != "application/json":
        raise RequestError(400, "Unsupported Media Type: Only 'application/json' is allowed")
    return await request.read()


async def _stream(request: web.Request, clock: _Clock, frames: Iterator[list[wire.Json]]) -> web.StreamResponse:
    """Write each frame when it is due, and each chunk in its own write. Headers are sent at once, as vLLM does."""
    response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    for step, chunks in enumerate(frames):
        await clock.wait_for(step)
        for chunk in chunks:
            await response.write(wire.event(chunk))
    await response.write(wire.DONE)
    return response


class _DroppedError(Exception):
    """`x-sim-abort-after` is reached, so the connection must break."""


class _Clock:
    """Waits for tokens, and performs the faults that belong to a token."""

    def __init__(self, began_s: float, pace: Pace, faults: Faults) -> None:
        self.faults = faults
        self._began_s = began_s
        self._pace = pace.bent(faults)

    async def wait_for(self, token: int) -> None:
        """Return when token number `token`, counted from 0, is ready."""
        await asyncio.sleep(max(0.0, self._began_s + self._pace.due_s(token) - time.monotonic()))
        if self.faults.abort_after is not None and token >= self.faults.abort_after:
            raise _DroppedError
        if self.faults.stall_after is not None and token >= self.faults.stall_after:
            await asyncio.sleep(STALL_S)

    async def wait_for_end(self, token_count: int) -> None:
        """Return when all of `token_count` tokens are ready."""
        faults = (self.faults.abort_after, self.faults.stall_after)
        await self.wait_for(min([token_count, *(fault for fault in faults if fault is not None)]))


async def _health(_: web.Request) -> web.StreamResponse:
    return web.Response()


async def _version(_: web.Request) -> web.StreamResponse:
    return _json({"version": "mock"})


def _lookups(ledger: Ledger) -> list[web.RouteDef]:
    def show(found: Received | None) -> web.Response:
        if found is None:
            raise RequestError(404, "no such request is remembered")
        return _json(found.describe())

    async def last(_: web.Request) -> web.StreamResponse:
        return show(ledger.find())

    async def by_id(request: web.Request) -> web.StreamResponse:
        return show(ledger.find(request.match_info["id"]))

    async def count(_: web.Request) -> web.StreamResponse:
        return _json(ledger.counts())

    return [web.get("/sim/last", last), web.get("/sim/requests/{id}", by_id), web.get("/sim/count", count)]


# -- around every endpoint -------------------------------------------------------------------------------------------


def _bookkeeping(ledger: Ledger) -> typedefs.Middleware:
    """Middleware that remembers each request and how it ended."""

    @web.middleware
    async def keep(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith(UNSEEN):
            return await handler(request)
        headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers)
        request_id = request.headers.get("x-request-id", "")
        ledger.receive(Received(request.method, request.path_qs, headers, await request.read(), request_id))
        ending = "aborted"  # a client that leaves cancels the handler
        try:
            response = await handler(request)
            ending = "completed" if response.status < 400 else "refused"
            return response
        except _DroppedError:
            ending = "dropped"
            if request.transport is not None:
                request.transport.abort()
            return web.Response()  # aiohttp needs one, but nobody receives it
        finally:
            ledger.end(ending)

    return keep


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers refused requests and unknown paths with vLLM's error body."""
    try:
        return await handler(request)
    except RequestError as error:
        return _json(wire.error(error.http_status, error.message, error.param), error.http_status)
    except web.HTTPException as error:
        return _json(wire.error(error.status, error.reason), error.status)


@web.middleware
async def _provoked(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Performs the faults that come before any answer."""
    faults = read_faults(request.headers)
    if faults.stall_ms:
        await asyncio.sleep(faults.stall_ms / 1000)
    if faults.status is not None:
        return _json(wire.error(faults.status, "provoked by x-sim-status"), faults.status)
    return await handler(request)


def _json(body: Mapping[str, object], http_status: int = 200) -> web.Response:
    return web.Response(body=wire.dump(body), status=http_status, content_type="application/json")
