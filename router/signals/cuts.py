"""Finds text that the cuts of a long text would split, once per text, however many guards ask. Knows no guard."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from router.inference.pool import InferencePool, PassLine, digest_of
from router.signals.shared import SharedWork

_MAX_REMEMBERED = 16384  # texts; nearly all have no result, and take some 100 bytes
_MAX_REMEMBERED_CHARS = 1_048_576  # of results, at most four bytes each


class CutSearch:
    """Searches whole texts for what a cut would split. All guards of a process share one."""

    def __init__(self, passes: InferencePool, search: Callable[[str, int], Iterable[str]]) -> None:
        """`search` runs in the passes' threads. It gets a text and the overlap of two chunks in characters, and yields decoded
        stretches that are longer than the overlap."""
        self._passes, self._search = passes, search
        self._work = SharedWork[tuple[str, ...]](_MAX_REMEMBERED, _MAX_REMEMBERED_CHARS, lambda texts: sum(map(len, texts)))

    async def __call__(self, text: str, overlap: int, line: PassLine) -> tuple[str, ...]:
        """The results for `text`, remembered because most documents come again. Raises as `InferencePool.submit` does."""
        return await self._work(digest_of(text), lambda: self._look(text, overlap, line))

    async def _look(self, text: str, overlap: int, line: PassLine) -> tuple[str, ...]:
        return await self._passes.submit(lambda: tuple(self._search(text, overlap)), line)
