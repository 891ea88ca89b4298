"""The cache as the shell uses it, and what one exchange has to do with it."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from router.core.exchange import Exchange
from router.core.exchange_record import Ending
from router.core.lookup import CachePolicy, CacheQuery, Found, Miss, Waiting
from router.core.messages import LookedUp, Lookup

Pending = TypeVar("Pending")
"""The pending lookup that the cache hands out; it comes back to it unread."""


class Answers(Protocol[Pending]):
    """The cache."""

    async def look_up(self, query: CacheQuery, cache_policy: CachePolicy) -> tuple[Found | Waiting, Pending]:
        """A hit, a miss, or word of an equal question under way. Never raises for what fails."""
        ...

    async def await_leader(self, pending: Pending) -> Found:
        """Wait for the equal question."""
        ...

    def complete(self, pending: Pending, answer: bytes | None, max_ttl_s: float | None = None) -> None:
        """The request is over; called once for each pending lookup. `answer` may be stored, for `max_ttl_s` seconds at most."""
        ...


@dataclass(slots=True)
class ExchangeLookup(Generic[Pending]):
    """The lookup of one exchange, from its question until the answer is stored or given up. Without a cache it misses."""

    answers: Answers[Pending] | None
    _pending: Pending | None = None

    async def look_up(self, action: Lookup) -> Found | Waiting:
        """Ask the cache."""
        # Not by its truth, here and below: an empty cache is false, and the first of equal questions come to an empty one.
        if self.answers is None:
            return Miss("off")
        found, self._pending = await self.answers.look_up(action.query, action.cache_policy)
        return found

    async def await_leader(self) -> Found:
        """Wait for the equal question that is under way."""
        return Miss("off") if self.answers is None or self._pending is None else await self.answers.await_leader(self._pending)

    def complete(self, exchange: Exchange, ending: Ending) -> None:
        """Keep the answer if it may be kept, after the client has its last byte; let go who waits for it in any case."""
        if self.answers is None or self._pending is None:
            return
        answer = None
        try:
            answer = exchange.answer(ending)
        finally:
            self.answers.complete(self._pending, answer, exchange.backend_ttl_s)


def looked_up(found: Found) -> LookedUp:
    """The event of a lookup, with the time and a new id."""
    return LookedUp(found, int(time.time()), uuid.uuid4().hex)
