"""What a signal is, and how all of them are read within one deadline. Knows no concrete signal."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from router.core.types import ChatRequest, Classification, Missing, Reading, Scores
from router.errors import BackendError


class Signal(Protocol):
    """A named measurement of one request, such as its intent. One instance serves all requests of a process."""

    name: str
    """What rules call it, such as `intent`."""

    async def read(self, request: ChatRequest) -> Classification | Scores:
        """Measure `request`. Raises `BackendError` when it cannot be measured; a request never fails for it."""
        ...


async def read_all(signals: Sequence[Signal], request: ChatRequest, deadline_s: float) -> Mapping[str, Reading]:
    """Read every signal side by side; what fails or is late is `Missing`, with the reason.

    `deadline_s` is the one budget for all signals together, in seconds. However this ends, no reading goes on behind it.
    """
    if not signals:
        return {}
    tasks = {signal.name: asyncio.create_task(signal.read(request)) for signal in signals}
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
        return Missing(str(error))
    raise error
