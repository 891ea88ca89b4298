"""The response side of an exchange: reads the backend's answer while it passes, and says what may be stored of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from router.core.admission import number_of
from router.core.events import Action, Continue, Replace, ResponseBody, ResponseHeaders
from router.core.exchange_record import Ending
from router.core.headers import STATUS
from router.core.openai.completion import NotStorable
from router.core.progress import Progress
from router.core.response import PassingAnswer, why_unread
from router.core.states import Answering, AwaitingResponse, Done, Start, State


@dataclass(slots=True)
class ResponseSteps(Progress):
    """The steps of an exchange from the response headers on."""

    state: State = field(default_factory=Start)
    looked_up_s: int = 0
    """When the cache was asked, as a Unix time; 0 before the lookup."""

    def _on_response_headers(self, state: AwaitingResponse, event: ResponseHeaders) -> Action:
        self.http_status = number_of(event.headers.get(STATUS, "")) or 0
        if reason := why_unread(event.headers, self.http_status, is_end=event.is_end):
            if state.stores:
                self.cache.stored = reason
            self.state = Done()
            self.is_complete = event.is_end
            return Continue(is_last=True)
        wants_usage = state.request.wants_usage
        plan = self.snapshot.cache if state.stores else None
        self.passing = PassingAnswer.of(event.headers, wants_usage=wants_usage, plan=plan, now_s=self.looked_up_s)
        self.cache.stored = self.passing.why_not_stored or ""
        self.state = Answering(self.passing)
        return Continue()

    def _on_response_body(self, state: Answering, event: ResponseBody) -> Action:
        shown = state.passing.feed(event.data, is_end=event.is_end)
        if event.is_end:
            self.state = Done()
            self.is_complete = True
        return Continue(is_last=event.is_end) if shown == event.data else Replace(shown, is_last=event.is_end)

    @property
    def backend_ttl_s(self) -> float | None:
        """How long the backend allows its answer to be stored, in seconds; None when it sets no bound."""
        return self.passing.max_ttl_s if self.passing else None

    def answer(self, ending: Ending = "completed") -> bytes | None:
        """The answer to store, once all of it has passed; None when it must not be stored.

        An exchange that did not complete stores nothing, even when some of the answer has passed.
        """
        if isinstance(self.state, AwaitingResponse) and self.state.stores:
            self.cache.stored = "interrupted"
        if self.passing is None or self.passing.reader is None:
            return None
        try:
            data = self.passing.kept(is_whole=self.is_complete and ending == "completed")
        except NotStorable as error:
            self.cache.stored = error.reason
            return None
        self.cache.stored = "stored"
        return data
