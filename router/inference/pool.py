"""Model passes off the event loop, within bounds: no more at once than there are threads for, and no endless queue."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import onnxruntime

from router.errors import BackendError
from router.inference.turns import Line, Room, Turns

Result = TypeVar("Result")
FAILURES = tuple(
    getattr(onnxruntime.capi.onnxruntime_pybind11_state, name)
    for name in (
        "Fail",
        "InvalidArgument",
        "InvalidGraph",
        "InvalidProtobuf",
        "RuntimeException",
        "EPFail",
        "EngineError",
        "NotImplemented",
    )
)
"""What a session raises; these share no base class of their own."""
MAX_SCAN_CHARS = 1_048_576
"""Where nobody says otherwise: as many as the configuration says by default for two threads."""


class Runnable(Protocol):
    """What waits for a thread."""

    def run(self) -> None:
        """Do it. Raises nothing."""
        ...


PassLine = Line[Runnable]
"""The passes of one scan, in their order."""


@dataclass(slots=True)
class _Job(Generic[Result]):
    work: Callable[[], Result]
    future: Future[Result]

    def run(self) -> None:
        """Do the work, unless whoever wanted it has left."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            self.future.set_result(self.work())
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever awaits the result
            self.future.set_exception(error)


class InferencePool:
    """Runs passes in `threads` threads, one thread a pass: on CPUs two half-speed passes beat one shared one.

    All models of a process share one, so that their passes together take no more than the cores there are. More than
    `max_waiting` at once, running ones included, are refused: a late reading is worth nothing. Scans stand in lines of their own,
    behind all others (`turns.py`); what bounds them is the length of their texts (`scans.py`).
    """

    def __init__(self, threads: int, max_waiting: int, max_scan_chars: int = MAX_SCAN_CHARS) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="passes")
        self.threads = threads
        self.max_scan_chars = max_scan_chars
        """Of what waits for one guard, so many characters."""
        self._max_waiting = max_waiting
        self._urgent_count = 0
        self._turns: Turns[Runnable] = Turns()

    def submit(self, work: Callable[[], Result], line: PassLine | None = None) -> asyncio.Future[Result]:
        """The result of `work`, to come; in a line, when its turn is. Whoever cancels it before it has begun takes it out.

        Raises `BackendError`: `overloaded` when too many wait that stand in no line, `closed` after the end.
        """
        if line is None and self._urgent_count >= self._max_waiting:
            raise BackendError("overloaded")
        job = _Job(work, Future[Result]())
        self._turns.add(job, line)
        try:
            self._pool.submit(self._run_next)
        except RuntimeError:  # the pool was closed while this request was under way
            job.future.cancel()
            raise BackendError("closed") from None
        future = asyncio.wrap_future(job.future)
        if line is None:
            self._urgent_count += 1
            future.add_done_callback(self._settle)
        return future

    def close(self) -> None:
        """Forget what waits; a pass under way ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run_next(self) -> None:
        """Called in a thread once for each job: so there always is one."""
        self._turns.next().run()

    def _settle(self, _: object) -> None:
        self._urgent_count -= 1


def digest_of(text: str) -> bytes:
    """16 bytes by which a text is remembered, whatever its characters."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class CoalescingMemo(Generic[Result]):
    """Passes by text: equal texts under way share one, and recent texts are remembered by a digest."""

    def __init__(self, passes: InferencePool, run: Callable[[str], Result], max_remembered: int) -> None:
        self._passes, self._run, self._most = passes, run, max_remembered
        self._memo: OrderedDict[bytes, Result] = OrderedDict()
        self._under_way: dict[bytes, asyncio.Future[Result]] = {}

    async def __call__(self, text: str) -> Result:
        """What `run` gives for `text`. Raises as `InferencePool.submit` and `run` do."""
        key = digest_of(text)
        if key in self._memo:
            self._memo.move_to_end(key)
            return self._memo[key]
        future = self._under_way.get(key)
        if future is None:
            future = self._begin(text)
            self._under_way[key] = future
            future.add_done_callback(lambda done: self._settle(key, done))
        # Shielded: a caller that gives up must not take the pass away from the others, nor from the memo.
        return await asyncio.shield(future)

    def _begin(self, text: str) -> asyncio.Future[Result]:
        return self._passes.submit(lambda: self._run(text))

    def _settle(self, key: bytes, done: asyncio.Future[Result]) -> None:
        del self._under_way[key]
        if done.cancelled() or done.exception():
            return
        self._memo[key] = done.result()
        if len(self._memo) > self._most:
            self._memo.popitem(last=False)


Steps = Generator[None, None, Result]
"""Work of many passes: it runs to the next `yield` in each, and what it returns is the result."""


class CoalescingSteps(CoalescingMemo[Result]):
    """The same for work of many passes, which takes turns as scans do: in one pass it would keep a thread from everybody else."""

    def __init__(self, passes: InferencePool, begin: Callable[[str], Steps[Result]], max_remembered: int, max_chars: int) -> None:
        """`max_chars`: about what is read of a longer text."""
        super().__init__(passes, lambda text: to_end(begin(text)), max_remembered)
        self._steps_of, self._most_chars = begin, max_chars
        self._room: Room[Runnable] = Room(passes.max_scan_chars)

    def _begin(self, text: str) -> asyncio.Future[Result]:
        return asyncio.ensure_future(self._in_turns(text))

    async def _in_turns(self, text: str) -> Result:
        steps = self._steps_of(text)
        async with self._room.line(min(len(text), self._most_chars)) as line:
            while True:
                if end := await self._passes.submit(lambda: _next(steps), line):
                    return end[0]


def to_end(steps: Steps[Result]) -> Result:
    """All of it in the calling thread."""
    while not (end := _next(steps)):
        pass
    return end[0]


def _next(steps: Steps[Result]) -> tuple[Result] | None:
    """Do the next step; the result, in a tuple, after the last one."""
    try:
        next(steps)
    except StopIteration as end:
        return (end.value,)
    return None


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """A graph ready to run on one thread of the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
