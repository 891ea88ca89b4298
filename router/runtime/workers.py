"""`semantic-router serve`: a supervisor with its workers, and one admin port for all of them."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence

import aiohttp
from aiohttp import web

from router.admin.access import only_programs
from router.admin.server import errors_as_json, listen
from router.runtime.program import Program
from router.runtime.restart import Restarts, as_json
from router.runtime.supervisor import Supervisor, Worker
from router.telemetry.merge import merge
from router.telemetry.supervision import page_of

log = logging.getLogger(__name__)
State = Callable[[], Mapping[str, Mapping[str, float]]]
"""Returns values by label, by the metric's name."""

_MAX_NUMBER_DIGITS = 20
_ASK_S = 2.0
_OPERATION_S = 60.0  # as long as the command line waits, because importing many entries takes time
_OK = 200
_BODY_BYTES = 16 * 1024 * 1024


class AggregatedAdmin:
    """The admin port of all workers together."""

    def __init__(
        self,
        workers: Sequence[Worker],
        restarts: Restarts | None = None,
        state: State = dict,
        address: str = "unix:",
        allowed_hosts: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """`restarts` performs `/restart`. `state` returns the supervisor's own metrics.

        `address` and `allowed_hosts` are those of `access.only_programs`.
        """
        self._workers, self._restarts, self._state = workers, restarts, state
        app = web.Application(client_max_size=_BODY_BYTES, middlewares=[errors_as_json, only_programs(address, allowed_hosts)])
        app.add_routes(
            [
                web.get("/healthz", self._health),
                web.get("/readyz", self._ready),
                web.get("/metrics", self._metrics),
                web.get("/restart", self._restart_state),
                web.post("/restart", self._restart),
                web.post("/cache/{operation:invalidate|reject}", self._every),
                web.get("/cache/stats", self._each),
                web.post("/cache/{operation:stats|get|search|export}", self._each),
                web.route("*", "/{path:.*}", self._any),
            ]
        )
        self.runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)

    async def _health(self, request: web.Request) -> web.Response:
        """Bad only when workers are up and none answers, because then it helps to restart this process."""
        living = [worker for worker in self._workers if worker.is_up]
        answers = await asyncio.gather(*(_ask(worker, "GET", "/healthz") for worker in living))
        is_well = not living or any(status == _OK for status, _, _ in answers)
        return web.Response(text="ok\n" if is_well else "no worker answers\n", status=_OK if is_well else 503)

    async def _ready(self, request: web.Request) -> web.Response:
        ready = await self._ready_workers()
        states = [_state_of(worker, is_ready=worker in ready) for worker in self._workers]
        return web.json_response({"ready": bool(ready), "workers": states}, status=200 if ready else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        workers = list(self._workers)
        answers = await asyncio.gather(*(_ask(worker, "GET", "/metrics") for worker in workers))
        texts = {str(worker.index): body.decode() for worker, (status, body, _) in _pairs(workers, answers) if status == _OK}
        page = merge(texts) if self._tells_workers_apart else next((text.encode() for text in texts.values()), b"")
        own = page_of(self._state()) if page or not texts else b""  # workers have no metrics when telemetry.metrics is false
        return web.Response(body=page + own, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    @property
    def _tells_workers_apart(self) -> bool:
        """Metrics have the label `worker` when the configuration wants several workers."""
        return any(worker.program.count > 1 for worker in self._workers)

    async def _restart(self, request: web.Request) -> web.Response:
        """Request a restart. GET tells its progress."""
        if self._restarts is None:
            return web.json_response({"error": {"message": "this process has no workers to restart"}}, status=404)
        return web.Response(text=as_json(self._restarts.request()), status=202, content_type="application/json")

    async def _restart_state(self, request: web.Request) -> web.Response:
        found = self._restarts.find(restart_number(request.query.get("number", ""))) if self._restarts else None
        return web.Response(text=as_json(found), content_type="application/json")

    async def _any(self, request: web.Request) -> web.Response:
        """Forward the request to the first ready worker, because all workers would answer the same."""
        body = await request.read()
        for worker in await self._ready_workers():
            status, answer, kind = await _ask(worker, request.method, request.path_qs, body, _OPERATION_S)
            if status:
                return web.Response(status=status, body=answer, headers={"Content-Type": kind})
        return web.json_response({"error": {"message": "no worker is ready"}}, status=503)

    async def _every(self, request: web.Request) -> web.Response:
        """Forward the operation to all workers, because each has a cache of its own. The count is the highest of all workers."""
        answers = await self._ask_all(request)
        if not answers:
            return web.json_response({"error": {"message": "no worker is up"}}, status=503)
        if len(answers) == 1:
            return _as_it_is(answers[0])
        if failed := [answer for answer in answers if answer[0] != _OK]:
            status, body, kind = failed[0]
            return web.Response(status=status or 503, body=body, headers={"Content-Type": kind or "application/json"})
        documents = [json.loads(body) for _, body, _ in answers]
        reference = next((document["reference"] for document in documents if document.get("reference")), "")
        if reference and not all(document["count"] for document in documents):
            # A worker without the reported entry needs the whole reference to remember the pair.
            await self._ask_all(request, json.dumps({"id": reference}).encode())
        merged: dict[str, object] = {"count": max((document["count"] for document in documents), default=0)}
        if reference:
            merged["reference"] = reference
        if stores := {document["store"] for document in documents if "store" in document}:
            merged["store"] = _worst(stores)
        return web.json_response(merged)

    async def _each(self, request: web.Request) -> web.Response:
        """Forward the operation to all workers and merge their answers."""
        answers = await self._ask_all(request)
        if len(answers) == 1:
            return _as_it_is(answers[0])
        failed = [answer for answer in answers if answer[0] != _OK]
        if failed or not answers:
            status, body, kind = failed[0] if failed else (503, b"{}", "application/json")
            return web.Response(status=status or 503, body=body, headers={"Content-Type": kind or "application/json"})
        return web.json_response(_merged([json.loads(body) for _, body, _ in answers]))

    async def _ask_all(self, request: web.Request, body: bytes = b"") -> list[Answer]:
        body = body or await request.read()
        return list(
            await asyncio.gather(
                *(_ask(worker, request.method, request.path, body, _OPERATION_S) for worker in self._workers if worker.is_up)
            )
        )

    async def _ready_workers(self) -> list[Worker]:
        workers = list(self._workers)
        answers = await asyncio.gather(*(_ask(worker, "GET", "/readyz") for worker in workers))
        return [worker for worker, (status, _, _) in _pairs(workers, answers) if status == _OK]


def _worst(stores: set[str]) -> str:
    """The worst state of the workers' stores."""
    return next((state for state in ("waiting", "written") if state in stores), "none")


def _merged(documents: Sequence[dict[str, object]]) -> dict[str, object]:
    """Merge the entries of all workers. Other answers are listed by worker."""
    if "entries" not in documents[0] or not isinstance(documents[0]["entries"], list):
        return {"workers": documents}
    entries = {entry["id"]: entry for document in documents for entry in _entries(document)}
    ends = [end for document in documents if isinstance(end := document.get("next"), str)]
    return {**documents[0], "entries": list(entries.values()), "next": min((end for end in ends if end), default=None)}


def _entries(document: Mapping[str, object]) -> Iterable[Mapping[str, object]]:
    """The entries in a worker's answer to `search` or `export`."""
    found = document.get("entries")
    return found if isinstance(found, list) else ()


Answer = tuple[int, bytes, str]


def _as_it_is(answer: Answer) -> web.Response:
    """A single worker's answer, unchanged."""
    status, body, kind = answer
    return web.Response(status=status or 503, body=body, headers={"Content-Type": kind or "application/json"})


def _state_of(worker: Worker, *, is_ready: bool) -> dict[str, object]:
    """A worker's part of `/readyz`, with the reason when it does not run."""
    state: dict[str, object] = {"worker": worker.index, "pid": worker.pid, "ready": is_ready}
    if worker.leaving.is_set():
        return {**state, "leaving": True}
    if worker.is_up or not worker.failures:
        return state
    return {**state, "failures": worker.failures, "problems": worker.problems or [worker.why()]}


def _pairs(workers: Sequence[Worker], answers: Sequence[Answer]) -> list[tuple[Worker, Answer]]:
    return list(zip(workers, answers, strict=True))


async def _ask(worker: Worker, method: str, path: str, body: bytes = b"", wait_s: float = _ASK_S) -> Answer:
    """Status, body and content type of a worker's answer; status 0 when it does not answer."""
    connector = aiohttp.UnixConnector(path=worker.socket)
    headers = {"Content-Type": "application/json"} if body else {}  # `access.py` let only JSON through
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=wait_s)) as session,
            session.request(method, f"http://localhost{path}", data=body or None, headers=headers) as response,
        ):
            return response.status, await response.read(), response.headers.get("Content-Type", "text/plain")
    except (aiohttp.ClientError, OSError, TimeoutError):
        return 0, b"", ""


async def ask_about(worker: Worker) -> Mapping[str, object]:
    """A worker's part of `/readyz`; empty when it does not answer."""
    _, body, _ = await _ask(worker, "GET", "/readyz")
    try:
        (about,) = json.loads(body)["workers"]
    except (ValueError, KeyError, TypeError):
        return {}
    return about if isinstance(about, dict) else {}


async def supervise(program: Program, admin_address: str | None, read: Callable[[Program], Program]) -> int:
    """Run the workers and their common admin port until SIGTERM or SIGINT. Returns the exit status.

    SIGHUP restarts the workers. `read` reads the configuration again, given the running program; it may raise `ConfigError`.

    Raises:
        ConfigError: the admin port cannot listen on its address.
    """
    supervisor = Supervisor(program)
    restarts = Restarts(supervisor, read, ask_about)
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, supervisor.stop, signum)
    loop.add_signal_handler(signal.SIGHUP, restarts.request)

    def state() -> Mapping[str, Mapping[str, float]]:
        failing = sum(bool(worker.failures) and not worker.is_up for worker in supervisor.workers)
        ups = sum(worker.is_up for worker in supervisor.workers)
        return {
            "workers": {"wanted": supervisor.program.count, "up": ups, "failing": failing},
            "failed_starts": {"": supervisor.failed_starts_count},
            "restarts": restarts.counts,
        }

    admin = AggregatedAdmin(
        supervisor.workers, restarts, state, admin_address or "unix:", lambda: supervisor.program.allowed_hosts
    )
    await admin.runner.setup()
    try:
        if admin_address:
            await listen(admin.runner, admin_address)
        return await supervisor.run(restarts.run)
    finally:
        await admin.runner.cleanup()


def restart_number(text: str) -> int | None:
    """The number of a restart in a query. None, which means the latest, if it is not a number."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < _MAX_NUMBER_DIGITS else None
