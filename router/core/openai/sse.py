"""Server-sent events, frame by frame, whatever the bytes were split into; and the token counts reported in them.

Frames are handed on as the bytes they came in: nothing is re-encoded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from router.core.openai.bodysize import is_within
from router.core.outcome import Usage

# A blank line: two line ends, each CRLF, LF or CR. Atomic, so that one CRLF is never read as two ends.
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE = re.compile(rb"\r\n|\n|\r")
_LONGEST_END = 4
_INSIDE_BLANK_LINES = (b"\n\n", b"\n\r", b"\r\r")
"""One of these stands in every blank line, and nowhere else."""


@dataclass(slots=True)
class FrameSplitter:
    """Cuts a stream of bytes into whole frames. Joined again, the frames and the rest are the bytes that were fed."""

    _held: bytearray = field(default_factory=bytearray)
    _searched: int = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Frames that `data` completes, each with its closing blank line, as they are asked for: nobody need take them all."""
        self._held += data
        start = 0
        # A frame's end may have begun in bytes that were searched before, so the search steps back by one end.
        at = max(0, self._searched - _LONGEST_END)
        while found := _BLANK_LINE.search(self._held, at):
            yield bytes(self._held[start : found.end()])
            start = at = found.end()
        del self._held[:start]
        self._searched = len(self._held)

    def rest(self) -> bytes:
        """What was fed after the last whole frame; the splitter is empty afterwards."""
        held, self._held, self._searched = bytes(self._held), bytearray(), 0
        return held


def end_of_last_frame(data: bytes | bytearray, start: int, stop: int) -> int:
    """Where the last blank line of `data[start:stop]` ends; -1 where there is none. Looks at each byte three times at most."""
    at = max(data.rfind(pair, start, stop) for pair in _INSIDE_BLANK_LINES)
    if at < 0:
        return -1
    is_crlf = data[at + 1 : min(at + 3, stop)] == b"\r\n"
    return at + (3 if is_crlf else 2)


def end_of_first_frame(data: bytes | bytearray, start: int) -> int:
    """Where the first blank line after `start` ends, or `data` does."""
    found = _BLANK_LINE.search(data, start)
    return found.end() if found else len(data)


def data_of(frame: bytes) -> bytes:
    """The frame's data: its `data` lines without the field name and one leading space, joined by newlines."""
    lines = (line for line in _LINE.split(frame) if line.startswith(b"data"))
    values = (line.partition(b":")[2] for line in lines if line[4:5] in (b":", b""))
    return b"\n".join(value.removeprefix(b" ") for value in values)


def event_of(frame: bytes) -> bytes:
    """The name of the frame's event; empty when it gives none."""
    values = [line.partition(b":")[2].removeprefix(b" ") for line in _LINE.split(frame) if line.startswith(b"event:")]
    return values[-1] if values else b""


def usage_in(payload: bytes) -> tuple[Usage | None, bool]:
    """Token counts in a completion or in one chunk of it, and whether the chunk holds nothing but them.

    The chunk that `stream_options.include_usage` adds has an empty `choices`. Anything unreadable has no usage.
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
