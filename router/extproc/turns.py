"""Large bodies are worked on one at a time and in steps, so clients that send many of them delay only large bodies."""

from __future__ import annotations

import asyncio
from time import perf_counter

from router.core.exchange import Exchange
from router.core.messages import Action, Overloaded, Pause, Resumed

_MAX_WAIT_S = 0.5  # of a large body for its turn: half of envoy.yaml's `message_timeout`, the other half is for reading it
_TURN_S = 0.004  # of work on a large body before others have their turn; most steps take a tenth of it


class BodyTurns:
    """Gives large bodies their turns. One instance serves all exchanges of a process."""

    def __init__(self) -> None:
        self._is_taken = asyncio.Lock()

    async def past_pauses(self, exchange: Exchange, action: Action) -> Action:
        """The next action that is no `Pause`; at once where `action` is none."""
        if not isinstance(action, Pause):
            return action
        try:
            async with asyncio.timeout(_MAX_WAIT_S):
                await self._is_taken.acquire()
        except TimeoutError:
            return exchange.receive(Overloaded())
        try:
            began = 0.0
            while isinstance(action, Pause):
                if perf_counter() - began > _TURN_S:
                    await asyncio.sleep(0)
                    began = perf_counter()
                action = exchange.receive(Resumed())
            return action
        finally:
            self._is_taken.release()
