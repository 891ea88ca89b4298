"""JSON lines on standard error: one for each exchange, and the process's own. A reader that stalls costs lines, never time."""

from __future__ import annotations

import json
import logging
import logging.handlers
import queue
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from router.core.types import Outcome

_MOST_WAITING = 10_000  # lines; at 500 bytes a line about 5 MB
_CLOSE_S = 1.0
_OUTCOMES = logging.getLogger("router.outcome")
_ROUNDED = ("confidence", "routing_s", "sensing_s", "first_token_s", "duration_s")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """One line; an Outcome's fields stand beside time and level."""
        fields: dict[str, Any] = getattr(record, "fields", None) or {"message": record.getMessage()}
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": moment, "level": record.levelname.lower(), "logger": record.name, **fields}
        return json.dumps(line, ensure_ascii=False)


class _Queue(logging.handlers.QueueHandler):
    """Never waits: a full queue drops the line and counts it."""

    dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Records are formatted by the listener's thread, not here."""
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Put, or drop."""
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1


class Logs:
    """The process's logging, and the instrument that writes an exchange's line."""

    def __init__(self, level: str, outcomes: bool, stream: TextIO | None = None) -> None:
        target = logging.StreamHandler(stream or sys.stderr)
        target.setFormatter(_Json())
        lines: queue.Queue[Any] = queue.Queue(_MOST_WAITING)
        self._handler = _Queue(lines)
        self._listener = logging.handlers.QueueListener(lines, target)
        self._outcomes = outcomes
        root = logging.getLogger("router")
        root.handlers, root.propagate = [self._handler], False
        root.setLevel(level.upper())
        self._listener.start()

    @property
    def dropped_count(self) -> int:
        """Lines that were dropped because nobody took them."""
        return self._handler.dropped

    def begin(self, headers: Mapping[str, str]) -> Logs:
        """Nothing is held for one exchange."""
        return self

    def upstream_headers(self) -> Mapping[str, str]:
        """None of its own."""
        return {}

    def end(self, outcome: Outcome) -> None:
        """Write the exchange's line. Fields that say nothing are left out."""
        if not self._outcomes:
            return
        fields = {name: getattr(outcome, name) for name in Outcome.__slots__}
        for name in _ROUNDED:
            if fields[name] is not None:
                fields[name] = round(fields[name], 6)
        if outcome.usage:
            fields["usage"] = {"prompt": outcome.usage.prompt_tokens, "completion": outcome.usage.completion_tokens}
        shown = {name: value for name, value in fields.items() if value not in ("", None, {})}
        _OUTCOMES.info("exchange", extra={"fields": shown})

    def close(self) -> None:
        """Write what waits, for at most a second."""
        # Not stop() alone: it would wait for ever on a reader that stalls.
        stopping = threading.Thread(target=self._listener.stop, daemon=True)
        stopping.start()
        stopping.join(_CLOSE_S)
