"""Synchronises the cache with its store: writes in the background, polls for changes, and tolerates an unavailable store.

No request waits for a write. After a failure, the store is left alone for a while and then tried again; meanwhile its writes wait
in a bounded queue (`queue`). Entries and invalidations of the store go to a `Sink`. This module knows nothing else of the cache.
`reads` holds the reads of lookups.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from router.cache.entries import Entry, EntryFilter, Invalidation, pieces_of
from router.cache.settings import SyncSettings
from router.cache.stores.base import Sink, Store, StoreState
from router.cache.stores.queue import Write, WriteQueue
from router.cache.stores.reads import StoreReads
from router.errors import BackendError, ConfigError

log = logging.getLogger(__name__)

_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.5, 15.0
_OVERLAP_MS = 10_000  # replicas' clocks differ, and a write becomes visible a moment after it was stamped
_DEEP_OVERLAP_MS, _DEEP_S = 600_000, 30.0
"""After this many seconds, a poll goes back this far, because a clock may be minutes off and a write may take long."""


class StoreSync:
    """Owns one store."""

    def __init__(self, store: Store, settings: SyncSettings, now: Callable[[], float] = time.time) -> None:
        self._store, self._settings, self._now = store, settings, now
        self.state = StoreState()
        self.refusal: ConfigError | None = None
        self.reads = StoreReads(store, self.state, self._on_failed_read, self._on_read_pace, now)
        self._queue = WriteQueue(settings, self.state)
        self._sink: Sink | None = None
        self._woken, self._written, self._closing = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._written.set()
        self._tried = asyncio.Event()
        self._is_open = False
        self._task: asyncio.Task[None] | None = None
        self._on_key: Callable[[bytes], None] = lambda key: None
        self._since_ms = 0
        self._swept_s = self._polled_deep_s = 0.0

    def attach(self, sink: Sink) -> None:
        """Set the sink of the store's news. Called once, before `open`."""
        self._sink = sink

    # -- life ----------------------------------------------------------------------------------------------------

    async def open(self, on_key: Callable[[bytes], None], wait_s: float) -> None:
        """Connect and read the stored entries. Waits at most `wait_s`; an unavailable store is tried again later.

        `on_key` is called with the key that hides scopes when the store returns it.

        Raises:
            ConfigError: the stored data must not be used; see `Store.open`.
        """
        self._on_key = on_key
        self._task = asyncio.create_task(self._run())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._tried.wait(), wait_s)
        if self.refusal:
            await self.close()
            raise self.refusal
        self._is_open = True

    async def close(self) -> None:
        """Write the waiting writes, for at most `SyncSettings.drain_s`, and close the store."""
        self._closing.set()
        self._woken.set()
        if self._task:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._task), self._settings.drain_s)
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self.state.dropped += len(self._queue) + self.state.aside
        if lost := self._queue.unpublished:
            log.error("%d invalidations were never written to the cache's store; other replicas do not know them", lost)
        with contextlib.suppress(BackendError):
            await self._store.close()

    async def _run(self) -> None:
        """Write, poll and sweep in turn until closed. No error of the store ends this task."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                await self._work()
                if self._closing.is_set() and not self._queue:
                    return
                pause_s = _FIRST_PAUSE_S
                await self._sleep(self._settings.poll_interval_s)
                continue
            except ConfigError as error:
                self._refuse(error)
                if not self._is_open:
                    self._tried.set()
                    return  # `open` raises the error, and the router does not start
            except BackendError as error:
                self._fail(error)
            except Exception as error:  # noqa: BLE001 - the edge of this task: if it ended, the store would never be used again
                self._fail(BackendError(_place_of(error)))
            self._tried.set()
            if self._closing.is_set():
                return
            # Not `_sleep`: a new write in the queue must not cause an immediate retry.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), pause_s)
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)

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
        """Note a failure. Log it once, and again when the reason changes."""
        if self.state.is_up or str(error) != self.state.error:
            log.warning("the cache's store is unavailable (%s); the cache goes on without it", error)
        self.state.is_up, self.state.error = False, str(error)

    def _on_failed_read(self, error: BackendError) -> None:
        self._fail(error)
        self._woken.set()

    def _on_read_pace(self, is_slow: bool) -> None:
        if not self.state.is_up or is_slow == bool(self.state.error):
            return
        if is_slow:
            log.warning("the cache's store is slow; lookups do not read it for a while")
        else:
            log.info("the cache's store is back")
        self.state.error = "slow" if is_slow else ""

    # -- the work of the task ------------------------------------------------------------------------------------

    async def _work(self) -> None:
        assert self._sink is not None  # noqa: S101 - attached before `open`
        if not self.state.is_up:
            await self._connect(self._sink)
        self._tried.set()
        self._queue.retry_aside(self._now())
        await self._write(self._sink)
        if not self._closing.is_set():
            await self._poll_changes()
            await self._sweep()

    async def _connect(self, sink: Sink) -> None:
        self._on_key(await self._store.open())
        self._since_ms = int(self._now() * 1000) - _OVERLAP_MS
        for invalidation in (await self._store.changes(0)).invalidations:
            sink.apply_invalidation(invalidation)
        self.state.loaded = 0
        async for entries in self._store.load(int(self._now() * 1000)):
            for entry in entries:
                sink.admit(entry)
            self.state.loaded += len(entries)
            await asyncio.sleep(0)
        if self.state.error:
            log.info("the cache's store is back")
        self.state.is_up, self.state.error, self.state.is_refused = True, "", False

    async def _write(self, sink: Sink) -> None:
        while self._queue:
            batch = self._queue.next_batch()
            try:
                async with asyncio.timeout(self._settings.write_s):
                    await self._carry_out(batch, sink)
                self._queue.succeeded()
            except Exception as error:  # noqa: BLE001 - whatever it is, the batch would be lost
                failure = _failure_of(error)
                if not self._queue.failed(batch, failure, self._now()):
                    raise failure from None
            finally:
                self._queue.note_lengths()
        self._written.set()

    async def _carry_out(self, batch: list[Write], sink: Sink) -> None:
        match batch[0]:
            case Invalidation(entry_filter=entry_filter) as invalidation:
                if entry_filter:
                    await self._store.remove(entry_filter)
                # The time of writing: replicas must find it in their next poll, however long it waited here.
                await self._store.publish(replace(invalidation, created_ms=int(self._now() * 1000)))
            case EntryFilter(ids=None) as entry_filter:
                await self._store.remove(entry_filter)
            case _:
                await self._write_entries(batch, sink)

    async def _write_entries(self, batch: list[Write], sink: Sink) -> None:
        added: dict[str, Entry] = {}
        removed: list[str] = []
        for write in batch:
            if isinstance(write, Entry) and not sink.is_gone(write):
                added[write.id] = write
            elif isinstance(write, EntryFilter):
                removed += write.ids or ()
                for entry_id in write.ids or ():
                    added.pop(entry_id, None)
        if removed:
            await self._store.remove(EntryFilter(ids=tuple(removed)))
        if added:
            await self._store.add(list(added.values()))

    async def _poll_changes(self) -> None:
        if not self._store.is_shared or self._sink is None:
            return
        began_ms = int(self._now() * 1000)
        is_deep = self._now() - self._polled_deep_s >= _DEEP_S
        changes = await self._store.changes(self._since_ms - (_DEEP_OVERLAP_MS if is_deep else 0))
        for invalidation in changes.invalidations:
            self._sink.apply_invalidation(invalidation)
        for entry in changes.entries:
            self._sink.admit(entry)
        self._since_ms = began_ms - _OVERLAP_MS
        if is_deep:
            self._polled_deep_s = self._now()

    async def _sweep(self) -> None:
        # Milvus Lite scans every row in this process: 0.8 s for 20,000. So it sweeps only once; later the cache deletes ids.
        if self._now() - self._swept_s < self._settings.sweep_s or (self._swept_s and not self._store.is_shared):
            return
        self._swept_s = self._now()
        await self._store.sweep(int(self._now() * 1000))

    # -- for the cache -------------------------------------------------------------------------------------------

    def add(self, entry: Entry) -> None:
        """Queue an entry to be written."""
        self._put(entry)

    def remove(self, entry_filter: EntryFilter) -> None:
        """Queue entries to be deleted."""
        self._put(entry_filter)

    def publish(self, invalidation: Invalidation) -> None:
        """Queue an invalidation for all replicas. It is never dropped."""
        for piece in pieces_of(invalidation.entry_filter) if invalidation.entry_filter else (None,):
            self._put(replace(invalidation, id=uuid.uuid4().hex, entry_filter=piece))

    def _put(self, write: Write) -> None:
        if self._queue.put(write):
            self._written.clear()
            self._woken.set()

    def forget_waiting(self) -> None:
        """Drop the entries that wait to be written, because nobody could find them any more."""
        self._queue.forget_entries()

    async def flushed(self, wait_s: float) -> bool:
        """Wait until all is written, for at most `wait_s`. Returns whether it is."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._written.wait(), wait_s)
        return self._written.is_set() and not self._queue.has_aside


def _failure_of(error: Exception) -> BackendError:
    """The failure of a write: `slow` when it took too long, the store's own word, or where anything else was raised."""
    if isinstance(error, TimeoutError):
        return BackendError("slow")
    return error if isinstance(error, BackendError) else BackendError(_place_of(error))


def _place_of(error: Exception) -> str:
    """The type of an error and where it was raised. Its message is left out, because it may quote stored text."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else type(error).__name__
