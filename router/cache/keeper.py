"""Between the cache and its store: writes behind the requests, follows what other replicas write, and bears a store that is down.

No request waits for a write. A store that fails is left alone for a while, then tried again; what it should have been told waits
in a queue of bounded length, and what does not fit is counted as dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from router.cache.base import Entry, Notice, Selection, Store
from router.cache.index import Vector
from router.cache.settings import Pace
from router.core.types import Question
from router.errors import BackendError, ConfigError

if TYPE_CHECKING:
    from router.cache.tiers import Cache

log = logging.getLogger(__name__)
T = TypeVar("T")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 15.0
_MOST_LATE, _SPARED_S = 3, 5.0
"""After so many late answers in a row no request asks the store for so many seconds."""
_MOST_ATTEMPTS = 3
_OVERLAP_MS = 10_000  # replicas' clocks differ, and a write becomes visible a moment after it was stamped
_Job = Entry | Notice | Selection


@dataclass(slots=True)
class KeeperState:
    """What operators see of the store."""

    is_up: bool = False
    error: str = ""
    """The last failure's kind; never text that was stored."""
    waiting: int = 0
    dropped: int = 0
    loaded: int = 0
    is_refused: bool = False
    """What is stored there was made by another encoder: it is not touched."""


class Keeper:
    """Owns one store."""

    def __init__(self, store: Store, pace: Pace, now: Callable[[], float] = time.time) -> None:
        self._store, self._pace, self._now = store, pace, now
        self._jobs: deque[_Job] = deque()
        self._woken = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()
        self._on_key: Callable[[bytes], None] = lambda key: None
        self.refusal: ConfigError | None = None
        self._cache: Cache | None = None
        self._since_ms = 0
        self._swept = 0.0
        self._heeded: dict[str, int] = {}
        self._late = 0
        self._attempts = 0
        self._spared_until = 0.0
        self.state = KeeperState()
        self.is_shared = store.is_shared

    def attach(self, cache: Cache) -> None:
        """The cache that learns what the store knows."""
        self._cache = cache

    # -- life ----------------------------------------------------------------------------------------------------

    async def open(self, on_key: Callable[[bytes], None], wait_s: float) -> None:
        """Connect and learn what is stored, waiting for at most `wait_s`; a store that is down is tried again later.

        `on_key` is called with the key for scopes as soon as the store has given it.

        Raises:
            ConfigError: what is stored there must not be read; see `Store.open`.
        """
        self._on_key = on_key
        self._task = asyncio.create_task(self._run())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._tried.wait(), wait_s)
        if self.refusal:
            raise self.refusal

    async def _connect(self) -> None:
        self._on_key(await self._store.open())
        self._since_ms = int(self._now() * 1000) - _OVERLAP_MS
        assert self._cache is not None  # noqa: S101 - attached by the cache itself
        changes = await self._store.changes(0)
        for notice in changes.notices:
            self._heed(notice)
        async for entries in self._store.load(int(self._now() * 1000)):
            for entry in entries:
                self._cache.learn(entry)
            self.state.loaded += len(entries)
            await asyncio.sleep(0)
        self.state.is_up, self.state.error = True, ""

    async def close(self) -> None:
        """Write what waits, for at most `drain_s`, and let go."""
        self._closing = True
        self._woken.set()
        if self._task:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._task), self._pace.drain_s)
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self.state.dropped += len(self._jobs)
        with contextlib.suppress(BackendError):
            await self._store.close()

    async def _run(self) -> None:
        """Write, follow and sweep, one thing at a time, until closed."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                if not self.state.is_up:
                    await self._connect()
                self._tried.set()
                await self._write()
                if self._closing:
                    return
                await self._follow()
                await self._sweep()
                pause_s = _FIRST_PAUSE_S
                await self._sleep(self._pace.follow_s)
            except ConfigError as error:
                self.state.is_refused, self.state.error = True, "refused"
                self.refusal = error
                self._tried.set()
                log.error("the cache's store is not used: %s", error)
                return
            except BackendError as error:
                self._fail(error)
                self._tried.set()
                if self._closing:
                    return
                await asyncio.sleep(pause_s)  # not `_sleep`: what waits to be written must not make it try in a hurry
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), seconds)
        self._woken.clear()

    def _fail(self, error: BackendError) -> None:
        if self.state.is_up or not self.state.error:
            log.warning("the cache's store is away (%s); the cache goes on without it", error)
        self.state.is_up, self.state.error = False, str(error)

    async def _write(self) -> None:
        while self._jobs:
            batch = self._next_batch()
            try:
                await self._carry_out(batch)
                self._attempts = 0
            except BackendError:
                self._attempts += 1
                if self._attempts >= _MOST_ATTEMPTS and isinstance(batch[0], Entry):
                    # The store was reached each time and took everything else: it is this entry that it cannot take.
                    self._attempts, batch = 0, batch[1:]
                    self.state.dropped += 1
                self._jobs.extendleft(reversed(batch))
                raise
            finally:
                self.state.waiting = len(self._jobs)

    def _next_batch(self) -> list[_Job]:
        """The entries at the head of the line, or one job of another kind."""
        batch: list[_Job] = [self._jobs.popleft()]
        while isinstance(batch[0], Entry) and self._jobs and isinstance(self._jobs[0], Entry) and len(batch) < self._pace.batch:
            batch.append(self._jobs.popleft())
        return batch

    async def _carry_out(self, batch: list[_Job]) -> None:
        try:
            async with asyncio.timeout(self._pace.write_s):
                match batch[0]:
                    case Notice(selection=selection) as notice:
                        if selection:
                            await self._store.remove(selection)
                        await self._store.publish(notice)
                    case Selection() as selection:
                        await self._store.remove(selection)
                    case Entry():
                        await self._store.add([job for job in batch if isinstance(job, Entry)])
        except TimeoutError:
            raise BackendError("slow") from None

    async def _follow(self) -> None:
        if not self.is_shared or self._cache is None:
            return
        began_ms = int(self._now() * 1000)
        changes = await self._store.changes(self._since_ms)
        for notice in changes.notices:
            self._heed(notice)
        for entry in changes.entries:
            self._cache.learn(entry)
        self._since_ms = began_ms - _OVERLAP_MS

    def _heed(self, notice: Notice) -> None:
        if self._cache is not None and notice.id not in self._heeded:
            self._heeded[notice.id] = notice.created_ms
            self._cache.heed(notice)
        if len(self._heeded) > 10_000:
            self._heeded = dict(sorted(self._heeded.items(), key=lambda item: item[1])[-1000:])

    async def _sweep(self) -> None:
        # Milvus Lite looks at every row for it, in this process: 0.8 s for 20,000. After the first time it is told ids instead.
        if self._now() - self._swept < self._pace.sweep_s or (self._swept and not self.is_shared):
            return
        self._swept = self._now()
        await self._store.sweep(int(self._now() * 1000))

    # -- for the cache -------------------------------------------------------------------------------------------

    def add(self, entry: Entry) -> None:
        """Have an entry written."""
        self._put(entry)

    def remove(self, selection: Selection) -> None:
        """Have entries deleted."""
        self._put(selection)

    def publish(self, notice: Notice) -> None:
        """Have entries deleted everywhere. Never dropped."""
        self._heeded[notice.id] = notice.created_ms
        self._put(notice)

    def _put(self, job: _Job) -> None:
        if len(self._jobs) >= self._pace.queue and not isinstance(job, Notice):
            self.state.dropped += 1
            return
        self._jobs.append(job)
        self.state.waiting = len(self._jobs)
        self._woken.set()

    async def answer(self, entry_id: str, wait_s: float) -> bytes | None:
        """The answer of an entry, or None if it cannot be had in time."""
        return await self._ask(lambda: self._store.answer(entry_id), wait_s)

    async def nearest(self, question: Question, vector: Vector | None, wait_s: float) -> Sequence[tuple[Entry, float]]:
        """What the store knows of this question: the same text, and neighbours."""

        async def look() -> list[tuple[Entry, float]]:
            now_ms = int(self._now() * 1000)
            if vector is not None:
                return list(await self._store.nearest(question.partition, vector, self._store.candidates, now_ms))
            same = await self._store.find(question.key, now_ms)
            return [(same, 1.0)] if same else []

        return await self._ask(look, wait_s) or []

    async def _ask(self, ask: Callable[[], Awaitable[T]], wait_s: float) -> T | None:
        if not self.state.is_up or self._now() < self._spared_until:
            return None
        try:
            async with asyncio.timeout(wait_s):
                answer = await ask()
            self._late = 0
            return answer
        except TimeoutError:
            self._late += 1
            if self._late >= _MOST_LATE:  # each of these kept a request waiting
                self._late, self._spared_until = 0, self._now() + _SPARED_S
                self.state.error = "slow"
        except BackendError as error:
            self._fail(error)
            self._woken.set()
        return None
