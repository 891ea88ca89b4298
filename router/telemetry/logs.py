"""JSON lines on standard error: one for each exchange, and the process's own. A reader that stalls costs lines, never time."""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from router.core.exchange_record import ExchangeRecord, Usage
from router.core.headers import TRACEPARENT

_MAX_WAITING = 10_000  # lines; at 500 bytes a line about 5 MB
_CLOSE_S = 1.0
_STDERR = 2
_LONGEST_TEXT = 128  # of a field: a request id may come from the client, whatever it holds
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_VALUES = re.compile(r"[\n(<{'\"]")
"""Where other libraries begin to show values. asyncio names the callback that failed with its arguments, and the exception in the
line below; either may be a prompt."""
_OURS = logging.getLogger("router")


@dataclass(frozen=True, slots=True)
class _Ended:
    """An exchange's line before it is text: the writer's thread makes that, not the event loop."""

    moment: float
    record: ExchangeRecord
    traceparent: str


_Entry = Mapping[str, object] | _Ended


class _Writer:
    """A thread that writes lines one by one. Only the thread ever waits for the reader.

    It writes to the file descriptor itself, in one call for a line: a thread that waits inside `sys.stderr`, or inside a
    `logging.StreamHandler`, holds a lock that the interpreter needs in order to exit. Workers that share the descriptor do
    not mix lines up, which a pipe promises for up to 4096 bytes.
    """

    def __init__(self, fd: int) -> None:
        self.dropped_count = 0
        self._fd = fd
        self._waiting: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def put(self, entry: _Entry) -> None:
        """Hand over a line, or drop it when too many wait."""
        if self._waiting.qsize() < _MAX_WAITING:
            self._waiting.put(entry)
        else:
            self.dropped_count += 1

    def close(self) -> None:
        """Write what waits, for at most a second."""
        self._waiting.put(None)
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        while (entry := self._waiting.get()) is not None:
            line = json.dumps(_document(entry) if isinstance(entry, _Ended) else entry)
            self._write(f"{line}\n".encode())

    def _write(self, line: bytes) -> None:
        try:
            while line:
                line = line[os.write(self._fd, line) :]
        except OSError:  # the reader has left, or it is a pipe that does not wait and is full
            self.dropped_count += 1


class _Handler(logging.Handler):
    """What the process logs in words, from any library."""

    def __init__(self, writer: _Writer) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        """Never waits and never raises."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # arguments that do not fit their format
            message = str(record.msg)
        if record.name.partition(".")[0] != _OURS.name:
            message = _VALUES.split(message, 1)[0].rstrip(" ,:")
        line = {**_head(record.created, record.levelname, record.name), "message": message}
        if record.exc_info and record.exc_info[1]:
            line["error"] = _error(record.exc_info[1])
        self._writer.put(line)


class Logs:
    """The process's logging, and the instrument that writes an exchange's line. One at a time in a process."""

    def __init__(self, level: str, access_log: bool, fd: int = _STDERR) -> None:
        """`level` bounds what is logged in words, by other libraries from `warning` on; `fd` is the descriptor to write to."""
        self._writer = _Writer(fd)
        self._handler = _Handler(self._writer)
        self._access_log = access_log
        self._level_before = _OURS.level
        logging.getLogger().addHandler(self._handler)
        _OURS.setLevel(level.upper())

    @property
    def dropped_count(self) -> int:
        """Lines that were dropped because nobody took them."""
        return self._writer.dropped_count

    def begin(self, headers: Mapping[str, str]) -> LogMark:
        """Notes which trace the exchange belongs to."""
        return LogMark(self._writer if self._access_log else None, headers.get(TRACEPARENT, ""))

    def close(self) -> None:
        """Write what waits, for at most a second, and leave the process's logging as it was."""
        logging.getLogger().removeHandler(self._handler)
        _OURS.setLevel(self._level_before)
        self._writer.close()


class LogMark:
    """The line of one exchange."""

    __slots__ = ("_traceparent", "_writer")

    def __init__(self, writer: _Writer | None, traceparent: str) -> None:
        self._writer, self._traceparent = writer, traceparent

    def upstream_headers(self) -> Mapping[str, str]:
        """None of its own."""
        return {}

    def end(self, record: ExchangeRecord) -> None:
        """Have the line written."""
        if self._writer:
            self._writer.put(_Ended(time.time(), record, self._traceparent))


def _document(ended: _Ended) -> dict[str, object]:
    """An exchange's line. Fields that say nothing are left out."""
    line = _head(ended.moment, "info", "router.outcome")
    if trace := _TRACEPARENT.match(ended.traceparent):
        line["trace_id"] = trace[1]
    for name in ExchangeRecord.__slots__:
        value = getattr(ended.record, name)
        if value not in ("", None, {}):
            line[name] = _shown(value)
    if not ended.record.http_status:
        del line["http_status"]
    if ended.record.cache == "off":
        del line["cache"]
    if not ended.record.cache_similarity:
        del line["cache_similarity"]
    return line


def _shown(value: object) -> object:
    match value:
        case float():
            return round(value, 6)
        case str():
            return value[:_LONGEST_TEXT]
        case Usage():
            return {"prompt": value.prompt_tokens, "completion": value.completion_tokens}
        case _:
            return value


def _head(moment: float, level: str, logger: str) -> dict[str, object]:
    stamp = datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
    return {"time": stamp, "level": level.lower(), "logger": logger}


def _error(error: BaseException) -> str:
    """Type and place. The error's own words are left out: they may quote a prompt."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    place = f" at {traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}" if traceback else ""
    return f"{type(error).__name__}{place}"
