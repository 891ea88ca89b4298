"""Reads whole texts in many small passes, which give way to all other passes. Remembers what was read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from router.core.types import Scores
from router.inference.pool import InferencePool, PassLine, Runnable, digest_of
from router.inference.turns import Room
from router.signals.cuts import CutSearch
from router.signals.shared import SharedWork

Part = TypeVar("Part")
CHUNK_CHARS, SHARED_CHARS = 8192, 512
"""Characters of a chunk, and of its overlap with the chunk before. A narrow window has about 200, so each stands whole in some
chunk. Tokenising a chunk takes 4 ms. Chunks are remembered, so a long text that grows at its end costs little."""
_MIN_CHARS = 256
"""A shorter chunk counts as this many characters, because it costs a pass, too. A narrow window has about 200 characters."""
_MAX_REMEMBERED = 16384  # chunks; about 200 bytes each


def chunks_of(text: str, size: int = CHUNK_CHARS, shared: int = SHARED_CHARS) -> Iterator[str]:
    """`text` in pieces of `size` characters that overlap by `shared`."""
    yield text[:size]
    for start in range(size - shared, len(text) - shared, size - shared):
        yield text[start : start + size]


def highest(found: Sequence[Scores]) -> Scores:
    """The highest value of each score."""
    scores: dict[str, float] = {}
    for each in found:
        for name, score in each.values.items():
            scores[name] = max(score, scores.get(name, 0.0))
    return Scores(scores)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A piece of one of the texts."""

    place: int
    key: bytes
    text: str


class Scans(Generic[Part]):
    """Reads texts of any length. One pass cuts a chunk into parts, one more pass reads each part, and the scores are joined.

    Concurrent scans of equal chunks are shared. A scan is cancelled when the last caller has left.
    """

    def __init__(
        self,
        passes: InferencePool,
        cut: Callable[[str], Sequence[Part]],
        read: Callable[[Part], Scores],
        chunk_chars: int = CHUNK_CHARS,
        across: CutSearch | None = None,
    ) -> None:
        """`cut` and `read` run in the passes' threads. `cut` gets at most `chunk_chars` characters. `across` finds what the cuts
        between chunks would split."""
        self._passes, self._cut, self._read = passes, cut, read
        self._chunk_chars, self._overlap, self._across = chunk_chars, min(SHARED_CHARS, chunk_chars // 4), across
        self._room: Room[Runnable] = Room(passes.max_scan_chars)
        self._work = SharedWork[Scores](_MAX_REMEMBERED)

    async def __call__(self, texts: Sequence[str]) -> list[Scores]:
        """The scores of each text. Raises as `InferencePool.submit`, `cut` and `read` do."""
        chunks = [chunk for place, text in enumerate(texts) for chunk in self._chunks(place, text)]
        async with self._room.line(self._unread_chars(chunks)) as line:
            for place, text in enumerate(texts):
                for said in await self._said_across(text, line):
                    chunks += self._chunks(place, said)
            line.chars_left = self._unread_chars(chunks)
            return await self._read_all(chunks, len(texts), line)

    async def _said_across(self, text: str, line: PassLine) -> Sequence[str]:
        """The stretches of a long text that the cuts between chunks would split."""
        if self._across is None or len(text) <= self._chunk_chars:
            return ()
        return await self._across(text, self._overlap, line)

    def _chunks(self, place: int, text: str) -> list[_Chunk]:
        return [_Chunk(place, digest_of(part), part) for part in chunks_of(text, self._chunk_chars, self._overlap)]

    async def _read_all(self, chunks: Sequence[_Chunk], text_count: int, line: PassLine) -> list[Scores]:
        found: list[list[Scores]] = [[] for _ in range(text_count)]
        for start in range(0, len(chunks), self._passes.threads):
            turn = chunks[start : start + self._passes.threads]
            chars = self._unread_chars(turn)
            for chunk, scores in zip(turn, await _all(self._chunk(chunk, line) for chunk in turn), strict=True):
                found[chunk.place].append(scores)
            line.chars_left = max(0, line.chars_left - chars)
        return [highest(some) for some in found]

    def _unread_chars(self, chunks: Sequence[_Chunk]) -> int:
        """The characters of the chunks that are not remembered."""
        return sum(max(len(chunk.text), _MIN_CHARS) for chunk in chunks if chunk.key not in self._work)

    async def _chunk(self, chunk: _Chunk, line: PassLine) -> Scores:
        return await self._work(chunk.key, lambda: self._scan(chunk, line))

    async def _scan(self, chunk: _Chunk, line: PassLine) -> Scores:
        """Read a chunk, with at most as many passes at once as there are threads."""
        parts = await self._passes.submit(lambda: self._cut(chunk.text), line)
        found: list[Scores] = []
        for start in range(0, len(parts), self._passes.threads):
            found += await _all(self._part(part, line) for part in parts[start : start + self._passes.threads])
        return highest(found)

    async def _part(self, part: Part, line: PassLine) -> Scores:
        return await self._passes.submit(lambda: self._read(part), line)


async def _all(wanted: Iterable[Coroutine[None, None, Scores]]) -> list[Scores]:
    """All results. When one fails or the caller leaves, the others are cancelled."""
    tasks = [asyncio.ensure_future(each) for each in wanted]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
