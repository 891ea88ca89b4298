"""The protocols of signals and guards, and the code that reads several within one deadline. Knows no concrete signal."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Protocol

from router.core.prompt import Prompt
from router.core.types import ChatRequest, Classification, Missing, Reading, Scores
from router.errors import BackendError


class Signal(Protocol):
    """A named measurement of a request, such as its intent. One instance serves all requests of a process."""

    name: str
    """The name in rules, such as `intent`."""

    async def read(self, request: ChatRequest) -> Classification | Scores:
        """Measure `request`. Raises `BackendError` when it cannot; the request goes on all the same."""
        ...


class Guard(Protocol):
    """The form of a signal that blocking rules use: it reads all that the model reads. One instance serves all requests."""

    async def scan(self, prompt: Prompt, shared: str) -> Scores:
        """Scan `prompt`. Returns no scores when nothing is found.

        `shared` is the text that the request's other signals read; its encoding may exist already.

        Raises:
            BackendError: the prompt cannot be read.
        """
        ...


async def read_all(signals: Sequence[Signal], request: ChatRequest, deadline_s: float) -> Mapping[str, Reading]:
    """Read all signals concurrently. A signal that fails or is late becomes `Missing`, with the reason.

    `deadline_s` bounds all signals together, in seconds. No reading continues after this returns or raises.
    """
    return await collect({signal.name: signal.read(request) for signal in signals}, deadline_s)


async def collect(
    wanted: Mapping[str, Coroutine[None, None, Classification | Scores]], deadline_s: float
) -> Mapping[str, Reading]:
    """Await all readings concurrently, as `read_all` does, and return them by name."""
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
