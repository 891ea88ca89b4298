"""Runs model passes in threads off the event loop, with a bounded queue."""

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
"""The errors that a session raises. They have no common base class."""
MAX_SCAN_CHARS = 1_048_576
"""The default of `InferencePool`: the value that the configuration's defaults give for two threads."""


class Runnable(Protocol):
    """Work that waits for a thread."""

    def run(self) -> None:
        """Do the work. Raises nothing."""
        ...


PassLine = Line[Runnable]
"""The passes of one scan, in order."""


@dataclass(slots=True)
class _Job(Generic[Result]):
    work: Callable[[], Result]
    future: Future[Result]

    def run(self) -> None:
        """Do the work, unless the caller has cancelled it."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            self.future.set_result(self.work())
        except BaseException as error:  # noqa: BLE001 - whoever awaits the result gets it
            self.future.set_exception(error)


class InferencePool:
    """Runs passes in `threads` threads, one thread a pass. On CPUs, two passes side by side beat one pass on two threads.

    All models of a process share one pool, so that their passes together use no more than the available cores. The pool refuses
    passes beyond `max_queue`, running ones included, because a late reading is useless. Scans wait in lines of their own, behind
    all other passes (`turns.py`). The length of their texts bounds them (`scans.py`).
    """

    def __init__(self, threads: int, max_queue: int, max_scan_chars: int = MAX_SCAN_CHARS) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="passes")
        self.threads = threads
        self.max_scan_chars = max_scan_chars
        """The most characters that may wait for one guard."""
        self._max_queue = max_queue
        self._urgent_count = 0
        self._turns: Turns[Runnable] = Turns()

    def submit(self, work: Callable[[], Result], line: PassLine | None = None) -> asyncio.Future[Result]:
        """Queue `work`, in `line` if one is given. Cancelling the future before the work has begun removes it from the queue.

        Raises:
            BackendError: `overloaded` when too many passes without a line wait, `closed` after `close`.
        """
        if line is None and self._urgent_count >= self._max_queue:
            raise BackendError("overloaded")
        job = _Job(work, Future[Result]())
        self._turns.add(job, line)
        try:
            self._pool.submit(self._run_next)
        except RuntimeError:  # the pool was closed during this request
            job.future.cancel()
            raise BackendError("closed") from None
        future = asyncio.wrap_future(job.future)
        if line is None:
            self._urgent_count += 1
            future.add_done_callback(self._settle)
        return future

    def close(self) -> None:
        """Drop the waiting passes. A running pass ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run_next(self) -> None:
        """Called in a thread once for each job, so a job is always there."""
        self._turns.next().run()

    def _settle(self, _: object) -> None:
        self._urgent_count -= 1


def digest_of(text: str) -> bytes:
    """16 bytes that identify a text. Accepts half surrogate pairs."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class CoalescingMemo(Generic[Result]):
    """Passes by text: concurrent calls with equal texts share one, and recent results are remembered by the text's digest."""

    def __init__(self, passes: InferencePool, run: Callable[[str], Result], max_remembered: int) -> None:
        self._passes, self._run, self._max_remembered = passes, run, max_remembered
        self._memo: OrderedDict[bytes, Result] = OrderedDict()
        self._under_way: dict[bytes, asyncio.Future[Result]] = {}

    async def __call__(self, text: str) -> Result:
        """The result of `run` for `text`. Raises as `InferencePool.submit` and `run` do."""
        key = digest_of(text)
        if key in self._memo:
            self._memo.move_to_end(key)
            return self._memo[key]
        future = self._under_way.get(key)
        if future is None:
            future = self._begin(text)
            self._under_way[key] = future
            future.add_done_callback(lambda done: self._settle(key, done))
        # Shielded, because a caller that gives up must not cancel the pass for the others and the memo.
        return await asyncio.shield(future)

    def _begin(self, text: str) -> asyncio.Future[Result]:
        return self._passes.submit(lambda: self._run(text))

    def _settle(self, key: bytes, done: asyncio.Future[Result]) -> None:
        del self._under_way[key]
        if done.cancelled() or done.exception():
            return
        self._memo[key] = done.result()
        if len(self._memo) > self._max_remembered:
            self._memo.popitem(last=False)


Steps = Generator[None, None, Result]
"""Work of several passes. Each pass runs to the next `yield`; the return value is the result."""


class CoalescingSteps(CoalescingMemo[Result]):
    """The same for work of several passes. It takes turns as scans do, because in one go it would block a thread for long."""

    def __init__(self, passes: InferencePool, begin: Callable[[str], Steps[Result]], max_remembered: int, max_chars: int) -> None:
        """`max_chars`: about how many characters of a longer text are read."""
        super().__init__(passes, lambda text: to_end(begin(text)), max_remembered)
        self._steps_of, self._max_chars = begin, max_chars
        self._room: Room[Runnable] = Room(passes.max_scan_chars)

    def _begin(self, text: str) -> asyncio.Future[Result]:
        return asyncio.ensure_future(self._in_turns(text))

    async def _in_turns(self, text: str) -> Result:
        steps = self._steps_of(text)
        async with self._room.line(min(len(text), self._max_chars)) as line:
            while True:
                if end := await self._passes.submit(lambda: _next(steps), line):
                    return end[0]


def to_end(steps: Steps[Result]) -> Result:
    """Run all steps in the calling thread."""
    while not (end := _next(steps)):
        pass
    return end[0]


def _next(steps: Steps[Result]) -> tuple[Result] | None:
    """Run the next step. Returns the result, in a tuple, after the last step."""
    try:
        next(steps)
    except StopIteration as end:
        return (end.value,)
    return None


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Load a graph that runs on one CPU thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
