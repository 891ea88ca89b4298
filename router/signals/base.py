"""What a signal is, and how all of them are read within one deadline. Knows no concrete signal."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Protocol

from router.core.prompt import Prompt
from router.core.types import ChatRequest, Classification, Missing, Reading, Scores
from router.errors import BackendError


class Signal(Protocol):
    """A named measurement of one request, such as its intent. One instance serves all requests of a process."""

    name: str
    """What rules call it, such as `intent`."""

    async def read(self, request: ChatRequest) -> Classification | Scores:
        """Measure `request`. Raises `BackendError` when it cannot be measured; a request never fails for it."""
        ...


class Guard(Protocol):
    """A signal as rules that block ask for it: of everything that the model reads. One instance serves all requests."""

    async def scan(self, prompt: Prompt, shared: str) -> Scores:
        """Look through `prompt`. `shared` is the text that the other signals of the request read, and may have read already.

        Raises `BackendError` when it cannot be read; what nothing is found in is no scores.
        """
        ...


async def read_all(signals: Sequence[Signal], request: ChatRequest, deadline_s: float) -> Mapping[str, Reading]:
    """Read every signal side by side; what fails or is late is `Missing`, with the reason.

    `deadline_s` is the one budget for all signals together, in seconds. However this ends, no reading goes on behind it.
    """
    return await collect({signal.name: signal.read(request) for signal in signals}, deadline_s)


async def collect(
    wanted: Mapping[str, Coroutine[None, None, Classification | Scores]], deadline_s: float
) -> Mapping[str, Reading]:
    """The readings that are wanted, by name, as `read_all` does."""
    if not wanted:
        return {}
    tasks = {name: asyncio.create_task(reading) for name, reading in wanted.items()}
    try:
        await asyncio.wait(tasks.values(), timeout=deadline_s)
        return {name: _settle(task) for name, task in tasks.items()}
    finally:
        for task in tasks.values():
            task.cancel()


def _settle(task: asyncio.Task[Classification | Scores]) -> Reading:
    if not task.done():
        return Missing("deadline")
    if task.cancelled():
        return Missing("cancelled")
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, BackendError):
        return Missing(error.word)
    raise error
