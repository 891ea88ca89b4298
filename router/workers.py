"""`server.workers` above 1: starts that many routers, keeps them running, and speaks for them on the admin port.

Workers share nothing and need nothing of each other: each has its own gRPC port, model and metrics.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from router.admin.server import listen
from router.telemetry.merge import merge

log = logging.getLogger(__name__)

CONFIG_STATUS = 2
"""Exit status of a worker whose configuration cannot work: starting it again would not help."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
_HEALTHY_S = 10.0  # a worker that ran this long did not fail at start; its next failure is taken as the first
_MOST_FAILED_STARTS = 5
_ASK_S = 2.0
_OK = 200
_BODY_BYTES = 16 * 1024 * 1024


@dataclass(slots=True)
class Worker:
    """One child process, through all its lives."""

    index: int
    socket: str
    """Path of the unix socket of its admin port."""
    process: asyncio.subprocess.Process | None = None
    failed_starts: int = 0

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self.process.pid if self.process and self.process.returncode is None else None


class Supervisor:
    """Keeps workers running until it is told to stop, or until they cannot run."""

    def __init__(self, command: Sequence[str], count: int, stop_s: float) -> None:
        """`command` starts one worker; `--worker I --admin unix:PATH --parent-fd FD` are put behind it.

        `stop_s` is how long workers may take to leave before they are killed, in seconds.
        """
        self._command, self._stop_s = command, stop_s
        self._folder = tempfile.TemporaryDirectory(prefix="semantic-router-")  # mode 0700
        self.workers = [Worker(index, str(Path(self._folder.name) / f"{index}.sock")) for index in range(count)]
        # The children hold the reading end: it reports the end of this process, however that came about.
        self._parent_read, self._parent_write = os.pipe()
        self._stopping = asyncio.Event()
        self._signum = signal.SIGTERM

    def stop(self, signum: signal.Signals) -> None:
        """Hand the signal to all workers and come to an end: SIGTERM drains, SIGINT leaves at once."""
        self._signum = signum
        self._stopping.set()

    async def run(self) -> int:
        """Run until stopped; the exit status: 0, or a worker's own when the workers cannot run."""
        keepers = [asyncio.create_task(self._keep(worker)) for worker in self.workers]
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            done, _ = await asyncio.wait({*keepers, stopping}, return_when=asyncio.FIRST_COMPLETED)
            failed = [keeper.result() for keeper in keepers if keeper in done]
            return failed[0] if failed else 0
        finally:
            self._stopping.set()
            stopping.cancel()
            await self._end(keepers)

    async def _keep(self, worker: Worker) -> int:
        """Start a worker again whenever it ends; its exit status when that makes no sense any more."""
        while not self._stopping.is_set():
            began = asyncio.get_running_loop().time()
            status = await self._live(worker)
            if self._stopping.is_set():
                break
            if status == CONFIG_STATUS:
                return CONFIG_STATUS
            lasted = asyncio.get_running_loop().time() - began >= _HEALTHY_S
            worker.failed_starts = 0 if lasted or status == 0 else worker.failed_starts + 1
            if worker.failed_starts >= _MOST_FAILED_STARTS:
                log.error("worker %d ended %d times at its start; giving up", worker.index, worker.failed_starts)
                return 1
            pause_s = min(_FIRST_PAUSE_S * 2**worker.failed_starts, _LONGEST_PAUSE_S)
            log.warning("worker %d ended with status %d; starting it again in %.1f s", worker.index, status, pause_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)
        return 0

    async def _live(self, worker: Worker) -> int:
        more = ["--worker", str(worker.index), "--admin", f"unix:{worker.socket}", "--parent-fd", str(self._parent_read)]
        worker.process = await asyncio.create_subprocess_exec(*self._command, *more, pass_fds=[self._parent_read])
        return await worker.process.wait()

    async def _end(self, keepers: Sequence[asyncio.Task[int]]) -> None:
        self._signal_all(self._signum)
        _, late = await asyncio.wait(keepers, timeout=self._stop_s)
        if late:
            log.error("%d workers did not leave within %.0f s; killing them", len(late), self._stop_s)
            self._signal_all(signal.SIGKILL)
            await asyncio.wait(late)
        os.close(self._parent_read)
        os.close(self._parent_write)
        self._folder.cleanup()

    def _signal_all(self, signum: signal.Signals) -> None:
        for worker in self.workers:
            if worker.process and worker.pid:
                with contextlib.suppress(ProcessLookupError):
                    worker.process.send_signal(signum)


class Front:
    """The admin port of all workers together."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = workers
        app = web.Application(client_max_size=_BODY_BYTES)
        app.add_routes(
            [
                web.get("/healthz", self._health),
                web.get("/readyz", self._ready),
                web.get("/metrics", self._metrics),
                web.post("/cache/{operation:invalidate|report}", self._every),
                web.get("/cache/stats", self._each),
                web.post("/cache/{operation:stats|get|search|export}", self._each),
                web.route("*", "/{path:.*}", self._any),
            ]
        )
        self.runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _ready(self, request: web.Request) -> web.Response:
        ready = await self._ready_workers()
        states = [{"worker": worker.index, "pid": worker.pid, "ready": worker in ready} for worker in self._workers]
        return web.json_response({"ready": bool(ready), "workers": states}, status=200 if ready else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        answers = await asyncio.gather(*(_ask(worker, "GET", "/metrics") for worker in self._workers))
        texts = {
            str(worker.index): body.decode() for worker, (status, body, _) in _pairs(self._workers, answers) if status == 200
        }
        return web.Response(body=merge(texts), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _any(self, request: web.Request) -> web.Response:
        """Explanations and the like are the same in every worker: the first that is ready answers."""
        body = await request.read()
        for worker in await self._ready_workers():
            status, answer, kind = await _ask(worker, request.method, request.path_qs, body)
            if status:
                return web.Response(status=status, body=answer, headers={"Content-Type": kind})
        return web.json_response({"error": {"message": "no worker is ready"}}, status=503)

    async def _every(self, request: web.Request) -> web.Response:
        """What has to be done in every worker: each may have a cache of its own. Counts are of the worker that did most."""
        answers = await self._ask_all(request)
        if failed := [answer for answer in answers if answer[0] != _OK]:
            status, body, kind = failed[0]
            return web.Response(status=status or 503, body=body, headers={"Content-Type": kind or "application/json"})
        documents = [json.loads(body) for _, body, _ in answers]
        reference = next((document["reference"] for document in documents if document.get("reference")), "")
        if reference and not all(document["count"] for document in documents):
            # Some do not know the entry that was reported; by its whole reference they need not.
            await self._ask_all(request, json.dumps({"id": reference}).encode())
        merged: dict[str, Any] = {"count": max((document["count"] for document in documents), default=0)}
        if reference:
            merged["reference"] = reference
        if stores := {document["store"] for document in documents if "store" in document}:
            merged["store"] = _worst(stores)
        return web.json_response(merged)

    async def _each(self, request: web.Request) -> web.Response:
        """What every worker answers for itself."""
        answers = await self._ask_all(request)
        failed = [answer for answer in answers if answer[0] != _OK]
        if failed or not answers:
            status, body, kind = failed[0] if failed else (503, b"{}", "application/json")
            return web.Response(status=status or 503, body=body, headers={"Content-Type": kind or "application/json"})
        return web.json_response(_merged([json.loads(body) for _, body, _ in answers]))

    async def _ask_all(self, request: web.Request, body: bytes = b"") -> list[Answer]:
        body = body or await request.read()
        return list(
            await asyncio.gather(*(_ask(worker, request.method, request.path, body) for worker in self._workers if worker.pid))
        )

    async def _ready_workers(self) -> list[Worker]:
        answers = await asyncio.gather(*(_ask(worker, "GET", "/readyz") for worker in self._workers))
        return [worker for worker, (status, _, _) in _pairs(self._workers, answers) if status == 200]


def _worst(stores: set[str]) -> str:
    """Of what each worker says of its store."""
    return next((state for state in ("waiting", "written") if state in stores), "none")


def _merged(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Entries of all, each once; of everything else, what each worker says."""
    if "entries" not in documents[0] or not isinstance(documents[0]["entries"], list):
        return {"workers": documents}
    entries = {entry["id"]: entry for document in documents for entry in document["entries"]}
    ends = [document.get("next") for document in documents]
    return {**documents[0], "entries": list(entries.values()), "next": min((end for end in ends if end), default=None)}


Answer = tuple[int, bytes, str]


def _pairs(workers: Sequence[Worker], answers: Sequence[Answer]) -> list[tuple[Worker, Answer]]:
    return list(zip(workers, answers, strict=True))


async def _ask(worker: Worker, method: str, path: str, body: bytes = b"") -> Answer:
    """Status, body and content type of a worker's answer; status 0 when there is none."""
    connector = aiohttp.UnixConnector(path=worker.socket)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=_ASK_S)) as session,
            session.request(method, f"http://worker{path}", data=body or None) as response,
        ):
            return response.status, await response.read(), response.headers.get("Content-Type", "text/plain")
    except (aiohttp.ClientError, OSError, TimeoutError):
        return 0, b"", ""


async def supervise(command: Sequence[str], count: int, admin_address: str | None, stop_s: float) -> int:
    """Run `count` workers and their common admin port until SIGTERM or SIGINT; the exit status.

    Raises:
        ConfigError: the admin address cannot be listened on.
    """
    supervisor = Supervisor(command, count, stop_s)
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, supervisor.stop, signum)
    front = Front(supervisor.workers)
    await front.runner.setup()
    try:
        if admin_address:
            await listen(front.runner, admin_address)
        return await supervisor.run()
    finally:
        await front.runner.cleanup()


def watch_parent(fd: int, on_gone: Callable[[], Any]) -> None:
    """Call `on_gone` when the supervisor at the other end of the pipe is gone, even by SIGKILL."""
    loop = asyncio.get_running_loop()

    def gone() -> None:
        loop.remove_reader(fd)
        on_gone()

    loop.add_reader(fd, gone)
