"""Tests wait for conditions, never for a fixed time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait for the condition. A test whose condition never holds fails."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
