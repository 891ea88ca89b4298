"""One exchange in the shell: its times, its cache lookup, and the instruments that observe it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any, Protocol

from router.core.events import Action, Event, ResponseBody, Route
from router.core.exchange import Exchange
from router.core.exchange_record import Ending, ExchangeRecord
from router.extproc import wire
from router.extproc.answers import ExchangeLookup


class Observation(Protocol):
    """What the instruments hold while one exchange lasts."""

    def upstream_headers(self) -> Mapping[str, str]:
        """Headers that carry the trace to the backend; empty when tracing is off."""
        ...

    def end(self, record: ExchangeRecord) -> None:
        """Hand the record to every instrument. Called exactly once."""
        ...


class Instruments(Protocol):
    def begin(self, headers: Mapping[str, str]) -> Observation:
        """Called with the request's headers, when an exchange begins."""
        ...


@dataclass(slots=True)
class ActiveExchange:
    """An exchange in progress. Times are in seconds of `perf_counter`; 0 for what has not happened."""

    exchange: Exchange
    observation: Observation
    lookup: ExchangeLookup[Any]
    """`Any`, because only the cache knows the type of its pending lookup."""
    began: float = field(default_factory=perf_counter)
    routed: float = 0.0
    signals_s: float = 0.0
    first_token: float = 0.0
    ending: Ending = "abandoned"

    @contextmanager
    def timing_signals(self) -> Iterator[None]:
        """Count the time in this context as spent on signals."""
        began = perf_counter()
        try:
            yield
        finally:
            self.signals_s += perf_counter() - began

    def prepare(self, event: Event, action: Action) -> Action:
        """The action as it is sent: a route gets the trace, too. Also notes the times, before Envoy may end the stream."""
        if isinstance(action, Route):
            self.routed = perf_counter()
            action = replace(action, set_headers={**action.set_headers, **self.observation.upstream_headers()})
        elif isinstance(event, ResponseBody) and not self.first_token:
            self.first_token = perf_counter()
        if wire.is_last(action):
            self.ending = self.exchange.ending
        return action

    def finish(self) -> None:
        """Hand the answer to the cache, and the record with its durations to the instruments."""
        self.lookup.complete(self.exchange, self.ending)
        record = replace(
            self.exchange.record(self.ending),
            routing_s=self.routed - self.began if self.routed else 0.0,
            signals_s=self.signals_s,
            first_token_s=self.first_token - self.routed if self.first_token and self.exchange.is_streamed else None,
            duration_s=perf_counter() - self.began,
        )
        self.observation.end(record)
