"""Reads token counts out of an answer while it passes by, and takes out the chunk that only the router asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

from router.core.sse import FrameSplitter, data_of, usage_in
from router.core.types import Usage

_MOST_HELD_BYTES = 16 * 1024 * 1024  # an answer, or a frame, above this is passed on unread


@dataclass(slots=True)
class UsageRecorder:
    """One answer with status 200, chunk by chunk."""

    is_event_stream: bool
    hides_usage: bool
    """Take out the chunk that holds nothing but usage: the client did not ask for it."""
    usage: Usage | None = None
    """None until the counts have passed."""
    _splitter: FrameSplitter = field(default_factory=FrameSplitter)
    _held: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes, is_end: bool) -> bytes:
        """What the client gets in the place of `data`."""
        if not self.is_event_stream:
            self._read_whole(data, is_end)
            return data
        if not self.hides_usage:
            for frame in self._splitter.feed(data):
                self._read_frame(frame)
            return data
        shown = b"".join(frame for frame in self._splitter.feed(data) if not self._read_frame(frame))
        # A last frame without its blank line is no frame to a client either, but it is not ours to drop.
        return shown + self._splitter.rest() if is_end else shown

    def _read_frame(self, frame: bytes) -> bool:
        """Note the frame's usage, if any; true when the frame holds nothing else."""
        if b'"usage"' not in frame:
            return False
        usage, is_extra = usage_in(data_of(frame))
        if usage:
            self.usage = usage
        return is_extra

    def _read_whole(self, data: bytes, is_end: bool) -> None:
        if len(self._held) + len(data) <= _MOST_HELD_BYTES:
            self._held += data
        if is_end:
            self.usage, _ = usage_in(bytes(self._held))
            self._held.clear()
