"""Reads token counts out of an answer while it passes by, and takes out the chunk that only the router asked for.

What a backend sends is not trusted to be an answer: of a stream, what is read and what is held are bounded, for each piece of it
and in all, and the rest passes as it came. Looking for what is to be read costs the same, whatever it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from router.core.openai.sse import data_of, end_of_first_frame, end_of_last_frame, usage_in
from router.core.outcome import Usage

_MOST_HELD_BYTES = 2 * 1024 * 1024
"""Of an answer that is one document: a longer one passes unread."""
_MOST_FRAME_BYTES = 1024 * 1024
"""Of a frame that has not ended: from a longer one on, a stream passes unread."""
_MOST_FRAMES, _MOST_READ_BYTES = 64, 64 * 1024
"""Frames with counts, and bytes of them, that are read of one piece of a stream, from its end: the last one counts.
A piece has more than one only where they came faster than they were read."""


@dataclass(slots=True)
class UsageRecorder:
    """One answer with status 200, chunk by chunk."""

    is_event_stream: bool
    hides_usage: bool
    """Take out the chunk that holds nothing but usage: the client did not ask for it."""
    usage: Usage | None = None
    """None until the counts have passed."""
    _held: bytearray = field(default_factory=bytearray)
    """The document so far, or the frame that has not ended."""
    _is_unread: bool = False
    """What comes from now on passes as it comes."""

    def feed(self, data: bytes, is_end: bool) -> bytes:
        """What the client gets in the place of `data`."""
        if self._is_unread:
            return data
        if not self.is_event_stream:
            self._read_whole(data, is_end)
            return data
        shown = self._read_stream(data, is_end)
        return shown if self.hides_usage else data

    def _read_stream(self, data: bytes, is_end: bool) -> bytes:
        """The frames that `data` completes, but for those that are to be hidden."""
        searched = len(self._held)
        self._held += data
        end = end_of_last_frame(self._held, max(0, searched - 1), len(self._held))
        self._is_unread = len(self._held) - max(0, end) > _MOST_FRAME_BYTES
        # A last frame without its blank line is no frame to a client either, but it is not ours to drop.
        end = len(self._held) if is_end or self._is_unread else max(0, end)
        frames = bytes(self._held[:end])
        del self._held[:end]
        return _without(frames, self._read_frames(frames))

    def _read_frames(self, frames: bytes) -> list[tuple[int, int]]:
        """Note the usage in them, if any; where those stand that hold nothing else."""
        extra: list[tuple[int, int]] = []
        is_known = False
        for start, stop in _frames_with_usage(frames):
            usage, is_extra = usage_in(data_of(frames[start:stop]))
            if usage and not is_known:
                self.usage, is_known = usage, True
            if is_known and not self.hides_usage:
                break
            if is_extra:
                extra.append((start, stop))
        return extra

    def _read_whole(self, data: bytes, is_end: bool) -> None:
        self._held += data
        if len(self._held) > _MOST_HELD_BYTES:
            self._is_unread = True
            self._held.clear()
        elif is_end:
            self.usage, _ = usage_in(bytes(self._held))
            self._held.clear()


def _frames_with_usage(frames: bytes) -> Iterator[tuple[int, int]]:
    """Start and end of each, from the last one back, within the bounds."""
    stop, read_bytes = len(frames), 0
    for _ in range(_MOST_FRAMES):
        found = frames.rfind(b'"usage"', 0, stop)
        if found < 0:
            return
        start = max(0, end_of_last_frame(frames, max(0, found - _MOST_READ_BYTES), found))
        end = end_of_first_frame(frames, found)
        read_bytes += end - start
        if read_bytes > _MOST_READ_BYTES:
            return
        yield start, end
        stop = start


def _without(data: bytes, places: list[tuple[int, int]]) -> bytes:
    """`data` but for what stands in `places`, which come from the last one back."""
    for start, stop in places:
        data = data[:start] + data[stop:]
    return data
