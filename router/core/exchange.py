"""One request and its response through ext_proc, as a pure state machine: an event comes in, one action goes out.

No I/O, no clock, no logging. The shell carries out what is returned and never decides anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from router.core.chat import Body, parse
from router.core.policy import Policy, Readings, Unread
from router.core.recorder import UsageRecorder
from router.core.replies import error_reply, models_reply, unknown_model
from router.core.rewrite import effort_of, rewrite
from router.core.types import (
    Action,
    ChatRequest,
    Classification,
    Continue,
    Decision,
    Endpoint,
    Event,
    Missing,
    Model,
    Outcome,
    ReasoningFamily,
    Replace,
    Reply,
    RequestBody,
    RequestHeaders,
    ResponseBody,
    ResponseHeaders,
    Route,
    Sense,
    Sensed,
    Trailers,
)
from router.errors import ProtocolError, RequestError

CLUSTER_HEADER = "x-upstream-cluster"
"""The header that envoy.yaml's `cluster_header` routes name."""
PATH_HEADER = "x-vsr-response-path"
"""Who answered: see `Outcome.response_path`. Envoy presets `bypass`."""
MODELS_PATH = "/v1/models"
_ENDPOINTS = {endpoint.value: endpoint for endpoint in Endpoint}
_OK = 200


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The immutable configuration of one exchange, from its first event to its last."""

    policy: Policy
    models: Mapping[str, Model]
    """By the name that clients ask for."""
    auto_models: tuple[str, ...]
    """Names that leave the choice to the policy."""
    families: Mapping[str, ReasoningFamily]
    max_body_bytes: int
    records_usage: bool = False
    """Read token counts from answers; the response then passes through the exchange."""
    started_s: int = 0
    """Unix time given as `created` in the list of models."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every model name that a client may send."""
        return (*self.auto_models, *self.models)

    def family_of(self, decision: Decision) -> ReasoningFamily | None:
        """The reasoning family of the chosen model, if it has one."""
        return self.families.get(decision.model.reasoning_family or "")


# -- states: each holds what its events need, and nothing longer than that ---------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Nothing came yet."""


@dataclass(frozen=True, slots=True)
class AwaitingBody:
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class Sensing:
    """The shell is measuring."""

    request: ChatRequest
    body: Body


@dataclass(frozen=True, slots=True)
class AwaitingResponse:
    request: ChatRequest


@dataclass(frozen=True, slots=True)
class Answering:
    recorder: UsageRecorder


@dataclass(frozen=True, slots=True)
class Done:
    """The rest passes without us."""


State = Start | AwaitingBody | Sensing | AwaitingResponse | Answering | Done


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
            case Sensing(request, body), Sensed(readings):
                return self._on_sensed(request, body, readings)
            case AwaitingResponse(request), ResponseHeaders():
                return self._on_response_headers(request, event)
            case Answering(recorder), ResponseBody(data, is_end):
                return self._on_response_body(recorder, data, is_end)
            case ((AwaitingBody() | AwaitingResponse() | Answering()), Trailers()):
                return Continue()
            case _:
                raise ProtocolError(f"{type(event).__name__} came in state {type(self.state).__name__}")

    # -- the request -------------------------------------------------------------------------------------------------

    def _on_request_headers(self, event: RequestHeaders) -> Action:
        self._headers = event.headers
        method = event.headers.get(":method", "")
        path = event.headers.get(":path", "").partition("?")[0]
        if method == "GET" and (path == MODELS_PATH or path.startswith(f"{MODELS_PATH}/")):
            self._endpoint = "models"
            wanted = unquote(path[len(MODELS_PATH) + 1 :]) or None
            return self._finish_with(models_reply(self.snapshot.names, wanted, self.snapshot.started_s))
        endpoint = _ENDPOINTS.get(path) if method == "POST" else None
        if endpoint is None:
            self.state = Done()
            return Continue(is_last=True)
        self._endpoint = endpoint.name.lower()
        _check_headers(event, self.snapshot.max_body_bytes)
        self.state = AwaitingBody(endpoint)
        return Continue()

    def _on_request_body(self, endpoint: Endpoint, data: bytes) -> Action:
        _check_size(len(data), self.snapshot.max_body_bytes)
        request, body = parse(endpoint, data, self._headers)
        self._request = request
        if request.model not in self.snapshot.auto_models:
            return self._route(request, body, self._direct(request.model))
        if endpoint is Endpoint.EMBEDDINGS:
            names = ", ".join(self.snapshot.models)
            message = f"'{request.model}' chooses among chat models; name an embedding model itself. Known models: {names}"
            raise RequestError(400, message, param="model", code="model_not_supported")
        decided = self.snapshot.policy.decide(request, self._readings)
        if isinstance(decided, Unread):
            self.state = Sensing(request, body)
            return Sense(request, decided.signals)
        return self._route(request, body, decided)

    def _direct(self, name: str) -> Decision:
        model = self.snapshot.models.get(name)
        if model is None:
            raise unknown_model(name, self.snapshot.names)
        return Decision("direct", model, "concrete_model")

    def _on_sensed(self, request: ChatRequest, body: Body, readings: Readings) -> Action:
        self._readings = readings
        decided = self.snapshot.policy.decide(request, readings)
        if isinstance(decided, Unread):
            raise ProtocolError(f"the shell brought no reading of {', '.join(sorted(decided.signals))}")
        return self._route(request, body, decided)

    def _route(self, request: ChatRequest, body: Body, decision: Decision) -> Action:
        self._decision = decision
        records = self.snapshot.records_usage and request.endpoint is not Endpoint.EMBEDDINGS
        rewritten = rewrite(body, request, decision, self.snapshot.family_of(decision), needs_usage=records)
        headers = decision_headers(decision, self._readings)
        if rewritten is not None:
            headers["content-length"] = str(len(rewritten))
        self.state = AwaitingResponse(request) if records else Done()
        # A compressed answer could neither be read nor have its extra chunk taken out.
        removed = ("accept-encoding",) if records else ()
        return Route(decision.model.cluster, headers, rewritten, removed, is_last=not records)

    # -- the response ------------------------------------------------------------------------------------------------

    def _on_response_headers(self, request: ChatRequest, event: ResponseHeaders) -> Action:
        status = event.headers.get(":status", "")
        self._http_status = int(status) if status.isdecimal() else 0
        if event.is_end or self._http_status != _OK or "content-encoding" in event.headers:
            self.state = Done()
            return Continue(is_last=True)
        is_event_stream = event.headers.get("content-type", "").startswith("text/event-stream")
        self._recorder = UsageRecorder(is_event_stream, hides_usage=is_event_stream and not request.wants_usage)
        self.state = Answering(self._recorder)
        return Continue()

    def _on_response_body(self, recorder: UsageRecorder, data: bytes, is_end: bool) -> Action:
        shown = recorder.feed(data, is_end)
        if is_end:
            self.state = Done()
        return Continue(is_last=is_end) if shown == data else Replace(shown, is_last=is_end)

    def _finish_with(self, reply: Reply) -> Reply:
        self.state, self._reply, self._http_status = Done(), reply, reply.http_status
        return reply

    # -- the record --------------------------------------------------------------------------------------------------

    @property
    def request(self) -> ChatRequest | None:
        """What was asked; None before a body was read."""
        return self._request

    @property
    def ending(self) -> str:
        """How an exchange that came to its own end did so; see `Outcome.ending`."""
        if self._reply is not None:
            return "replied"
        return "completed" if self._http_status else "routed"

    def outcome(self, ending: str) -> Outcome:
        """What is known of the exchange now, without times: the shell adds those. `ending` as in `Outcome.ending`."""
        decision, request = self._decision, self._request
        category, confidence = category_of(self._readings)
        is_known = request is not None and request.model in self.snapshot.names
        return Outcome(
            ending=ending,
            endpoint=self._endpoint,
            response_path=self._reply.headers[PATH_HEADER] if self._reply else "upstream",
            request_id=self._headers.get("x-request-id", ""),
            requested_model=request.model if request and is_known else "",
            model=decision.model.name if decision else "",
            cluster=decision.model.cluster if decision else "",
            decision=decision.name if decision else "",
            reason=decision.reason if decision else "",
            category=category,
            confidence=confidence,
            reasoning=_reasoning_word(decision),
            effort=self._effort(decision),
            is_stream=request is not None and request.is_stream,
            missing={name: reading.reason for name, reading in self._readings.items() if isinstance(reading, Missing)},
            error_code=self._error.code or "invalid_request" if self._error else "",
            http_status=self._http_status,
            usage=self._recorder.usage if self._recorder else None,
        )

    def _effort(self, decision: Decision | None) -> str:
        if decision is None or decision.reasoning is None:
            return ""
        family = self.snapshot.family_of(decision)
        return effort_of(decision.reasoning, family) if family and family.kind == "reasoning_effort" else ""


def decision_headers(decision: Decision, readings: Readings) -> dict[str, str]:
    """The request headers that carry a decision: the first picks the cluster, Envoy copies the rest to the response."""
    category, confidence = category_of(readings)
    return {
        CLUSTER_HEADER: decision.model.cluster,
        "x-vsr-selected-category": category,
        "x-vsr-selected-confidence": f"{confidence:.4f}",
        "x-vsr-selected-decision": decision.name,
        "x-vsr-selected-model": decision.model.name,
        "x-vsr-selected-reasoning": _reasoning_word(decision),
        "x-vsr-decision-reason": decision.reason,
        PATH_HEADER: "upstream",
    }


def category_of(readings: Readings) -> tuple[str, float]:
    """The intent's label and confidence; `none` when no rule asked for it, `unknown` when it could not be measured."""
    match readings.get("intent"):
        case Classification(label, confidence):
            return label, confidence
        case Missing():
            return "unknown", 0.0
        case _:
            return "none", 0.0


def _reasoning_word(decision: Decision | None) -> str:
    if decision is None or decision.reasoning is None:
        return "unchanged"
    return "on" if decision.reasoning.enabled else "off"


def _check_headers(event: RequestHeaders, max_body_bytes: int) -> None:
    encoding = event.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        message = "this 'content-encoding' is not supported; send the body uncompressed"
        raise RequestError(415, message, param="content-encoding", code="unsupported_encoding")
    length = event.headers.get("content-length", "")
    if length.isdecimal():
        _check_size(int(length), max_body_bytes)
    if event.is_end:
        raise RequestError(400, "the body is empty; a JSON object was expected", code="invalid_json")


def _check_size(size_bytes: int, max_body_bytes: int) -> None:
    if size_bytes > max_body_bytes:
        message = f"the body is larger than this router's limit of {max_body_bytes} bytes"
        raise RequestError(413, message, code="body_too_large")
