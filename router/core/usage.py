"""Reads token counts out of an answer while it passes by, and finds the events that only the router asked for.

A backend is not trusted to send an answer: what is read of each run of events is bounded, and the rest is passed over. The search
for what to read takes the same time, whatever the stream holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from router.core.exchange_record import Usage
from router.core.openai.sse import data_of, end_of_first_event, end_of_last_event, usage_in

_MAX_DOCUMENT_BYTES = 2 * 1024 * 1024
"""Bound on an answer that is one document; a longer one passes unread."""
_MAX_EVENTS, _MAX_READ_BYTES = 64, 64 * 1024
"""Bounds on the events with counts, and on their bytes, that are read in one run, from its end: the last count stands.
A run has several only when events came faster than they were read."""


@dataclass(slots=True)
class UsageReader:
    """Reads the usage of one answer with status 200."""

    usage: Usage | None = None
    """None until the counts have passed."""
    _document: bytearray = field(default_factory=bytearray)
    _is_too_long: bool = False

    def read_events(self, events: bytes, *, finds_extra: bool) -> list[tuple[int, int]]:
        """Note the usage in a run of events. The result: start and end of each event that holds nothing else, the last first.

        Such events are looked for only when `finds_extra` is true.
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
        """The next bytes of an answer that is one JSON document; its usage is noted at the end."""
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
    """Start and end of each event with usage, the last first, within the bounds."""
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
