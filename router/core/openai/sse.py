"""Splits server-sent events out of chunks of any size, and reads the token counts in them.

Events keep their original bytes: nothing is re-encoded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from router.core.exchange_record import Usage
from router.core.openai.bodysize import is_within

# A blank line is two line ends, each CRLF, LF or CR. The groups are atomic, so one CRLF never counts as two line ends.
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE = re.compile(rb"\r\n|\n|\r")
_INSIDE_BLANK_LINES = (b"\n\n", b"\n\r", b"\r\r")
"""Every blank line contains one of these, and they occur nowhere else."""
MAX_EVENT_BYTES = 1024 * 1024
"""Bound on one event. After a longer event, the rest of the stream passes unsplit."""


@dataclass(slots=True)
class EventSplitter:
    """Splits a stream of bytes after whole events. No other code looks for the ends of events across chunks.

    The returned bytes and the held bytes together are the bytes that were fed. Looks at each byte at most three times.
    """

    has_given_up: bool = False
    """Whether an event was too long. The bytes after it are not split."""
    _held: bytearray = field(default_factory=bytearray)
    """The start of an event that is not complete yet."""

    def feed(self, data: bytes, *, is_end: bool = False) -> bytes:
        """The events that `data` completes, as one run of bytes; empty when it completes none.

        At the end of the stream, and after giving up, the run is everything that is held. A client ignores a last event without
        a blank line, but the router must not drop its bytes.
        """
        searched = len(self._held)
        self._held += data
        end = max(0, end_of_last_event(self._held, max(0, searched - 1), len(self._held)))
        self.has_given_up = len(self._held) - end > MAX_EVENT_BYTES
        if is_end or self.has_given_up:
            end = len(self._held)
        events = bytes(self._held[:end])
        del self._held[:end]
        return events


def events_in(run: bytes) -> Iterator[bytes]:
    """The whole events in a run, each with its closing blank line."""
    start = 0
    for found in _BLANK_LINE.finditer(run):
        yield run[start : found.end()]
        start = found.end()


def end_of_last_event(data: bytes | bytearray, start: int, stop: int) -> int:
    """Where the last blank line of `data[start:stop]` ends; -1 when there is none. Looks at each byte at most three times."""
    at = max(data.rfind(pair, start, stop) for pair in _INSIDE_BLANK_LINES)
    if at < 0:
        return -1
    is_crlf = data[at + 1 : min(at + 3, stop)] == b"\r\n"
    return at + (3 if is_crlf else 2)


def end_of_first_event(data: bytes | bytearray, start: int) -> int:
    """Where the first blank line after `start` ends; the end of `data` when there is none."""
    found = _BLANK_LINE.search(data, start)
    return found.end() if found else len(data)


def data_of(event: bytes) -> bytes:
    """The event's data: its `data` lines without the field name and one leading space, joined by newlines."""
    lines = (line for line in _LINE.split(event) if line.startswith(b"data"))
    values = (line.partition(b":")[2] for line in lines if line[4:5] in (b":", b""))
    return b"\n".join(value.removeprefix(b" ") for value in values)


def name_of(event: bytes) -> bytes:
    """The event's name; empty when it has none."""
    values = [line.partition(b":")[2].removeprefix(b" ") for line in _LINE.split(event) if line.startswith(b"event:")]
    return values[-1] if values else b""


def usage_in(payload: bytes) -> tuple[Usage | None, bool]:
    """Token counts in a completion or a chunk of it, and whether the chunk holds only these counts.

    The chunk that `stream_options.include_usage` adds has an empty `choices`. An unreadable payload has no usage.
    """
    if b'"usage"' not in payload or not is_within(payload):
        return None, False
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError):
        return None, False
    if not isinstance(document, dict) or not isinstance(document.get("usage"), dict):
        return None, False
    usage = document["usage"]
    counts = usage.get("prompt_tokens"), usage.get("completion_tokens", 0)
    if not all(isinstance(count, int) for count in counts):
        return None, False
    return Usage(*counts), document.get("choices") == []
