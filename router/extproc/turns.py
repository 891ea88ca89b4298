"""Works on large bodies one at a time and in steps, so clients that send many of them delay only large bodies."""

from __future__ import annotations

import asyncio
from time import perf_counter

from router.core.events import Action, Overloaded, Pause, Resumed
from router.core.exchange import Exchange

_MAX_WAIT_S = 0.5  # until a large body has its turn: half of envoy.yaml's `message_timeout`; reading needs the other half
_TURN_S = 0.004  # of work before other exchanges have their turn; most steps take a tenth of this


class BodyTurns:
    """Gives large bodies their turns. One instance serves all exchanges of a process."""

    def __init__(self) -> None:
        self._is_taken = asyncio.Lock()

    async def past_pauses(self, exchange: Exchange, action: Action) -> Action:
        """The next action that is not a `Pause`. Returns `action` at once when it is not one."""
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
