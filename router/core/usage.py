"""Reads token counts from an answer while it passes, and finds the events that only the router asked for.

Backends are not trusted: the router reads a bounded part of each run of events and skips the rest. The time of the search
does not depend on what the stream holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from router.core.exchange_record import Usage
from router.core.openai.sse import data_of, end_of_first_event, end_of_last_event, usage_in

_MAX_DOCUMENT_BYTES = 2 * 1024 * 1024
"""A longer answer that is one JSON document passes unread."""
_MAX_EVENTS, _MAX_READ_BYTES = 64, 64 * 1024
"""Bounds on the events with usage, and on their bytes, that are read in one run. Reading starts at the end, because the last
count is valid. A run has several such events only when they came faster than they were read."""


@dataclass(slots=True)
class UsageReader:
    """Reads the usage of one answer with status 200."""

    usage: Usage | None = None
    """None until the token counts have passed."""
    _document: bytearray = field(default_factory=bytearray)
    _is_too_long: bool = False

    def read_events(self, events: bytes, *, finds_extra: bool) -> list[tuple[int, int]]:
        """Read the usage in a run of events. Returns start and end of each event that holds only usage, the last first.

        Such events are searched for only when `finds_extra` is true.
        """
        extra: list[tuple[int, int]] = []
        is_known = False
        for start, stop in _events_with_usage(events):
            usage, is_extra = usage_in(data_of(events[start:stop]))
            if usage and not is_known:
                self.usage, is_known = usage, True
            if is_known and not finds_extra:
                break
            if is_extra:
                extra.append((start, stop))
        return extra

    def read_document(self, data: bytes, *, is_end: bool) -> None:
        """Take the next bytes of an answer that is one JSON document. Its usage is read at the end."""
        if self._is_too_long:
            return
        self._document += data
        if len(self._document) > _MAX_DOCUMENT_BYTES:
            self._is_too_long = True
            self._document.clear()
        elif is_end:
            self.usage, _ = usage_in(bytes(self._document))
            self._document.clear()


def _events_with_usage(events: bytes) -> Iterator[tuple[int, int]]:
    """Start and end of each event with usage, the last first, up to the bounds."""
    stop, read_bytes = len(events), 0
    for _ in range(_MAX_EVENTS):
        found = events.rfind(b'"usage"', 0, stop)
        if found < 0:
            return
        start = max(0, end_of_last_event(events, max(0, found - _MAX_READ_BYTES), found))
        end = end_of_first_event(events, found)
        read_bytes += end - start
        if read_bytes > _MAX_READ_BYTES:
            return
        yield start, end
        stop = start
