"""What operators see of the router: one frozen record per exchange feeds metrics, a span and a log line. Never prompt text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from router.core.exchange_record import ExchangeRecord


class Instrument(Protocol):
    """One way to inform operators: metrics, traces or logs."""

    def begin(self, headers: Mapping[str, str]) -> Recording:
        """Called when an exchange begins, with its request headers."""
        ...

    def close(self) -> None:
        """Send what is still held, within seconds."""
        ...


class Recording(Protocol):
    """An instrument's state during one exchange."""

    def upstream_headers(self) -> Mapping[str, str]:
        """Headers to add to the request for the backend."""
        ...

    def end(self, record: ExchangeRecord) -> None:
        """Called when the exchange is over."""
        ...


class Observation:
    """The recordings of all instruments for one exchange."""

    __slots__ = ("_marks", "_upstream")

    def __init__(self, marks: Sequence[Recording], upstream: Mapping[str, str]) -> None:
        self._marks, self._upstream = marks, upstream

    def upstream_headers(self) -> Mapping[str, str]:
        """Headers that carry the trace to the backend; empty when tracing is off."""
        return self._upstream

    def end(self, record: ExchangeRecord) -> None:
        """Hand the record to every instrument."""
        for mark in self._marks:
            mark.end(record)


class Telemetry:
    """All instruments that are switched on.

    Order matters. An instrument sees the upstream headers of those before it, and is closed after them. `Logs` comes after
    `Tracing`, so log lines name the trace, and errors while the last spans are sent are still logged.
    """

    def __init__(self, instruments: Sequence[Instrument]) -> None:
        self._instruments = tuple(instruments)

    def begin(self, headers: Mapping[str, str]) -> Observation:
        """Called when an exchange begins, with its request headers."""
        marks: list[Recording] = []
        upstream: Mapping[str, str] = {}
        for instrument in self._instruments:
            mark = instrument.begin(headers)
            marks.append(mark)
            if more := mark.upstream_headers():
                headers, upstream = {**headers, **more}, {**upstream, **more}
        return Observation(marks, upstream)

    def close(self) -> None:
        """Send what is still held. Called once, when the process ends."""
        for instrument in self._instruments:
            instrument.close()
