"""Which pass runs next, and which scan is refused when too much waits."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from router.errors import BackendError
from router.inference.turns import Line, Room, Turns


def line_of(turns: Turns[str], jobs: Sequence[str], chars: int = 0) -> Line[str]:
    """A line of scans whose passes all wait."""
    line = Line[str](chars, asyncio.Timeout(None))
    for job in jobs:
        turns.add(job, line)
    return line


def order(turns: Turns[str], count: int) -> str:
    """The next jobs, joined."""
    return "".join(turns.next() for _ in range(count))


def test_the_scan_with_least_left_runs_first() -> None:
    """A short scan waits for no long one, even if it comes later. Long scans end one after the other, not all at once."""
    turns = Turns[str]()
    line_of(turns, "aaa", 3000)
    line_of(turns, "bbb", 3000)
    assert order(turns, 1) == "a"
    line_of(turns, "c", 1)
    assert order(turns, 6) == "caabbb"
    with pytest.raises(ValueError, match="empty"):
        turns.next()


def test_a_long_scan_goes_on_beside_any_number_of_short_ones() -> None:
    """The oldest scan has every fourth turn."""
    turns = Turns[str]()
    line_of(turns, "lll", 3000)
    for _ in range(9):
        line_of(turns, "s", 1)
    assert order(turns, 12) == "ssslssslsssl"


def test_urgent_jobs_come_first_but_not_only_they() -> None:
    """A guard makes progress in any crowd of short requests."""
    turns = Turns[str]()
    for _ in range(10):
        turns.add("u", None)
    line_of(turns, "aaa")
    assert order(turns, 13) == "uuuauuuauuuau"


class Waiting:
    """Scans that wait in a room until they are released."""

    def __init__(self, max_chars: int) -> None:
        self.room, self.go = Room[str](max_chars), asyncio.Event()
        self.tasks: dict[str, asyncio.Task[str]] = {}
        self.lines: dict[str, Line[str]] = {}

    async def add(self, name: str, chars: int) -> None:
        """Add one more, and await its result."""
        self.tasks[name] = asyncio.create_task(self._wait(name, chars))
        for _ in range(5):
            await asyncio.sleep(0)

    async def _wait(self, name: str, chars: int) -> str:
        async with self.room.line(chars) as line:
            self.lines[name] = line
            await self.go.wait()
            return "read"

    async def ends(self) -> dict[str, str]:
        """The result of each scan."""
        self.go.set()
        ends = await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        return {
            name: str(end) if isinstance(end, BackendError | str) else type(end).__name__
            for name, end in zip(self.tasks, ends, strict=True)
        }


async def test_when_too_much_waits_the_largest_is_refused() -> None:
    """The newest is not refused: a short text finds room among any number of long ones."""
    waiting = Waiting(100)
    for name, chars in (("long", 60), ("middle", 40), ("short", 5)):
        await waiting.add(name, chars)
    assert waiting.tasks["long"].done()
    assert await waiting.ends() == {"long": "overloaded", "middle": "read", "short": "read"}


async def test_of_equal_ones_the_newest_is_refused() -> None:
    """Work that was done is not discarded for work that was not."""
    waiting = Waiting(100)
    await waiting.add("first", 60)
    waiting.lines["first"].chars_left = 50
    await waiting.add("second", 50)
    await waiting.add("third", 50)
    assert await waiting.ends() == {"first": "read", "second": "read", "third": "overloaded"}


async def test_a_text_that_is_alone_has_room() -> None:
    """This holds for any length. A scan that was refused or has left takes no room."""
    waiting = Waiting(100)
    await waiting.add("alone", 1000)
    await waiting.add("other", 100)
    assert waiting.tasks["alone"].done()
    waiting.tasks["other"].cancel()
    await asyncio.sleep(0)
    await waiting.add("next", 100)
    ends = await waiting.ends()
    assert ends == {"alone": "overloaded", "other": "CancelledError", "next": "read"}
