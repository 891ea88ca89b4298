"""Decides which pass runs next and how much text may wait, so that long texts never delay or displace short ones."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from router.errors import BackendError

Job = TypeVar("Job")
_MAX_URGENT_IN_A_ROW = 3
"""After so many urgent passes a waiting scan gets a turn. Otherwise many short requests would starve the guards."""
_OLDEST_EVERY = 4
"""Every so many scan turns, the oldest scan runs, however long it is. Otherwise many short scans would starve it."""
_ages = itertools.count()


@dataclass(eq=False, slots=True)
class Line(Generic[Job]):
    """The passes of one scan, in order."""

    chars_left: int
    """Characters that the scan has yet to read."""
    limit: asyncio.Timeout
    jobs: deque[Job] = field(default_factory=deque)
    age: int = field(default_factory=lambda: next(_ages))
    """A serial number: the older line has the lower one."""


class Turns(Generic[Job]):
    """Jobs that wait for a thread: urgent ones first, then those of the line with the fewest characters left.

    Round robin looks fairer, but then many long texts would all finish late. Every method may be called from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._urgent: deque[Job] = deque()
        self._lines: set[Line[Job]] = set()
        self._urgent_in_a_row = self._scan_turns = 0

    def add(self, job: Job, line: Line[Job] | None) -> None:
        """Append the job to its line. A job without a line is urgent."""
        with self._lock:
            if line is None:
                self._urgent.append(job)
                return
            line.jobs.append(job)
            self._lines.add(line)

    def next(self) -> Job:
        """Remove and return the next job. Raises `ValueError` when none waits."""
        with self._lock:
            if self._urgent and not (self._lines and self._urgent_in_a_row >= _MAX_URGENT_IN_A_ROW):
                self._urgent_in_a_row += 1
                return self._urgent.popleft()
            self._urgent_in_a_row = 0
            self._scan_turns += 1
            is_for_oldest = self._scan_turns % _OLDEST_EVERY == 0
            line = min(self._lines, key=lambda line: (0 if is_for_oldest else line.chars_left, line.age))
            job = line.jobs.popleft()
            if not line.jobs:
                self._lines.remove(line)
            return job


class Room(Generic[Job]):
    """Bounds the characters that all scans together may have waiting. Beyond it, the scan with the most left is refused.

    So long texts never displace short ones, and a single text always has room.
    """

    def __init__(self, max_chars: int) -> None:
        self._max_chars = max_chars
        self._lines: dict[Line[Job], None] = {}

    @contextlib.asynccontextmanager
    async def line(self, chars: int) -> AsyncIterator[Line[Job]]:
        """A line for a scan of `chars` characters. Raises `BackendError` (`overloaded`), at once or later."""
        try:
            async with asyncio.timeout(None) as limit:
                line = Line[Job](chars, limit)
                self._lines[line] = None
                self._make_room()
                try:
                    yield line
                finally:
                    self._lines.pop(line, None)
        except TimeoutError:
            raise BackendError("overloaded") from None

    def _make_room(self) -> None:
        excess = sum(line.chars_left for line in self._lines) - self._max_chars
        while excess > 0 and len(self._lines) > 1:
            largest = max(reversed(self._lines), key=lambda line: line.chars_left)
            excess -= largest.chars_left
            del self._lines[largest]
            largest.limit.reschedule(asyncio.get_running_loop().time())
