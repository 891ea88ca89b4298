"""One request and its response through ext_proc, as a pure state machine: an event comes in, one action goes out.

No I/O, no clock, no logging. The shell carries out what is returned and never decides anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from urllib.parse import unquote

from router.core.cache_key import Ineligible, question_of
from router.core.cache_policy import CachePlan, apply_client_controls, wants_only_cached
from router.core.freshness import EVENT_STREAM, backend_ttl_s, media_type
from router.core.headers import (
    CLUSTER_HEADER,
    PATH_HEADER,
    category_of,
    check_headers,
    check_size,
    decision_headers,
    number_of,
    reasoning_word,
)
from router.core.lookup import CachePolicy, Hit, Miss
from router.core.messages import (
    Action,
    Continue,
    Event,
    LookedUp,
    Lookup,
    Overloaded,
    Pause,
    ReadSignals,
    Replace,
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
from router.core.openai.bodysize import PIECE_BYTES
from router.core.openai.bodysize import count as count_body
from router.core.openai.completion import Answer, AnswerReader, NotStorable, as_json, as_stream
from router.core.openai.completion import decode as decode_answer
from router.core.openai.replies import blocked, error_reply, models_reply, not_cached, overloaded, unknown_model, unreadable
from router.core.openai.request import Body, parse
from router.core.openai.rewrite import effort_of, rewrite
from router.core.outcome import CacheResult, Outcome
from router.core.policy import NeedsSignals, Readings
from router.core.prompt import prompt_of, reads_of
from router.core.snapshot import Snapshot
from router.core.states import Answering, AwaitingBody, AwaitingResponse, Done, LookingUp, Paused, ReadingSignals, Start, State
from router.core.types import ChatRequest, Decision, Endpoint, Missing, ReasoningFamily
from router.core.usage import UsageRecorder
from router.errors import ProtocolError, RequestError

MODELS_PATH = "/v1/models"
_ENDPOINTS = {endpoint.value: endpoint for endpoint in Endpoint}
_OK = 200
_END = object()


@dataclass(slots=True)
class Exchange:
    """The state of one exchange. Give it events in order with `receive`; ask `outcome` when it is over."""

    snapshot: Snapshot
    state: State = field(default_factory=Start)
    _headers: Mapping[str, str] = field(default_factory=dict)
    _endpoint: str = "other"
    _request: ChatRequest | None = None
    _readings: Readings = field(default_factory=dict)
    _decision: Decision | None = None
    _reply: Reply | None = None
    _error: RequestError | None = None
    _http_status: int = 0
    _recorder: UsageRecorder | None = None
    _reader: AnswerReader | None = None
    _is_routed: bool = False
    _is_complete: bool = False
    _looked_up_s: int = 0
    """A Unix time, from the lookup on."""
    _backend_ttl_s: float | None = None
    _is_cut_short: bool = False
    _cache: CacheResult = field(default_factory=CacheResult)

    def receive(self, event: Event) -> Action:
        """The one answer to an event.

        Raises:
            ProtocolError: the event may not come in this state.
        """
        try:
            return self._advance(event)
        except RequestError as error:
            self._error = error
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
                return self._on_sensed(request, body, readings)
            case LookingUp(request, body, cache_policy), LookedUp():
                return self._on_looked_up(request, body, cache_policy, event)
            case AwaitingResponse(request, stores), ResponseHeaders():
                return self._on_response_headers(request, stores, event)
            case Answering(recorder, reader), ResponseBody(data, is_end):
                return self._on_response_body(recorder, reader, data, is_end)
            case ((Start() | AwaitingBody()), (ResponseHeaders() | ResponseBody())):
                return self._on_foreign_answer()
            case ((AwaitingBody() | AwaitingResponse() | Answering()), Trailers()):
                return Continue()
            case _:
                raise ProtocolError(f"{type(event).__name__} came in state {type(self.state).__name__}")

    # -- the request -------------------------------------------------------------------------------------------------

    def _on_request_headers(self, event: RequestHeaders) -> Action:
        self._headers = event.headers
        method = event.headers.get(":method", "")
        # Decoded as the models decode it: what they would serve as a chat is read as one, however it is spelt.
        path = unquote(event.headers.get(":path", "").partition("?")[0])
        if method == "GET" and (path == MODELS_PATH or path.startswith(f"{MODELS_PATH}/")):
            self._endpoint = "models"
            wanted = path[len(MODELS_PATH) + 1 :] or None
            return self._finish_with(models_reply(self.snapshot.names, wanted, self.snapshot.started_s))
        endpoint = _ENDPOINTS.get(path)
        if endpoint is None or (method != "POST" and event.is_end):
            self.state = Done()
            return Continue(is_last=True)
        self._endpoint = endpoint.name.lower()
        if method != "POST":
            raise RequestError(405, "this path takes POST; a body sent by another method is not read", code="method_not_allowed")
        check_headers(event, self.snapshot.max_body_bytes)
        self.state = AwaitingBody(endpoint)
        return Continue()

    def _on_foreign_answer(self) -> Action:
        """Envoy has answered the request itself, before we had it whole: a bad path, a body too large or too slow."""
        self.state, self._is_cut_short = Done(), True
        return Continue(is_last=True)

    def _on_request_body(self, endpoint: Endpoint, data: bytes) -> Action:
        check_size(len(data), self.snapshot.max_body_bytes)
        return self._count(endpoint, data, count_body(data, self.snapshot.bounds))

    def _count(self, endpoint: Endpoint, data: bytes, pieces: Iterator[None]) -> Action:
        """Count the next piece; after the last one the body is read."""
        if next(pieces, _END) is _END:
            return self._read(endpoint, data)
        return self._in_turns(len(data), partial(self._count, endpoint, data, pieces))

    def _on_turn(self, then: Callable[[], Action], event: Resumed | Overloaded) -> Action:
        if isinstance(event, Overloaded):
            raise overloaded()
        return then()

    def _in_turns(self, size: int, step: Callable[[], Action]) -> Action:
        """The next step of the work on a body: at once on a small one, on a large one after others had their turn."""
        if size <= PIECE_BYTES:
            return step()
        self.state = Paused(step)
        return Pause()

    def _read(self, endpoint: Endpoint, data: bytes) -> Action:
        request, body = parse(endpoint, data, self._headers, self.snapshot.bounds)
        self._request = request
        if endpoint is Endpoint.EMBEDDINGS and request.model in self.snapshot.virtual_models:
            names = ", ".join(self.snapshot.models)
            message = f"'{request.model}' chooses among chat models; name an embedding model itself. Known models: {names}"
            raise RequestError(400, message, param="model", code="model_not_supported")
        decided = self._decided(request)
        if isinstance(decided, NeedsSignals):
            return self._sense(request, body, decided)
        return self._decide(request, body, decided)

    def _decided(self, request: ChatRequest) -> Decision | NeedsSignals:
        """The rules' choice; of a request that names its model, its own, unless a rule blocks it."""
        policy = self.snapshot.policy
        if request.model in self.snapshot.virtual_models:
            return policy.decide(request, self._readings)
        direct = self._direct(request.model)
        return policy.refuse(request, self._readings) or direct

    def _direct(self, name: str) -> Decision:
        model = self.snapshot.models.get(name)
        if model is None:
            raise unknown_model(name, self.snapshot.names)
        return Decision("explicit_model", model, "explicit_model")

    def _on_sensed(self, request: ChatRequest, body: Body, readings: Readings) -> Action:
        brought = readings.keys() - self._readings.keys()
        self._readings = {**self._readings, **readings}
        decided = self._decided(request)
        if isinstance(decided, NeedsSignals):
            if not brought or decided.signals & readings.keys():
                raise ProtocolError(f"the shell brought no reading of {', '.join(sorted(decided.signals))}")
            return self._sense(request, body, decided)
        return self._decide(request, body, decided)

    def _sense(self, request: ChatRequest, body: Body, unread: NeedsSignals) -> Action:
        """What is to be read; of a prompt that is refused because not all of it can be, nothing is."""
        self.state = ReadingSignals(request, body)
        guards = [name for name in unread.signals if reads_of(name)[0] != "message"]
        if not guards:
            return ReadSignals(request, unread.signals)
        prompt, policy = prompt_of(request.endpoint, body.members, self.snapshot.max_guard_chars), self.snapshot.policy
        hopeless = [name for name in guards if prompt.unread and policy.fails_closed(name)]
        if hopeless:
            return self._on_sensed(request, body, dict.fromkeys(hopeless, Missing(prompt.unread)))
        return ReadSignals(request, unread.signals, prompt)

    def _decide(self, request: ChatRequest, body: Body, decision: Decision) -> Action:
        """The route is chosen; it is taken at once, unless the answer may be at hand already."""
        self._decision = decision
        if decision.block:
            error = unreadable(decision.missing) if decision.missing else blocked(decision.block)
            return self._refuse(error, decision)
        plan = self.snapshot.cache
        if plan is None:
            return self._without_cache(request, body, decision, None, stores=False)
        lookup = _lookup(plan, request, body, decision, self.snapshot.family_of(decision))
        if isinstance(lookup, Ineligible):
            self._cache = CacheResult("skipped", lookup.reason)
            return self._without_cache(request, body, decision, plan, stores=False)
        self.state = LookingUp(request, body, lookup.cache_policy)
        return lookup

    def _refuse(self, error: RequestError, decision: Decision) -> Reply:
        """What a rule blocks is answered with that rule's name and reason; no model was chosen."""
        self._error, reply = error, error_reply(error)
        headers = decision_headers(decision, self._readings)
        for name in (CLUSTER_HEADER, "x-vsr-selected-model", "x-vsr-selected-reasoning"):
            del headers[name]
        return self._finish_with(replace(reply, headers=headers | dict(reply.headers)))

    def _on_looked_up(self, request: ChatRequest, body: Body, cache_policy: CachePolicy, event: LookedUp) -> Action:
        decision, found, plan = self._decision, event.found, self.snapshot.cache
        self._looked_up_s = event.now_s
        assert decision is not None and plan is not None  # noqa: S101, PT018 - this state comes after them
        if isinstance(found, Hit):
            try:
                answer = decode_answer(found.answer)
            except NotStorable:
                found = Miss("damaged")
        if isinstance(found, Miss):
            self._cache = CacheResult("miss", found.reason)
        else:
            status = "shadow" if cache_policy.shadow else "hit"
            self._cache = CacheResult(status, found.tier, found.similarity, found.verified, found.entry_id)
            if not cache_policy.shadow:
                return self._finish_with(self._replay(request, decision, found, answer, event))
        return self._without_cache(request, body, decision, plan, stores=cache_policy.may_store)

    def _replay(self, request: ChatRequest, decision: Decision, hit: Hit, answer: Answer, event: LookedUp) -> Reply:
        reply_id = f"chatcmpl-{event.reply_id}"
        if request.is_stream:
            body, kind = as_stream(answer, reply_id, event.now_s, request.wants_usage), "text/event-stream; charset=utf-8"
        else:
            body, kind = as_json(answer, reply_id, event.now_s), "application/json"
        headers = decision_headers(decision, self._readings)
        del headers[CLUSTER_HEADER]
        headers |= self._cache_headers() | {"content-type": kind, PATH_HEADER: "cache"}
        headers |= {
            "x-vsr-cache-similarity": f"{hit.similarity:.4f}",
            "x-vsr-cache-entry": hit.entry_id,
            "x-vsr-cache-age": str(int(hit.age_s)),
        }
        if hit.verified is not None:
            headers["x-vsr-cache-verified"] = f"{hit.verified:.4f}"
        if request.is_stream:
            headers["cache-control"] = "no-cache"
        return Reply(_OK, headers, body, "sr_cache_hit")

    def _cache_headers(self) -> dict[str, str]:
        if self._cache.status == "off":
            return {}
        is_hit = self._cache.status == "hit"
        return {
            "x-vsr-cache-hit": "true" if is_hit else "false",
            "x-vsr-cache-status": f"{self._cache.status}:{self._cache.reason}",
        }

    def _without_cache(
        self, request: ChatRequest, body: Body, decision: Decision, plan: CachePlan | None, *, stores: bool
    ) -> Action:
        if plan and wants_only_cached(plan, request.headers):
            raise not_cached()
        return self._in_turns(len(body.text), partial(self._route, request, body, decision, stores=stores))

    def _route(self, request: ChatRequest, body: Body, decision: Decision, *, stores: bool) -> Action:
        records = stores or (self.snapshot.records_usage and request.endpoint is not Endpoint.EMBEDDINGS)
        rewritten = rewrite(body, request, decision, self.snapshot.family_of(decision), needs_usage=records)
        headers = decision_headers(decision, self._readings) | self._cache_headers()
        if rewritten is not None:
            headers["content-length"] = str(len(rewritten))
        self.state, self._is_routed = AwaitingResponse(request, stores) if records else Done(), True
        # A compressed answer could neither be read nor have its extra chunk taken out.
        removed = ("accept-encoding",) if records else ()
        return Route(decision.model.cluster, headers, rewritten, removed, is_last=not records)

    # -- the response ------------------------------------------------------------------------------------------------

    def _on_response_headers(self, request: ChatRequest, stores: bool, event: ResponseHeaders) -> Action:
        self._http_status = number_of(event.headers.get(":status", "")) or 0
        if reason := self._why_unread(event):
            if stores:
                self._cache.stored = reason
            self.state, self._is_complete = Done(), event.is_end
            return Continue(is_last=True)
        is_event_stream = media_type(event.headers) == EVENT_STREAM
        self._recorder = UsageRecorder(is_event_stream, hides_usage=is_event_stream and not request.wants_usage)
        plan = self.snapshot.cache
        if stores and plan is not None:
            try:
                self._backend_ttl_s = backend_ttl_s(event.headers, self._looked_up_s, plan.scope.header)
                self._reader = AnswerReader(is_event_stream, plan.most_answer_bytes)
            except NotStorable as reason:
                self._cache.stored = str(reason)
        self.state = Answering(self._recorder, self._reader)
        return Continue()

    def _why_unread(self, event: ResponseHeaders) -> str:
        """Why an answer passes without being read; empty when it is read."""
        if self._http_status != _OK:
            return "not_ok"
        if "content-encoding" in event.headers:
            return "compressed"
        return "empty" if event.is_end else ""

    def _on_response_body(self, recorder: UsageRecorder, reader: AnswerReader | None, data: bytes, is_end: bool) -> Action:
        shown = recorder.feed(data, is_end)
        if reader:
            reader.feed(data)
        if is_end:
            self.state, self._is_complete = Done(), True
        return Continue(is_last=is_end) if shown == data else Replace(shown, is_last=is_end)

    def _finish_with(self, reply: Reply) -> Reply:
        self.state, self._reply, self._http_status = Done(), reply, reply.http_status
        return reply

    @property
    def backend_ttl_s(self) -> float | None:
        """How long the backend lets its answer be given again, in seconds; None when it sets no bound."""
        return self._backend_ttl_s

    def answer(self, ending: str = "completed") -> bytes | None:
        """What may be stored, once the whole answer has passed; None when there is nothing that may be.

        `ending` is as in `Outcome.ending`; of an exchange that did not complete nothing is stored, whatever has passed.
        """
        is_awaited = isinstance(self.state, AwaitingResponse) and self.state.stores
        if self._reader is None:
            self._cache.stored = "interrupted" if is_awaited else self._cache.stored
            return None
        try:
            if not self._is_complete or ending != "completed":
                raise NotStorable("interrupted")
            data = self._reader.finish().encode()
        except NotStorable as reason:
            self._cache.stored = str(reason)
            return None
        self._cache.stored = "stored"
        return data

    # -- the record --------------------------------------------------------------------------------------------------

    @property
    def request(self) -> ChatRequest | None:
        """What was asked; None before a body was read."""
        return self._request

    @property
    def readings(self) -> Readings:
        """What was measured, and what could not be."""
        return self._readings

    @property
    def decision(self) -> Decision | None:
        """What was chosen; None before that, and of a request that was refused without asking a rule."""
        return self._decision

    @property
    def cache(self) -> CacheResult:
        """What became of the cache."""
        return self._cache

    @property
    def ending(self) -> str:
        """How an exchange that came to its own end did so; see `Outcome.ending`."""
        if self._reply is not None:
            return "replied"
        if self._is_cut_short:
            return "abandoned"
        if self._is_complete:
            return "completed"
        return "routed" if self._is_routed else "passed"

    @property
    def is_streamed(self) -> bool:
        """The backend answers with a stream of events, and it passes us."""
        return self._recorder is not None and self._recorder.is_event_stream

    @property
    def _response_path(self) -> str:
        if self._reply is not None:
            return self._reply.headers[PATH_HEADER]
        return "upstream" if self._is_routed else "bypass"

    def outcome(self, ending: str) -> Outcome:
        """What is known of the exchange now, without times: the shell adds those. `ending` as in `Outcome.ending`."""
        decision, request = self._decision, self._request
        model = decision.model if decision and not decision.block else None
        category, confidence = category_of(self._readings)
        is_known = request is not None and request.model in self.snapshot.names
        return Outcome(
            ending=ending,
            endpoint=self._endpoint,
            response_path=self._response_path,
            request_id=self._headers.get("x-request-id", ""),
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
            missing={name: reading.reason for name, reading in self._readings.items() if isinstance(reading, Missing)},
            cache=self._cache.status,
            cache_reason=self._cache.reason,
            cache_similarity=self._cache.similarity,
            cache_verified=self._cache.verified,
            cache_entry=self._cache.entry_id,
            stored=self._cache.stored,
            block_reason=(decision.missing or decision.reason) if decision and decision.block else "",
            error_code=self._error.code or "invalid_request" if self._error else "",
            http_status=self._http_status,
            usage=self._recorder.usage if self._recorder else None,
        )

    def _effort(self, decision: Decision | None) -> str:
        if decision is None or decision.reasoning is None:
            return ""
        family = self.snapshot.family_of(decision)
        return effort_of(decision.reasoning, family) if family and family.kind == "reasoning_effort" else ""


def _lookup(
    plan: CachePlan, request: ChatRequest, body: Body, decision: Decision, family: ReasoningFamily | None
) -> Lookup | Ineligible:
    """What to look up, or why nothing is."""
    cache_policy, scope = plan.cache_policy.get(decision.name), plan.scope.of(request.headers)
    if cache_policy is None or scope is None:
        return Ineligible("decision" if cache_policy is None else "no_scope")
    cache_policy = apply_client_controls(cache_policy, plan, request.headers)
    asked = question_of(request, body, decision, scope, plan.limits, plan.versions, family)
    if isinstance(asked, Ineligible):
        return asked
    return Lookup(asked, cache_policy) if cache_policy.may_look_up or cache_policy.may_store else Ineligible("client")
