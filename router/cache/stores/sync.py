"""Between the cache and its store: writes behind the requests, follows what other replicas write, and bears a store that is down.

No request waits for a write. A store that fails is left alone for a while, then tried again; what it should have been told waits
in a queue of bounded length, and what does not fit is counted as dropped. A write that the store does not take is looked for by
halves and left out, so that it holds up nothing behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import traceback
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from router.cache.entries import REFUSED, Entry, EntryFilter, Invalidation, Store, pieces_of
from router.cache.index import Vector
from router.cache.settings import SyncSettings
from router.core.lookup import CacheQuery
from router.errors import BackendError, ConfigError

if TYPE_CHECKING:
    from router.cache.cache import Cache

log = logging.getLogger(__name__)
T = TypeVar("T")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 15.0
_MOST_LATE, _SPARED_S = 3, 5.0
"""After so many late answers in a row no request asks the store for so many seconds."""
_MAX_ATTEMPTS = 3
_MAX_REFUSED = 3
"""Requests refused in a row, each of one job; then it is the store that is wrong, and it is connected anew."""
_MAX_WRITE_BYTES = 8 * 1024 * 1024
_ASIDE_S = 60.0
"""Between two attempts at invalidations that the store does not take."""
_MAX_ASIDE = 10_000
_OVERLAP_MS = 10_000  # replicas' clocks differ, and a write becomes visible a moment after it was stamped
_DEEP_OVERLAP_MS, _DEEP_S = 600_000, 30.0
"""So far back goes every look after so many seconds: a clock may be minutes off, a write may take long."""
_Job = Entry | Invalidation | EntryFilter


@dataclass(slots=True)
class KeeperState:
    """What operators see of the store."""

    is_up: bool = False
    error: str = ""
    """The last failure; never text that was stored."""
    waiting: int = 0
    dropped: int = 0
    """Writes for which there was no room."""
    refused: int = 0
    """Writes that the store did not take."""
    aside: int = 0
    """Invalidations among them; they are tried again."""
    loaded: int = 0
    is_refused: bool = False
    """What is stored there was made by another encoder: it is not touched."""


class StoreSync:
    """Owns one store."""

    def __init__(self, store: Store, pace: SyncSettings, now: Callable[[], float] = time.time) -> None:
        self._store, self._pace, self._now = store, pace, now
        self._jobs: deque[_Job] = deque()
        self._jobs_bytes = 0
        self._aside: list[Invalidation] = []
        self._aside_due = 0.0
        self._woken, self._written, self._closing = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._written.set()
        self._task: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()
        self._is_open = False
        self._on_key: Callable[[bytes], None] = lambda key: None
        self.refusal: ConfigError | None = None
        self._cache: Cache | None = None
        self._since_ms = 0
        self._swept = self._looked_deep = 0.0
        self._late = 0
        self._attempts = self._refused_in_a_row = 0
        self._batch = pace.batch
        """Jobs in one write; fewer while one that the store does not take is looked for."""
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
            await self.close()
            raise self.refusal
        self._is_open = True

    async def _connect(self) -> None:
        self._on_key(await self._store.open())
        self._since_ms = int(self._now() * 1000) - _OVERLAP_MS
        assert self._cache is not None  # noqa: S101 - attached by the cache itself
        changes = await self._store.changes(0)
        for invalidation in changes.invalidations:
            self._cache.apply_invalidation(invalidation)
        self.state.loaded = 0
        async for entries in self._store.load(int(self._now() * 1000)):
            for entry in entries:
                self._cache.admit(entry)
            self.state.loaded += len(entries)
            await asyncio.sleep(0)
        if self.state.error:
            log.info("the cache's store is back")
        self.state.is_up, self.state.error, self.state.is_refused = True, "", False

    async def close(self) -> None:
        """Write what waits, for at most `drain_seconds`, and let go."""
        self._closing.set()
        self._woken.set()
        if self._task:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._task), self._pace.drain_s)
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self.state.dropped += len(self._jobs)
        if lost := sum(isinstance(job, Invalidation) for job in self._jobs) + len(self._aside):
            log.error("%d invalidations were never written to the cache's store: others have not heard of them", lost)
        with contextlib.suppress(BackendError):
            await self._store.close()

    async def _run(self) -> None:
        """Write, follow and sweep, one thing at a time, until closed. Nothing that a store does ends it."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                await self._work()
                if self._closing.is_set() and not self._jobs:
                    return
                pause_s = _FIRST_PAUSE_S
                await self._sleep(self._pace.follow_s)
                continue
            except ConfigError as error:
                self._refuse(error)
                if not self._is_open:
                    self._tried.set()
                    return  # `open` says it: the router does not start
            except BackendError as error:
                self._fail(error)
            except Exception as error:  # noqa: BLE001 - the edge of this task: its end would be the store's, for good
                self._fail(BackendError(_place_of(error)))
            self._tried.set()
            if self._closing.is_set():
                return
            # Not `_sleep`: what waits to be written must not make it try in a hurry.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _work(self) -> None:
        if not self.state.is_up:
            await self._connect()
        self._tried.set()
        if self._aside and self._now() >= self._aside_due:
            aside, self._aside = self._aside, []
            for invalidation in aside:
                self._put(invalidation)
        await self._write()
        if not self._closing.is_set():
            await self._poll_changes()
            await self._sweep()

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), seconds)
        self._woken.clear()

    def _refuse(self, error: ConfigError) -> None:
        if self._is_open and str(error) != self.state.error:
            log.error("the cache's store is not used: %s", error)
        self.state.is_up, self.state.is_refused, self.state.error = False, True, str(error)
        self.refusal = None if self._is_open else error

    def _fail(self, error: BackendError) -> None:
        """Told once, and again when it is for another reason."""
        if str(error) != self.state.error:
            log.warning("the cache's store is away (%s); the cache goes on without it", error)
        self.state.is_up, self.state.error = False, str(error)

    async def _write(self) -> None:
        while self._jobs:
            batch = self._next_batch()
            try:
                await self._carry_out(batch)
                self._attempts = self._refused_in_a_row = 0
                self._batch = min(2 * self._batch, self._pace.batch)
            except BackendError as error:
                if not self._goes_on(batch, error):
                    raise
            finally:
                self.state.waiting, self.state.aside = len(self._jobs), len(self._aside)
        self._written.set()

    def _goes_on(self, batch: list[_Job], error: BackendError) -> bool:
        """Put back what failed, in halves when it is one of many that the store does not take; whether to go on at once."""
        is_refused = str(error) == REFUSED
        self._attempts += not is_refused
        if not is_refused and self._attempts < _MAX_ATTEMPTS:
            self._put_back(batch)
            return False
        # The store was reached each time: it is something in this batch that it cannot take.
        self._attempts = 0
        if len(batch) > 1:
            self._batch = max(1, len(batch) // 2)
            self._put_back(batch)
            return is_refused
        self._give_up(batch[0])
        self._refused_in_a_row += 1
        if is_refused and self._refused_in_a_row < _MAX_REFUSED:
            return True
        self._refused_in_a_row = 0
        return False

    def _give_up(self, job: _Job) -> None:
        """One job that the store does not take. An invalidation is kept for later, out of the way of the others."""
        self.state.refused += 1
        if isinstance(job, Invalidation) and len(self._aside) < _MAX_ASIDE:
            self._aside.append(job)
            self._aside_due = self._now() + _ASIDE_S
            log.error("the cache's store does not take an invalidation; others have not heard of it; it is tried again")
        else:
            log.warning("the cache's store does not take %s; it is left out", type(job).__name__)

    def _put_back(self, batch: list[_Job]) -> None:
        self._jobs.extendleft(reversed(batch))
        self._jobs_bytes += sum(map(_size_of, batch))

    def _next_batch(self) -> list[_Job]:
        """The writes of single entries at the head of the line, or one job of another kind."""
        batch: list[_Job] = []
        size = 0
        while self._jobs and len(batch) < self._batch:
            job = self._jobs[0]
            if batch and (not _is_small(job) or size + _size_of(job) > _MAX_WRITE_BYTES):
                break
            batch.append(self._jobs.popleft())
            size += _size_of(job)
            if not _is_small(job):
                break
        self._jobs_bytes -= size
        return batch

    async def _carry_out(self, batch: list[_Job]) -> None:
        try:
            async with asyncio.timeout(self._pace.write_s):
                match batch[0]:
                    case Invalidation(entry_filter=entry_filter) as invalidation:
                        if entry_filter:
                            await self._store.remove(entry_filter)
                        # Stamped now: who looks for what is new must find it, however long it has waited here.
                        await self._store.publish(replace(invalidation, created_ms=int(self._now() * 1000)))
                    case EntryFilter(ids=None) as entry_filter:
                        await self._store.remove(entry_filter)
                    case _:
                        await self._write_entries(batch)
        except TimeoutError:
            raise BackendError("slow") from None

    async def _write_entries(self, batch: list[_Job]) -> None:
        added: dict[str, Entry] = {}
        removed: list[str] = []
        for job in batch:
            if isinstance(job, Entry) and not (self._cache is not None and self._cache.is_gone(job)):
                added[job.id] = job
            elif isinstance(job, EntryFilter):
                removed += job.ids or ()
                for entry_id in job.ids or ():
                    added.pop(entry_id, None)
        if removed:
            await self._store.remove(EntryFilter(ids=tuple(removed)))
        if added:
            await self._store.add(list(added.values()))

    async def _poll_changes(self) -> None:
        if not self.is_shared or self._cache is None:
            return
        began_ms = int(self._now() * 1000)
        is_deep = self._now() - self._looked_deep >= _DEEP_S
        changes = await self._store.changes(self._since_ms - (_DEEP_OVERLAP_MS if is_deep else 0))
        for invalidation in changes.invalidations:
            self._cache.apply_invalidation(invalidation)
        for entry in changes.entries:
            self._cache.admit(entry)
        self._since_ms = began_ms - _OVERLAP_MS
        if is_deep:
            self._looked_deep = self._now()

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

    def remove(self, entry_filter: EntryFilter) -> None:
        """Have entries deleted."""
        self._put(entry_filter)

    def publish(self, invalidation: Invalidation) -> None:
        """Have entries deleted everywhere. Never dropped."""
        for piece in pieces_of(invalidation.entry_filter) if invalidation.entry_filter else (None,):
            self._put(replace(invalidation, id=uuid.uuid4().hex, entry_filter=piece))

    def _put(self, job: _Job) -> None:
        is_full = len(self._jobs) >= self._pace.queue or self._jobs_bytes + _size_of(job) > self._pace.queue_bytes
        if is_full and not isinstance(job, Invalidation):
            self.state.dropped += 1
            return
        self._jobs.append(job)
        self._jobs_bytes += _size_of(job)
        self.state.waiting = len(self._jobs)
        self._written.clear()
        self._woken.set()

    def forget_waiting(self) -> None:
        """Drop the entries that wait to be written: nobody could ever find them."""
        kept = [job for job in self._jobs if not isinstance(job, Entry)]
        self._jobs, self._jobs_bytes = deque(kept), sum(map(_size_of, kept))
        self.state.waiting = len(self._jobs)

    async def flushed(self, wait_s: float) -> bool:
        """Wait until all is written, for at most `wait_s`; whether it is."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._written.wait(), wait_s)
        return self._written.is_set() and not self._aside

    async def answer(self, entry_id: str, wait_s: float) -> bytes | None:
        """The answer of an entry, or None if it cannot be had in time."""
        return await self._ask(lambda: self._store.answer(entry_id), wait_s)

    async def nearest(self, question: CacheQuery, vector: Vector | None, wait_s: float) -> Sequence[tuple[Entry, float]]:
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
            if str(error) != REFUSED:
                self._fail(error)
                self._woken.set()
        return None


def _is_small(job: _Job) -> bool:
    """A write of single entries; many of them make one request."""
    return isinstance(job, Entry) or (isinstance(job, EntryFilter) and job.ids is not None)


def _size_of(job: _Job) -> int:
    """Bytes, about."""
    if isinstance(job, Entry):
        return len(job.answer) + len(job.text) + 2048  # the vector, the rest
    return 40 * len(job.ids) if isinstance(job, EntryFilter) and job.ids else 100


def _place_of(error: Exception) -> str:
    """What kind of error it was, and where; its message may hold what was stored."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else type(error).__name__
