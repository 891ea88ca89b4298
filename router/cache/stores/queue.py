"""The bounded queue of writes to a store. Knows no store and writes nothing itself.

A batch that fails goes back and is split in halves, until the write at fault is found. So it does not block the writes behind it.
A write that the store refuses is left out. A refused invalidation is set aside and tried again later, with growing pauses. So is
any write that fails in another way, such as a timeout, because the fault may be the store's.
"""

from __future__ import annotations

import logging
from collections import deque
from itertools import chain

from router.cache.entries import Entry, EntryFilter, Invalidation
from router.cache.settings import SyncSettings
from router.cache.stores.base import REFUSED, StoreState
from router.errors import BackendError

log = logging.getLogger(__name__)

_MAX_ATTEMPTS = 3
_MAX_REFUSED = 3
"""After this many refused requests of one write in a row, the fault lies in the store, and the cache connects again."""
_MAX_WRITE_BYTES = 8 * 1024 * 1024
_ASIDE_S, _MAX_ASIDE_S = 60.0, 600.0
"""Seconds until the writes that were set aside are tried again: at first, and at most. Each failure doubles them."""
_MAX_ASIDE = 10_000
"""Refused invalidations that may be set aside."""

Write = Entry | Invalidation | EntryFilter
"""An entry to add, an invalidation to publish, or entries to delete."""


class WriteQueue:
    """First in, first out. Only the event loop touches it."""

    def __init__(self, settings: SyncSettings, state: StoreState) -> None:
        self._settings, self._state = settings, state
        self._writes: deque[Write] = deque()
        self._again: deque[Write] = deque()
        """Writes that were set aside and are due. They are tried once, apart from the others."""
        self._source = self._writes
        """Where the current batch comes from."""
        self._bytes = 0
        """Of all writes, also of those aside; without the current batch."""
        self._aside: list[Write] = []
        self._aside_due_s, self._aside_pause_s = 0.0, _ASIDE_S
        self._attempts = self._refused_in_a_row = 0
        self._batch_size = settings.batch
        """Smaller while a write at fault is being searched."""

    def __len__(self) -> int:
        """Number of writes that can be tried now."""
        return len(self._writes) + len(self._again)

    @property
    def has_aside(self) -> bool:
        """Whether invalidations are set aside."""
        return any(isinstance(write, Invalidation) for write in self._aside)

    @property
    def unpublished(self) -> int:
        """Number of invalidations that the store does not have yet."""
        return sum(isinstance(write, Invalidation) for write in chain(self._writes, self._again, self._aside))

    def put(self, write: Write) -> bool:
        """Queue a write; false when the queue is full. An invalidation is always queued."""
        count = len(self) + len(self._aside)
        is_full = count >= self._settings.queue or self._bytes + _size_of(write) > self._settings.queue_bytes
        if is_full and not isinstance(write, Invalidation):
            self._state.dropped += 1
            return False
        self._writes.append(write)
        self._bytes += _size_of(write)
        self.note_lengths()
        return True

    def retry_aside(self, now_s: float) -> None:
        """Queue the writes that were set aside, if they are due. Drop expired entries."""
        if self._aside and now_s >= self._aside_due_s:
            for write in self._aside:
                if isinstance(write, Entry) and write.expires_ms <= now_s * 1000:
                    self._bytes -= _size_of(write)
                else:
                    self._again.append(write)
            self._aside.clear()
            self.note_lengths()

    def forget_entries(self) -> None:
        """Drop waiting entries, because nobody could find them any more."""
        for writes in (self._writes, self._again, self._aside):
            kept = [write for write in writes if not isinstance(write, Entry)]
            writes.clear()
            writes.extend(kept)
        self._bytes = sum(map(_size_of, chain(self._writes, self._again, self._aside)))
        self.note_lengths()

    def next_batch(self) -> list[Write]:
        """Take a batch of single-entry writes from the head of the queue, or one write of another kind."""
        batch: list[Write] = []
        size = 0
        self._source = self._writes or self._again
        while self._source and len(batch) < self._batch_size:
            write = self._source[0]
            if batch and (not _is_small(write) or size + _size_of(write) > _MAX_WRITE_BYTES):
                break
            batch.append(self._source.popleft())
            size += _size_of(write)
            if not _is_small(write):
                break
        self._bytes -= size
        return batch

    def succeeded(self) -> None:
        """Note that the store has the batch."""
        self._attempts = self._refused_in_a_row = 0
        self._batch_size = min(2 * self._batch_size, self._settings.batch)

    def failed(self, batch: list[Write], error: BackendError, now_s: float) -> bool:
        """Note that a batch failed: put it back, or leave out or set aside a single write. Returns whether to go on at once."""
        is_refused, is_again = str(error) == REFUSED, self._source is self._again
        self._attempts += not is_refused
        if not is_refused and not is_again and self._attempts < _MAX_ATTEMPTS:
            self._put_back(batch)
            return False
        # The store was reached each time, so something in this batch may be at fault.
        self._attempts = 0
        if len(batch) > 1:
            self._batch_size = max(1, len(batch) // 2)
            self._put_back(batch)
            return is_refused
        if is_refused:
            self._leave_out(batch[0], now_s)
        else:
            self._set_aside(batch[0], now_s)
            if not is_again:
                log.warning("the cache's store does not take a write (%s: %s); it is tried again", type(batch[0]).__name__, error)
        self._refused_in_a_row += 1
        if is_refused and self._refused_in_a_row < _MAX_REFUSED:
            return True
        self._refused_in_a_row = 0
        return False

    def _put_back(self, batch: list[Write]) -> None:
        self._source.extendleft(reversed(batch))
        self._bytes += sum(map(_size_of, batch))

    def _leave_out(self, write: Write, now_s: float) -> None:
        self._state.refused += 1
        if isinstance(write, Invalidation) and len(self._aside) < _MAX_ASIDE:
            self._set_aside(write, now_s)
            log.error("the cache's store refuses an invalidation; other replicas do not know it yet; it is tried again")
        else:
            log.warning("the cache's store refuses a write (%s); it is left out", type(write).__name__)

    def _set_aside(self, write: Write, now_s: float) -> None:
        is_again = self._source is self._again
        self._aside_pause_s = min(2 * self._aside_pause_s, _MAX_ASIDE_S) if is_again else _ASIDE_S
        self._aside_due_s = now_s + self._aside_pause_s
        self._aside.append(write)
        self._bytes += _size_of(write)

    def note_lengths(self) -> None:
        """Update the figures of the state. They still count a batch that is being written."""
        self._state.waiting, self._state.aside = len(self), len(self._aside)


def _is_small(write: Write) -> bool:
    """Whether a write is about single entries; many of these fit one request."""
    return isinstance(write, Entry) or (isinstance(write, EntryFilter) and write.ids is not None)


def _size_of(write: Write) -> int:
    """Approximate bytes of a write."""
    if isinstance(write, Entry):
        return len(write.answer) + len(write.text) + 2048  # the vector, the rest
    return 40 * len(write.ids) if isinstance(write, EntryFilter) and write.ids else 100
