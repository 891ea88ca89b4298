"""A backend's answer while it passes: splits the stream once and hands the events to all readers.

Decides nothing about the exchange. Says whether an answer can be read, what the client gets, and what may be stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from router.core.cache_policy import CachePlan
from router.core.exchange_record import Usage
from router.core.freshness import EVENT_STREAM, backend_ttl_s, media_type
from router.core.headers import CONTENT_ENCODING
from router.core.lookup import NotStoredReason
from router.core.openai.completion import AnswerReader, NotStorable
from router.core.openai.sse import EventSplitter
from router.core.usage import UsageReader

_OK = 200


def why_unread(headers: Mapping[str, str], http_status: int, *, is_end: bool) -> NotStoredReason | None:
    """Why the router does not read an answer; None when it does."""
    if http_status != _OK:
        return "not_ok"
    if CONTENT_ENCODING in headers:
        return "compressed"
    return "empty" if is_end else None


@dataclass(slots=True)
class PassingAnswer:
    """One answer with status 200. Its chunks may be split at any byte."""

    is_event_stream: bool
    hides_usage: bool
    """Remove the event that holds only usage, because the client did not ask for it."""
    reader: AnswerReader | None = None
    """None when the answer must not be stored."""
    max_ttl_s: float | None = None
    """How long the backend allows its answer to be stored, in seconds; None when it sets no bound."""
    why_not_stored: NotStoredReason | None = None
    """Why the headers forbid storing the answer; None when they allow it or storing was not intended."""
    _usage: UsageReader = field(default_factory=UsageReader)
    _splitter: EventSplitter = field(default_factory=EventSplitter)

    @classmethod
    def of(cls, headers: Mapping[str, str], *, wants_usage: bool, plan: CachePlan | None, now_s: int) -> PassingAnswer:
        """An answer with these headers. `plan` is given when the answer should be stored; `now_s` is a Unix time."""
        is_event_stream = media_type(headers) == EVENT_STREAM
        passing = cls(is_event_stream, hides_usage=is_event_stream and not wants_usage)
        if plan is not None:
            try:
                passing.max_ttl_s = backend_ttl_s(headers, now_s, plan.scope.header)
                passing.reader = AnswerReader(is_event_stream, plan.max_answer_bytes)
            except NotStorable as error:
                passing.why_not_stored = error.reason
        return passing

    @property
    def usage(self) -> Usage | None:
        """None until the counts have passed."""
        return self._usage.usage

    def feed(self, data: bytes, *, is_end: bool) -> bytes:
        """Read the next chunk. Returns the bytes that the client gets instead of `data`."""
        if not self.is_event_stream:
            self._usage.read_document(data, is_end=is_end)
            if self.reader:
                self.reader.feed(data)
            return data
        if self._splitter.has_given_up:
            return data
        events = self._splitter.feed(data, is_end=is_end)
        if self.reader:
            self.reader.feed(events)
            if self._splitter.has_given_up:
                self.reader.give_up("too_long")
        extra = self._usage.read_events(events, finds_extra=self.hides_usage)
        return _without(events, extra) if self.hides_usage else data

    def kept(self, *, is_whole: bool) -> bytes:
        """The answer as it is stored, after all of it has passed.

        Raises:
            NotStorable: it must not be stored.
        """
        if not is_whole or self.reader is None:
            raise NotStorable("interrupted")
        return self.reader.finish().encode()


def _without(data: bytes, places: list[tuple[int, int]]) -> bytes:
    """`data` without the bytes in `places`, which come in order from the last to the first."""
    for start, stop in places:
        data = data[:start] + data[stop:]
    return data
