"""Keeps workers running: it restarts a worker that ends, and no worker's failure affects another.

A worker is a process with its own gRPC port, models and metrics. All run the same `Program`, the validated configuration.
`restart.py` replaces them by workers with another program.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from router.runtime.program import Program

log = logging.getLogger(__name__)

CONFIG_STATUS = 2
"""Exit status of a worker that cannot start until the operator fixes a problem."""
READY, PROBLEM = "ready", "problem "
"""Lines that a worker reports: that it serves, or a reason why it cannot start."""
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.2, 10.0
_HEALTHY_S = 10.0  # a worker that served this long started well, so its next failure counts as the first
_MAX_FAILURES = 5
_REPORT_S = 1.0  # the pipe ends with the worker, unless another process holds it
_MAX_PROBLEMS = 100


@dataclass(slots=True, eq=False)
class Worker:
    """A worker and its current process. A new process follows when one ends."""

    index: int
    socket: str
    """Path of its admin port's unix socket."""
    program: Program
    process: asyncio.subprocess.Process | None = None
    is_up: bool = False
    """The current process has reported that it serves."""
    failures: int = 0
    """Failures in a row: failed starts, and processes that ended soon after they started."""
    status: int | None = None
    """Exit status of the last process."""
    problems: list[str] = field(default_factory=list)
    """The reasons that the worker reported when its last start failed."""
    leaving: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the worker is to leave: when its process ends, no other follows."""

    @property
    def pid(self) -> int | None:
        """The process id while the process runs."""
        return self.process.pid if self.process and self.process.returncode is None else None

    def send(self, signum: signal.Signals) -> None:
        """Send a signal to the process, if it runs."""
        if self.process and self.pid:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signum)

    def why(self) -> str:
        """Why it does not run, as part of a sentence."""
        return "; ".join(self.problems) or f"it ended with status {self.status}"


class Supervisor:
    """Runs a program's workers until it is told to stop, or until it is clear that none can start."""

    def __init__(self, program: Program) -> None:
        self.program = program
        """The program of new workers."""
        self.workers: list[Worker] = []
        """Sorted by index. Others hold this list too, so it is changed in place."""
        self.failed_starts_count = 0
        self._folder = tempfile.TemporaryDirectory(prefix="semantic-router-")  # mode 0700
        # Workers hold the reading end, which closes when this process ends for any reason.
        self._parent_read, self._parent_write = os.pipe()
        self._watches: dict[Worker, asyncio.Task[None]] = {}
        self._over = asyncio.Event()
        self._status = 0
        self._was_up = False
        self._signum = signal.SIGTERM

    # -- life ----------------------------------------------------------------------------------------------------

    def stop(self, signum: signal.Signals) -> None:
        """Pass the signal to all workers and end: SIGTERM drains, SIGINT does not wait."""
        self._signum = signum
        if self._over.is_set():  # a second signal may be stronger than the first
            for worker in self.workers:
                worker.send(signum)
        self._over.set()

    async def run(self, beside: Callable[[], Coroutine[object, object, None]] | None = None) -> int:
        """Run until stopped, with the task `beside`. Returns 0, or a worker's exit status if none ever started."""
        task = asyncio.create_task(beside()) if beside else None
        for index in range(0 if self._over.is_set() else self.program.count):
            self.start(index, self.program)
        try:
            await self._over.wait()
        finally:
            self._over.set()
            if task:
                task.cancel()
                await asyncio.wait([task])
            await self._end()
        if self._status:
            for line in dict.fromkeys(problem for worker in self.workers for problem in worker.problems):
                sys.stderr.write(f"{line}\n")
        return self._status

    async def _end(self) -> None:
        await asyncio.gather(*(self.retire(worker, self._signum) for worker in list(self.workers)))
        os.close(self._parent_read)
        os.close(self._parent_write)
        self._folder.cleanup()

    # -- workers -------------------------------------------------------------------------------------------------

    def find(self, index: int) -> Worker | None:
        """The worker with an index."""
        return next((worker for worker in self.workers if worker.index == index), None)

    def start(self, index: int, program: Program) -> Worker:
        """Start a worker with an unused index, and keep it running."""
        worker = Worker(index, str(Path(self._folder.name) / f"{index}.sock"), program)
        self.workers.append(worker)
        self.workers.sort(key=lambda each: each.index)
        self._watches[worker] = asyncio.create_task(self._keep(worker))
        return worker

    async def retire(self, worker: Worker, signum: signal.Signals = signal.SIGTERM) -> None:
        """Stop a worker, by force if it takes too long, and remove it."""
        worker.leaving.set()
        worker.send(signum)
        watch = self._watches[worker]
        _, late = await asyncio.wait([watch], timeout=worker.program.stop_s)
        if late:
            log.error("worker %d did not leave within %.0f s; killing it", worker.index, worker.program.stop_s)
            worker.send(signal.SIGKILL)
            await asyncio.wait([watch])
        if not self._over.is_set():  # at the end they stay in the list, because `run` prints their problems
            self.workers.remove(worker)
        del self._watches[worker]

    async def _keep(self, worker: Worker) -> None:
        """Restart a worker's process whenever it ends, with growing pauses while it fails."""
        while not worker.leaving.is_set():
            lasted_s = await self._live(worker)
            if worker.leaving.is_set():
                return
            is_failed = worker.status != 0 and lasted_s < _HEALTHY_S
            worker.failures = worker.failures + 1 if is_failed else 0
            self.failed_starts_count += worker.status != 0 and not lasted_s
            self._give_up()
            pause_s = min(_FIRST_PAUSE_S * 2 ** min(worker.failures, 10), _MAX_PAUSE_S)
            log.warning("worker %d: %s; starting it again in %.1f s", worker.index, worker.why(), pause_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(worker.leaving.wait(), pause_s)

    def _give_up(self) -> None:
        """End when no worker ever started and none can. Once a worker has started, the supervisor never gives up."""
        hopeless = [worker.status == CONFIG_STATUS or worker.failures >= _MAX_FAILURES for worker in self.workers]
        if self._was_up or not all(hopeless) or self._over.is_set():
            return
        log.error("no worker can start; giving up")
        self._status = CONFIG_STATUS if any(worker.status == CONFIG_STATUS for worker in self.workers) else 1
        self._over.set()

    async def _live(self, worker: Worker) -> float:
        """Run one process from start to end. Returns how long it served, in seconds."""
        loop = asyncio.get_running_loop()
        try:
            report_fd = await self._spawn(worker)
        except OSError as error:  # the system has no memory, process or file descriptor left
            worker.status, worker.problems = 1, [f"it cannot be started: {error.strerror}"]
            return 0.0
        assert worker.process is not None  # noqa: S101 - spawned above
        if worker.leaving.is_set():  # it was told to leave while it was starting
            worker.send(self._signum)
        up_since: asyncio.Future[float] = loop.create_future()
        listening = asyncio.create_task(self._listen(worker, report_fd, up_since))
        worker.status = await worker.process.wait()
        await asyncio.wait([listening], timeout=_REPORT_S)
        listening.cancel()
        worker.is_up = False
        return loop.time() - up_since.result() if up_since.done() else 0.0

    async def _spawn(self, worker: Worker) -> int:
        """Start the process, and return the read end of the pipe on which it reports."""
        report_read, report_write = os.pipe()
        try:
            with _handed_over(worker.program.read.dump()) as files_fd:
                fds = {"--parent-fd": self._parent_read, "--report-fd": report_write, "--files-fd": files_fd}
                more = ["--worker", str(worker.index), "--admin", f"unix:{worker.socket}"]
                more += [word for name, fd in fds.items() for word in (name, str(fd))]
                worker.process = await asyncio.create_subprocess_exec(*worker.program.command, *more, pass_fds=list(fds.values()))
        except OSError:
            os.close(report_read)
            raise
        finally:
            os.close(report_write)
        return report_read

    async def _listen(self, worker: Worker, fd: int, up_since: asyncio.Future[float]) -> None:
        """Record what the process reports, until it ends."""
        loop, reader, problems = asyncio.get_running_loop(), asyncio.StreamReader(), list[str]()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", 0))
        try:
            while line := (await reader.readline()).decode(errors="replace").rstrip("\n"):
                if line == READY and not up_since.done():
                    worker.is_up, worker.problems, self._was_up = True, [], True
                    up_since.set_result(loop.time())
                elif len(problems) < _MAX_PROBLEMS:
                    problems.append(line.removeprefix(PROBLEM))
        finally:
            worker.problems = problems
            transport.close()


@contextlib.contextmanager
def _handed_over(content: bytes) -> Iterator[int]:
    """A file without a name for a child to read. It needs no disk space, and no other user can open it."""
    with _nameless() as fd:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(fd, rest) :]
        yield fd


@contextlib.contextmanager
def _nameless() -> Iterator[int]:
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryFile() as file:
            yield file.fileno()
        return
    fd = os.memfd_create("semantic-router")
    try:
        yield fd
    finally:
        os.close(fd)


def taken_over(fd: int) -> bytes:
    """Read what the supervisor handed over."""
    os.lseek(fd, 0, os.SEEK_SET)
    with os.fdopen(fd, "rb") as file:
        return file.read()


def report(fd: int, *lines: str) -> None:
    """Called by a worker: report lines to the supervisor, if it still runs."""
    with contextlib.suppress(OSError), os.fdopen(os.dup(fd), "w", encoding="utf-8", errors="replace") as pipe:
        pipe.writelines(f"{' '.join(line.split())}\n" for line in lines)


def watch_parent(fd: int, on_gone: Callable[[], object]) -> None:
    """Call `on_gone` when the supervisor at the other end of the pipe has ended, even by SIGKILL."""
    loop = asyncio.get_running_loop()

    def gone() -> None:
        loop.remove_reader(fd)
        on_gone()

    loop.add_reader(fd, gone)
