"""What is known about one exchange while it lasts. Makes the exchange record from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from router.core.decision_headers import category_of, reasoning_word
from router.core.events import Reply
from router.core.exchange_record import CacheResult, Ending, ExchangeRecord
from router.core.headers import REQUEST_ID
from router.core.openai.rewrite import effort_of
from router.core.response import PassingAnswer
from router.core.snapshot import Snapshot
from router.core.types import ChatRequest, Decision, EndpointWord, Missing, Readings, ResponsePath
from router.errors import RequestError


@dataclass(slots=True)
class Progress:
    """What is known about one exchange so far. The exchange writes it; everybody else only reads."""

    snapshot: Snapshot
    headers: Mapping[str, str] = field(default_factory=dict)
    """The request's headers."""
    endpoint: EndpointWord = "other"
    request: ChatRequest | None = None
    """None until the body is read."""
    readings: Readings = field(default_factory=dict)
    """The signals that were read, including those that failed."""
    decision: Decision | None = None
    """None until a decision is made, and for a request that was refused before any rule was judged."""
    cache: CacheResult = field(default_factory=CacheResult)
    """What the cache did."""
    reply: Reply | None = None
    """The router's own reply, if there is one."""
    error: RequestError | None = None
    http_status: int = 0
    passing: PassingAnswer | None = None
    """The backend's answer, if the router reads it."""
    is_routed: bool = False
    is_complete: bool = False
    """Whether the backend's answer has passed to its end."""
    is_cut_short: bool = False
    """Whether Envoy answered the request itself before all of it came."""

    @property
    def ending(self) -> Ending:
        """How the exchange ended, if it was not interrupted; see `ExchangeRecord.ending`."""
        if self.reply is not None:
            return "replied"
        if self.is_cut_short:
            return "abandoned"
        if self.is_complete:
            return "completed"
        return "routed" if self.is_routed else "passed"

    @property
    def is_streamed(self) -> bool:
        """Whether the backend answers with an event stream that the router reads."""
        return self.passing is not None and self.passing.is_event_stream

    @property
    def response_path(self) -> ResponsePath:
        """Who answers, as far as it is known now."""
        if self.reply is not None:
            return self.reply.path
        return "upstream" if self.is_routed else "bypass"

    def record(self, ending: Ending) -> ExchangeRecord:
        """The record of what is known now, without times, which the shell adds. `ending` as in `ExchangeRecord.ending`."""
        decision, request = self.decision, self.request
        model = decision.model if decision and not decision.block else None
        category, confidence = category_of(self.readings)
        is_known = request is not None and request.model in self.snapshot.names
        return ExchangeRecord(
            ending=ending,
            endpoint=self.endpoint,
            response_path=self.response_path,
            request_id=self.headers.get(REQUEST_ID, ""),
            requested_model=request.model if request and is_known else "",
            model=model.name if model else "",
            cluster=model.cluster if model else "",
            decision=decision.name if decision else "",
            reason=decision.reason if decision else "",
            category=category,
            confidence=confidence,
            reasoning=reasoning_word(decision),
            effort=self._effort(decision),
            is_stream=request is not None and request.is_stream,
            missing={name: reading.reason for name, reading in self.readings.items() if isinstance(reading, Missing)},
            cache=self.cache.status,
            cache_reason=self.cache.reason,
            cache_similarity=self.cache.similarity,
            cache_verified=self.cache.verified,
            cache_entry=self.cache.entry_id,
            cache_model=self.cache.model,
            stored=self.cache.stored,
            block_reason=(decision.missing or decision.reason) if decision and decision.block else "",
            error_code=self.error.code or "invalid_request" if self.error else "",
            http_status=self.http_status,
            usage=self.passing.usage if self.passing else None,
        )

    def _effort(self, decision: Decision | None) -> str:
        if decision is None or decision.reasoning is None:
            return ""
        family = self.snapshot.family_of(decision)
        return effort_of(decision.reasoning, family) if family and family.kind == "reasoning_effort" else ""
