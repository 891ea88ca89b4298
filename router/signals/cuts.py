"""What stands across the cuts of a long text: looked for once per text, however many guards ask. Knows no guard."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from router.inference.pool import InferencePool, PassLine, digest_of

Result = TypeVar("Result")
_MAX_REMEMBERED = 16384  # texts; nearly all say nothing, and take some 100 bytes
_MAX_REMEMBERED_CHARS = 1_048_576  # of what they say, at most four bytes each


@dataclass(slots=True)
class _UnderWay(Generic[Result]):
    task: asyncio.Task[Result]
    waiting_count: int = 0


class SharedWork(Generic[Result]):
    """Equal work under way is done once; it ends when the last who waited for it has left."""

    def __init__(self) -> None:
        self._under_way: dict[bytes, _UnderWay[Result]] = {}

    async def __call__(self, key: bytes, begin: Callable[[], Coroutine[None, None, Result]]) -> Result:
        """The result for `key`, of work that `begin` starts where none is under way. Raises as that does."""
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
                if self._under_way.get(key) is work:  # whoever comes now must not join what was cancelled
                    del self._under_way[key]


class CutSearch:
    """Looks through whole texts for what a cut would break. All guards of a process share one."""

    def __init__(self, passes: InferencePool, search: Callable[[str, int], Iterable[str]]) -> None:
        """`search` runs in the passes' threads. It gets a text and how many characters two chunks share, and gives what the text
        says in more characters than these."""
        self._passes, self._search = passes, search
        self._work = SharedWork[tuple[str, ...]]()
        self._memo: OrderedDict[bytes, tuple[str, ...]] = OrderedDict()
        self._remembered_chars = 0

    async def __call__(self, text: str, overlap: int, line: PassLine) -> tuple[str, ...]:
        """What `text` says across its cuts: remembered, as most documents come again. Raises as `InferencePool.submit` does."""
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
