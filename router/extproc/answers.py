"""The cache as the shell sees it, and the one lookup of an exchange."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from router.core.events import LookedUp, Lookup
from router.core.exchange import Exchange
from router.core.exchange_record import Ending
from router.core.lookup import CachePolicy, CacheQuery, Found, Miss, Waiting

Pending = TypeVar("Pending")
"""The pending lookup of the cache. The shell hands it back without reading it."""


class AnswerCache(Protocol[Pending]):
    """What the shell needs of the cache."""

    async def look_up(self, query: CacheQuery, cache_policy: CachePolicy) -> tuple[Found | Waiting, Pending]:
        """A hit, a miss, or `Waiting` when an equal question is under way. A failure is a miss and never raises."""
        ...

    def look_ahead(self, query: CacheQuery, cache_policy: CachePolicy) -> Found:
        """A hit with the same text, or a miss; see `Lookup.is_ahead`."""
        ...

    async def await_leader(self, pending: Pending) -> Found:
        """Wait for the answer of the equal question."""
        ...

    def complete(self, pending: Pending, answer: bytes | None, max_ttl_s: float | None = None) -> None:
        """End a pending lookup. Called exactly once for each. `answer` may be stored, for at most `max_ttl_s` seconds."""
        ...


@dataclass(slots=True)
class ExchangeLookup(Generic[Pending]):
    """The lookup of one exchange, from the query until the answer is stored or dropped, and the one ahead of signals before it.

    Without a cache, both are misses.
    """

    cache: AnswerCache[Pending] | None
    _pending: Pending | None = None

    def look_ahead(self, action: Lookup) -> Found:
        """Ask the cache for what it can give at once. The lookup of the exchange is still to come after a miss."""
        return Miss("off") if self.cache is None else self.cache.look_ahead(action.query, action.cache_policy)

    async def look_up(self, action: Lookup) -> Found | Waiting:
        """Ask the cache."""
        # Compared with None, here and below: an empty cache is false as a boolean.
        if self.cache is None:
            return Miss("off")
        found, self._pending = await self.cache.look_up(action.query, action.cache_policy)
        return found

    async def await_leader(self) -> Found:
        """Wait for the answer of the equal question that is under way."""
        return Miss("off") if self.cache is None or self._pending is None else await self.cache.await_leader(self._pending)

    def complete(self, exchange: Exchange, ending: Ending) -> None:
        """Store the answer if it may be stored, and release those who wait for it. Called when the client has its last byte."""
        if self.cache is None or self._pending is None:
            return
        answer = None
        try:
            answer = exchange.answer(ending)
        finally:
            self.cache.complete(self._pending, answer, exchange.backend_ttl_s)


def looked_up(found: Found) -> LookedUp:
    """The event for the result of a lookup, with the time and a new id."""
    return LookedUp(found, int(time.time()), uuid.uuid4().hex)
