"""Finds text that the cuts of a long text would split, once per text, however many guards ask. Knows no guard."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from router.inference.pool import InferencePool, PassLine, digest_of

Result = TypeVar("Result")
_MAX_REMEMBERED = 16384  # texts; nearly all have no result, and take some 100 bytes
_MAX_REMEMBERED_CHARS = 1_048_576  # of results, at most four bytes each


@dataclass(slots=True)
class _UnderWay(Generic[Result]):
    task: asyncio.Task[Result]
    waiting_count: int = 0


class SharedWork(Generic[Result]):
    """Runs equal work once for all concurrent callers. Cancels it when the last caller has left."""

    def __init__(self) -> None:
        self._under_way: dict[bytes, _UnderWay[Result]] = {}

    async def __call__(self, key: bytes, begin: Callable[[], Coroutine[None, None, Result]]) -> Result:
        """The result for `key`. Calls `begin` unless equal work is running, and raises as that does."""
        work = self._under_way.get(key)
        if work is None:
            work = self._under_way[key] = _UnderWay(asyncio.create_task(begin()))
        work.waiting_count += 1
        try:
            return await asyncio.shield(work.task)
        finally:
            work.waiting_count -= 1
            if not work.waiting_count:
                work.task.cancel()
                if self._under_way.get(key) is work:  # a new caller must not join cancelled work
                    del self._under_way[key]


class CutSearch:
    """Searches whole texts for what a cut would split. All guards of a process share one."""

    def __init__(self, passes: InferencePool, search: Callable[[str, int], Iterable[str]]) -> None:
        """`search` runs in the passes' threads. It gets a text and the overlap of two chunks in characters, and yields decoded
        stretches that are longer than the overlap."""
        self._passes, self._search = passes, search
        self._work = SharedWork[tuple[str, ...]]()
        self._memo: OrderedDict[bytes, tuple[str, ...]] = OrderedDict()
        self._remembered_chars = 0

    async def __call__(self, text: str, overlap: int, line: PassLine) -> tuple[str, ...]:
        """The results for `text`, remembered because most documents come again. Raises as `InferencePool.submit` does."""
        key = digest_of(text)
        if key in self._memo:
            self._memo.move_to_end(key)
            return self._memo[key]
        return await self._work(key, lambda: self._look(key, text, overlap, line))

    async def _look(self, key: bytes, text: str, overlap: int, line: PassLine) -> tuple[str, ...]:
        said = await self._passes.submit(lambda: tuple(self._search(text, overlap)), line)
        self._memo[key] = said
        self._remembered_chars += _chars(said)
        while len(self._memo) > _MAX_REMEMBERED or self._remembered_chars > _MAX_REMEMBERED_CHARS:
            self._remembered_chars -= _chars(self._memo.popitem(last=False)[1])
        return said


def _chars(texts: Iterable[str]) -> int:
    return sum(map(len, texts))
