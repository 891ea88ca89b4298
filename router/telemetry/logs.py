"""JSON lines on standard error: the access log and the process's own messages. A slow reader loses lines and delays nothing."""

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
_MAX_TEXT_CHARS = 128  # per field, because a client may send any request id
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_VALUES = re.compile(r"[\n(<{'\"]")
"""Where a message of another library begins to show values. asyncio names a failed callback with its arguments, and the exception
on the next line; either may hold a prompt."""
_OURS = logging.getLogger("router")


@dataclass(frozen=True, slots=True)
class _Ended:
    """An exchange's log line before it is formatted. The writer's thread formats it, not the event loop."""

    moment: float
    record: ExchangeRecord
    traceparent: str


_Entry = Mapping[str, object] | _Ended


class _Writer:
    """Writes lines one by one in a thread. Only this thread ever waits for the reader.

    It writes to the file descriptor directly, because a thread that waits inside `sys.stderr` or a `logging.StreamHandler` holds
    a lock that the interpreter needs to exit. It writes a line in one call, so lines of workers that share a pipe do not mix, up
    to 4096 bytes.
    """

    def __init__(self, fd: int) -> None:
        self.dropped_count = 0
        self._fd = fd
        self._waiting: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def put(self, entry: _Entry) -> None:
        """Queue a line, or drop it when too many wait."""
        if self._waiting.qsize() < _MAX_WAITING:
            self._waiting.put(entry)
        else:
            self.dropped_count += 1

    def close(self) -> None:
        """Write the queued lines, for at most a second."""
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
        except OSError:  # the reader has left, or a non-blocking pipe is full
            self.dropped_count += 1


class _Handler(logging.Handler):
    """Passes the process's log messages, from any library, to the writer."""

    def __init__(self, writer: _Writer) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        """Never waits and never raises."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # the arguments do not fit the format
            message = str(record.msg)
        if record.name.partition(".")[0] != _OURS.name:
            message = _VALUES.split(message, 1)[0].rstrip(" ,:")
        line = {**_head(record.created, record.levelname, record.name), "message": message}
        if record.exc_info and record.exc_info[1]:
            line["error"] = _error(record.exc_info[1])
        self._writer.put(line)


class Logs:
    """Sets up the process's logging, and is the instrument that writes the access log. A process has at most one at a time."""

    def __init__(self, level: str, access_log: bool, fd: int = _STDERR) -> None:
        """`level` applies to the router's messages; those of other libraries are logged from `warning` on. Writes to `fd`."""
        self._writer = _Writer(fd)
        self._handler = _Handler(self._writer)
        self._access_log = access_log
        self._level_before = _OURS.level
        logging.getLogger().addHandler(self._handler)
        _OURS.setLevel(level.upper())

    @property
    def dropped_count(self) -> int:
        """Lines that were dropped because the reader was too slow."""
        return self._writer.dropped_count

    def begin(self, headers: Mapping[str, str]) -> LogMark:
        """Note the exchange's trace."""
        return LogMark(self._writer if self._access_log else None, headers.get(TRACEPARENT, ""))

    def close(self) -> None:
        """Write the queued lines, for at most a second, and restore the process's logging."""
        logging.getLogger().removeHandler(self._handler)
        _OURS.setLevel(self._level_before)
        self._writer.close()


class LogMark:
    """The access log's line of one exchange."""

    __slots__ = ("_traceparent", "_writer")

    def __init__(self, writer: _Writer | None, traceparent: str) -> None:
        self._writer, self._traceparent = writer, traceparent

    def upstream_headers(self) -> Mapping[str, str]:
        """None."""
        return {}

    def end(self, record: ExchangeRecord) -> None:
        """Queue the line."""
        if self._writer:
            self._writer.put(_Ended(time.time(), record, self._traceparent))


def _document(ended: _Ended) -> dict[str, object]:
    """The access log's line of an exchange. Empty fields are left out."""
    line = _head(ended.moment, "info", "router.access_log")
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
            return value[:_MAX_TEXT_CHARS]
        case Usage():
            return {"prompt": value.prompt_tokens, "completion": value.completion_tokens}
        case _:
            return value


def _head(moment: float, level: str, logger: str) -> dict[str, object]:
    stamp = datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
    return {"time": stamp, "level": level.lower(), "logger": logger}


def _error(error: BaseException) -> str:
    """The error's type and place. Its message is left out, because it may quote a prompt."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    place = f" at {traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}" if traceback else ""
    return f"{type(error).__name__}{place}"
