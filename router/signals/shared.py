"""Does equal work once: for concurrent callers, and for later ones while the result is remembered."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Generic, TypeVar

Result = TypeVar("Result")


@dataclass(slots=True)
class _UnderWay(Generic[Result]):
    task: asyncio.Task[Result]
    waiting_count: int = 0


class SharedWork(Generic[Result]):
    """Work by key. It is cancelled when its last caller has left; the results that were used last are remembered."""

    def __init__(self, max_count: int, max_size: float = float("inf"), size_of: Callable[[Result], int] = lambda _: 0) -> None:
        """Remembers at most `max_count` results, with at most `max_size` of what `size_of` measures together."""
        self._max_count, self._max_size, self._size_of = max_count, max_size, size_of
        self._memo: OrderedDict[bytes, Result] = OrderedDict()
        self._size = 0
        self._under_way: dict[bytes, _UnderWay[Result]] = {}

    def __contains__(self, key: bytes) -> bool:
        """Whether the result is remembered."""
        return key in self._memo

    async def __call__(self, key: bytes, begin: Callable[[], Coroutine[None, None, Result]]) -> Result:
        """The result for `key`. Calls `begin` unless it is remembered or equal work is running, and raises as that does."""
        if key in self._memo:
            self._memo.move_to_end(key)
            return self._memo[key]
        work = self._under_way.get(key)
        if work is None:
            work = self._under_way[key] = _UnderWay(asyncio.create_task(self._remembering(key, begin)))
        work.waiting_count += 1
        try:
            return await asyncio.shield(work.task)
        finally:
            work.waiting_count -= 1
            if not work.waiting_count:
                work.task.cancel()
                if self._under_way.get(key) is work:  # a new caller must not join cancelled work
                    del self._under_way[key]

    async def _remembering(self, key: bytes, begin: Callable[[], Coroutine[None, None, Result]]) -> Result:
        result = await begin()
        self._memo[key] = result
        self._size += self._size_of(result)
        while len(self._memo) > self._max_count or self._size > self._max_size:
            self._size -= self._size_of(self._memo.popitem(last=False)[1])
        return result
