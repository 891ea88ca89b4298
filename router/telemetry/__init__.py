"""What operators see of the router: one frozen record per exchange feeds metrics, a span and a log line. Never any text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from router.core.exchange_record import ExchangeRecord


class Instrument(Protocol):
    """One way of telling operators."""

    def begin(self, headers: Mapping[str, str]) -> Recording:
        """An exchange begins with these request headers."""
        ...

    def close(self) -> None:
        """Hand on what is still held, within seconds."""
        ...


class Recording(Protocol):
    """What an instrument holds while one exchange lasts."""

    def upstream_headers(self) -> Mapping[str, str]:
        """Headers that the backend should get."""
        ...

    def end(self, record: ExchangeRecord) -> None:
        """The exchange is over."""
        ...


class Observation:
    """All instruments' marks of one exchange."""

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
    """The instruments that are switched on; with none it costs nothing.

    Each sees the request's headers as those before it leave them for the backend, and is closed after them: `Logs` comes
    behind `Tracing`, so that its lines name the trace, and what goes wrong while the last spans are sent is still logged.
    """

    def __init__(self, instruments: Sequence[Instrument]) -> None:
        self._instruments = tuple(instruments)

    def begin(self, headers: Mapping[str, str]) -> Observation:
        """Called with the request's headers, when an exchange begins."""
        marks: list[Recording] = []
        upstream: Mapping[str, str] = {}
        for instrument in self._instruments:
            mark = instrument.begin(headers)
            marks.append(mark)
            if more := mark.upstream_headers():
                headers, upstream = {**headers, **more}, {**upstream, **more}
        return Observation(marks, upstream)

    def close(self) -> None:
        """Hand on what is still held; called once, when the process ends."""
        for instrument in self._instruments:
            instrument.close()
