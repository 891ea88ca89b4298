"""Reads of the store during a lookup. They are bounded in time, and skipped while the store is unavailable or too slow."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from router.cache.entries import Entry
from router.cache.index import Vector
from router.cache.stores.base import REFUSED, Store, StoreState
from router.core.lookup import CacheQuery
from router.errors import BackendError

T = TypeVar("T")

_MAX_LATE, _SPARED_S = 3, 5.0
"""After this many late answers in a row, no lookup reads the store for this many seconds."""
_MIN_IN_TIME = 20
"""After this many answers in time in a row, a slow store is no longer slow."""


class StoreReads:
    """Reads one store. A failure finds nothing and never raises. Only the event loop touches it."""

    def __init__(
        self,
        store: Store,
        state: StoreState,
        on_failure: Callable[[BackendError], None],
        on_pace: Callable[[bool], None],
        now: Callable[[], float],
    ) -> None:
        """`on_pace` is told whether the store is slow to read, each time that this is found out again."""
        self._store, self._state, self._on_failure, self._on_pace, self._now = store, state, on_failure, on_pace, now
        self._late = self._in_time = 0
        self._spared_until_s = 0.0

    @property
    def is_shared(self) -> bool:
        """See `Store.is_shared`."""
        return self._store.is_shared

    async def answer(self, entry_id: str, wait_s: float) -> bytes | None:
        """The answer of an entry; None when it does not come in time."""
        return await self._ask(lambda: self._store.answer(entry_id), wait_s)

    async def nearest(self, query: CacheQuery, vector: Vector | None, wait_s: float) -> Sequence[tuple[Entry, float]]:
        """The nearest entries of a query; without a vector, the entry with the same text."""

        async def look() -> Sequence[tuple[Entry, float]]:
            now_ms = int(self._now() * 1000)
            if vector is not None:
                return await self._store.nearest(query.namespace, vector, self._store.candidates, now_ms)
            same = await self._store.find(query.key, now_ms)
            return [(same, 1.0)] if same else []

        return await self._ask(look, wait_s) or []

    async def _ask(self, ask: Callable[[], Awaitable[T]], wait_s: float) -> T | None:
        if not self._state.is_up or self._now() < self._spared_until_s:
            return None
        try:
            async with asyncio.timeout(wait_s):
                answer = await ask()
            self._late, self._in_time = 0, self._in_time + 1
            if self._in_time == _MIN_IN_TIME:
                self._in_time = 0
                self._on_pace(False)
            return answer
        except TimeoutError:
            self._late, self._in_time = self._late + 1, 0
            if self._late >= _MAX_LATE:  # each late answer delayed a request
                self._late, self._spared_until_s = 0, self._now() + _SPARED_S
                self._on_pace(True)
        except BackendError as error:
            if str(error) != REFUSED:
                self._on_failure(error)
        return None
