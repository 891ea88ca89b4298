"""One request and its response through ext_proc, as a pure state machine: an event comes in, one action goes out.

No I/O, no clock, no logging. The shell carries out the actions and decides nothing. `states.TRANSITIONS` lists which event is
accepted in which state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from router.core.admission import ModelsAsked, asked_of, check_headers, check_model, check_size, named_model
from router.core.ahead import decision_of, lookup_ahead
from router.core.answering import ResponseSteps
from router.core.cache_key import Ineligible
from router.core.cache_policy import read_client_controls
from router.core.cached import cache_headers, lookup_for, not_cached_reply, replay, result_of
from router.core.decision_headers import decision_headers
from router.core.events import (
    Action,
    Continue,
    Event,
    LookedUp,
    Overloaded,
    Pause,
    ReadSignals,
    Reply,
    RequestBody,
    RequestHeaders,
    ResponseBody,
    ResponseHeaders,
    Resumed,
    Route,
    SignalsRead,
    Trailers,
)
from router.core.exchange_record import CacheResult
from router.core.headers import ACCEPT_ENCODING, CONTENT_LENGTH
from router.core.lookup import Hit
from router.core.openai.bodysize import PIECE_BYTES
from router.core.openai.bodysize import count as count_body
from router.core.openai.replies import block_error, block_reply, error_reply, models_reply, not_cached, overloaded
from router.core.openai.request import Body, parse
from router.core.openai.rewrite import rewrite
from router.core.policy import NeedsSignals
from router.core.signals_wanted import signals_wanted
from router.core.states import (
    Answering,
    AwaitingBody,
    AwaitingResponse,
    Done,
    LookingAhead,
    LookingUp,
    Paused,
    ReadingSignals,
    Start,
)
from router.core.types import ChatRequest, Decision, Endpoint, Readings
from router.errors import ProtocolError, RequestError

_END = object()


@dataclass(slots=True)
class Exchange(ResponseSteps):
    """One exchange. Give it the events in order with `receive`; ask for its `record` when it is over."""

    def receive(self, event: Event) -> Action:
        """The action that answers an event.

        Raises:
            ProtocolError: the event is not accepted in this state.
        """
        try:
            return self._advance(event)
        except RequestError as error:
            self.error = error
            return self._finish_with(error_reply(error))

    def _advance(self, event: Event) -> Action:
        match self.state, event:
            case Start(), RequestHeaders():
                return self._on_request_headers(event)
            case AwaitingBody(endpoint), RequestBody(data):
                return self._on_request_body(endpoint, data)
            case Paused(then), (Resumed() | Overloaded()):
                return self._on_turn(then, event)
            case ReadingSignals(request, body), SignalsRead(readings):
                return self._on_signals_read(request, body, readings)
            case (((LookingAhead() | LookingUp()) as state), LookedUp()):
                return self._on_looked_up(state, event)
            case ((AwaitingResponse() as state), ResponseHeaders()):
                return self._on_response_headers(state, event)
            case ((Answering() as state), ResponseBody()):
                return self._on_response_body(state, event)
            case ((Start() | AwaitingBody()), (ResponseHeaders() | ResponseBody())):
                return self._on_envoys_local_reply()
            case ((AwaitingBody() | AwaitingResponse() | Answering()), Trailers()):
                return Continue()
            case _:
                raise ProtocolError(f"{type(event).__name__} came in state {type(self.state).__name__}")

    # -- the request: headers, body, signals, cache, route ---------------------------------------------------------------

    def _on_request_headers(self, event: RequestHeaders) -> Action:
        self.headers = event.headers
        asked = asked_of(event)
        if asked is None:
            self.state = Done()
            return Continue(is_last=True)
        if isinstance(asked, ModelsAsked):
            self.endpoint = "models"
            return self._finish_with(models_reply(self.snapshot.names, asked.name, self.snapshot.started_s))
        self.endpoint = asked.word
        check_headers(event, self.snapshot.max_body_bytes)
        self.state = AwaitingBody(asked)
        return Continue()

    def _on_request_body(self, endpoint: Endpoint, data: bytes) -> Action:
        check_size(len(data), self.snapshot.max_body_bytes)
        return self._count(endpoint, data, count_body(data, self.snapshot.bounds))

    def _count(self, endpoint: Endpoint, data: bytes, pieces: Iterator[None]) -> Action:
        """Count the next piece of the body; after the last one, parse the body."""
        if next(pieces, _END) is _END:
            return self._parse_body(endpoint, data)
        return self._in_turns(len(data), partial(self._count, endpoint, data, pieces))

    def _parse_body(self, endpoint: Endpoint, data: bytes) -> Action:
        request, body = parse(endpoint, data, self.headers, self.snapshot.bounds)
        self.request = request
        check_model(request, self.snapshot)
        decided = self._apply_rules(request)
        if not isinstance(decided, NeedsSignals):
            return self._act_on(request, body, decided)
        lookup = lookup_ahead(self.snapshot, request, body)
        if lookup is None:
            return self._request_signals(request, body, decided)
        self.state = LookingAhead(request, body, decided)
        return lookup

    def _on_looked_ahead(self, state: LookingAhead, event: LookedUp) -> Action:
        """Serve the answer to the same text, if there is one; else go on as if nobody had asked."""
        decision = decision_of(event.found, self.snapshot) if isinstance(event.found, Hit) else None
        result, hit, answer = result_of(event.found, is_shadow=False)
        if decision is None or hit is None or answer is None:
            return self._request_signals(state.request, state.body, state.needs)
        self.decision, self.cache = decision, result
        return self._finish_with(replay(state.request, decision, self.readings, result, hit, answer, event))

    def _apply_rules(self, request: ChatRequest) -> Decision | NeedsSignals:
        """The choice of the rules. A request that names its model gets that model, unless a rule blocks it."""
        policy = self.snapshot.policy
        if request.model in self.snapshot.virtual_models:
            return policy.decide(request, self.readings)
        named = named_model(request.model, self.snapshot)
        return policy.refuse(request, self.readings) or named

    def _request_signals(self, request: ChatRequest, body: Body, needs: NeedsSignals) -> Action:
        self.state = ReadingSignals(request, body)
        wanted = signals_wanted(needs, request, body, self.snapshot)
        if isinstance(wanted, ReadSignals):
            return wanted
        return self._on_signals_read(request, body, wanted)  # known to be missing, without the shell

    def _on_signals_read(self, request: ChatRequest, body: Body, readings: Readings) -> Action:
        brought = readings.keys() - self.readings.keys()
        self.readings = {**self.readings, **readings}
        decided = self._apply_rules(request)
        if not isinstance(decided, NeedsSignals):
            return self._act_on(request, body, decided)
        # Each round must bring all that was asked, or this would loop.
        if not brought or decided.signals & readings.keys():
            raise ProtocolError(f"the shell returned no reading of {', '.join(sorted(decided.signals))}")
        return self._request_signals(request, body, decided)

    def _act_on(self, request: ChatRequest, body: Body, decision: Decision) -> Action:
        """The route is chosen: refuse a blocked request, ask the cache, or send the request to the model."""
        self.decision = decision
        if decision.block:
            self.error = block_error(decision, decision.block)
            return self._finish_with(block_reply(self.error, decision, self.readings))
        if (plan := self.snapshot.cache) is None:
            return self._ask_model(request, body, decision)
        controls = read_client_controls(plan, request.headers)
        lookup = lookup_for(plan, controls, request, body, decision, self.snapshot.family_of(decision))
        if isinstance(lookup, Ineligible):
            self.cache = CacheResult("skipped", lookup.reason)
            return self._ask_model(request, body, decision, only_if_cached=controls.only_if_cached)
        self.state = LookingUp(request, body, decision, lookup.cache_policy)
        return lookup

    def _on_looked_up(self, state: LookingAhead | LookingUp, event: LookedUp) -> Action:
        if isinstance(state, LookingAhead):
            return self._on_looked_ahead(state, event)
        request, decision = state.request, state.decision
        self.looked_up_s = event.now_s
        self.cache, hit, answer = result_of(event.found, is_shadow=state.cache_policy.shadow)
        if hit and answer:
            return self._finish_with(replay(request, decision, self.readings, self.cache, hit, answer, event))
        asked = state.cache_policy
        return self._ask_model(request, state.body, decision, stores=asked.may_store, only_if_cached=asked.only_if_cached)

    def _ask_model(
        self, request: ChatRequest, body: Body, decision: Decision, *, stores: bool = False, only_if_cached: bool = False
    ) -> Action:
        """Send the request to the model, because the cache serves no answer."""
        if only_if_cached:
            self.error = not_cached()
            return self._finish_with(not_cached_reply(self.error, self.cache))
        return self._in_turns(len(body.text), partial(self._route, request, body, decision, stores=stores))

    def _route(self, request: ChatRequest, body: Body, decision: Decision, *, stores: bool) -> Action:
        reads_answer = stores or (self.snapshot.records_usage and request.endpoint is not Endpoint.EMBEDDINGS)
        rewritten = rewrite(body, request, decision, self.snapshot.family_of(decision), needs_usage=reads_answer)
        headers = decision_headers(decision, self.readings) | cache_headers(self.cache)
        if rewritten is not None:
            headers[CONTENT_LENGTH] = str(len(rewritten))
        self.state = AwaitingResponse(request, stores) if reads_answer else Done()
        self.is_routed = True
        # The router could not read a compressed answer, nor remove the usage event that the client did not ask for.
        removed = (ACCEPT_ENCODING,) if reads_answer else ()
        return Route(headers, rewritten, removed, is_last=not reads_answer)

    # -- large bodies, and other ends ------------------------------------------------------------------------------------

    def _in_turns(self, size: int, step: Callable[[], Action]) -> Action:
        """The next step of the work on a body: at once for a small body; for a large one after other exchanges had their turn."""
        if size <= PIECE_BYTES:
            return step()
        self.state = Paused(step)
        return Pause()

    def _on_turn(self, then: Callable[[], Action], event: Resumed | Overloaded) -> Action:
        if isinstance(event, Overloaded):
            raise overloaded()
        return then()

    def _on_envoys_local_reply(self) -> Action:
        """Envoy answered the request itself before all of it came: a bad path, or a body that is too large or too slow."""
        self.state = Done()
        self.is_cut_short = True
        return Continue(is_last=True)

    def _finish_with(self, reply: Reply) -> Reply:
        self.state = Done()
        self.reply = reply
        self.http_status = reply.http_status
        return reply
