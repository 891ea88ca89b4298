"""One exchange, event by event: which action answers which event, and what the record holds at the end."""

from __future__ import annotations

import json

import pytest

from router.core.conditions import TokensWithin
from router.core.events import (
    Continue,
    Overloaded,
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
from router.core.exchange import Exchange
from router.core.exchange_record import Usage
from router.core.headers import CLUSTER_HEADER
from router.core.models import Reasoning
from router.core.policy import Default, Rule
from router.core.states import TRANSITIONS
from router.core.types import Missing
from router.errors import ProtocolError
from tests.unit.builders import LARGE, MATH_RULE, SMALL, chat_body, request_headers, send, snapshot, sure


def error_of(action: object) -> dict:
    """The OpenAI error in a reply."""
    assert isinstance(action, Reply)
    error: dict = json.loads(action.body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


# -- routing ---------------------------------------------------------------------------------------------------------


def test_signals_are_read_and_the_question_goes_where_the_rule_says() -> None:
    """Cluster header, decision headers, the new body and its length go out together. Then the exchange is over."""
    exchange = Exchange(snapshot(MATH_RULE))
    assert exchange.receive(request_headers()) == Continue()
    wanted = exchange.receive(RequestBody(chat_body("prove it")))
    assert isinstance(wanted, ReadSignals)
    assert (wanted.wanted, wanted.request.text) == (frozenset({"intent"}), "prove it")
    action = exchange.receive(SignalsRead({"intent": sure("math", 0.876543)}))
    assert isinstance(action, Route)
    assert action.set_headers[CLUSTER_HEADER] == "cluster-large"
    assert action.is_last
    assert action.body is not None
    assert json.loads(action.body)["reasoning_effort"] == "high"
    assert action.set_headers == {
        "x-upstream-cluster": "cluster-large",
        "x-vsr-selected-category": "math",
        "x-vsr-selected-confidence": "0.8765",
        "x-vsr-selected-decision": "proofs",
        "x-vsr-selected-model": "large",
        "x-vsr-selected-reasoning": "on",
        "x-vsr-decision-reason": "matched",
        "x-vsr-response-path": "upstream",
        "content-length": str(len(action.body)),
    }


def test_a_named_model_is_kept_and_no_signal_is_read() -> None:
    """The request goes to that model's cluster under its served name. The rest of the body stays as it was sent."""
    action = send(Exchange(snapshot(MATH_RULE)), chat_body("prove it", model="small"))
    assert isinstance(action, Route)
    assert (action.set_headers[CLUSTER_HEADER], action.body) == ("cluster-small", chat_body("prove it", model="served-small"))
    assert action.set_headers["x-vsr-selected-decision"] == "explicit_model"
    assert action.set_headers["x-vsr-decision-reason"] == "explicit_model"
    assert action.set_headers["x-vsr-selected-category"] == "none"


def test_a_body_that_already_fits_is_left_to_envoy() -> None:
    """There is no new body and no content-length."""
    action = send(Exchange(snapshot()), chat_body(model="large"))
    assert isinstance(action, Route)
    assert action.body is None
    assert "content-length" not in action.set_headers


@pytest.mark.parametrize("alias", ["auto", "MoM"])
def test_every_alias_is_decided(alias: str) -> None:
    """Every alias means "the router chooses"."""
    action = send(Exchange(snapshot()), chat_body(model=alias))
    assert isinstance(action, Route)
    assert action.set_headers["x-vsr-selected-decision"] == "default"


def test_a_missing_reading_goes_to_the_default_and_says_so() -> None:
    """A late classifier costs the decision, never the request."""
    exchange = Exchange(snapshot(MATH_RULE, default=Default(SMALL, Reasoning(False))))
    action = send(exchange, chat_body(), {"intent": Missing("deadline")})
    assert isinstance(action, Route)
    assert action.set_headers["x-vsr-decision-reason"] == "intent_missing"
    assert action.set_headers["x-vsr-selected-category"] == "unknown"
    assert action.set_headers["x-vsr-selected-reasoning"] == "off"
    assert exchange.record(exchange.ending).missing == {"intent": "deadline"}


def test_a_shell_that_brings_no_reading_is_a_fault() -> None:
    """`SignalsRead` has to answer everything that `ReadSignals` asked for."""
    with pytest.raises(ProtocolError, match="intent"):
        send(Exchange(snapshot(MATH_RULE)), chat_body(), {})


@pytest.mark.parametrize(("path", "body"), [("/v1/completions", {"prompt": "x"}), ("/v1/embeddings", {"input": "x"})])
def test_legacy_endpoints_go_by_model_name(path: str, body: dict) -> None:
    """The request goes to the known model's cluster. Only the model's name changes."""
    exchange = Exchange(snapshot(MATH_RULE))
    exchange.receive(request_headers(path))
    action = exchange.receive(RequestBody(json.dumps({"model": "small", **body}).encode()))
    assert isinstance(action, Route)
    assert action.set_headers[CLUSTER_HEADER] == "cluster-small"
    assert action.body is not None
    assert json.loads(action.body) == {"model": "served-small", **body}


def test_completions_can_be_decided_by_size() -> None:
    """`auto` works there too. Reasoning switches and system prompts apply to chat alone."""
    rule = Rule("short", TokensWithin(0, 10), LARGE, reasoning=Reasoning(True))
    exchange = Exchange(snapshot(rule))
    exchange.receive(request_headers("/v1/completions"))
    action = exchange.receive(RequestBody(b'{"model": "auto", "prompt": "once upon"}'))
    assert isinstance(action, Route)
    assert action.body == b'{"model": "large", "prompt": "once upon"}'


def test_embeddings_need_a_model_of_their_own() -> None:
    """The policy chooses among chat models."""
    exchange = Exchange(snapshot())
    exchange.receive(request_headers("/v1/embeddings"))
    error = error_of(exchange.receive(RequestBody(b'{"model": "auto", "input": "x"}')))
    assert error["param"] == "model"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/health"),
        ("POST", "/v1/files"),
        ("POST", "/v1/models"),
        ("GET", "/v1/modelsX"),
    ],
)
def test_other_paths_pass_untouched(method: str, path: str) -> None:
    """The router is done after the headers."""
    exchange = Exchange(snapshot())
    assert exchange.receive(request_headers(path, method)) == Continue(is_last=True)
    assert exchange.record(exchange.ending).endpoint == "other"


def test_a_query_string_does_not_hide_the_path() -> None:
    """Azure-style `?api-version=` is common."""
    exchange = Exchange(snapshot())
    assert exchange.receive(request_headers("/v1/chat/completions?api-version=1")) == Continue()


# -- replies ---------------------------------------------------------------------------------------------------------


def test_an_unknown_model_is_a_404_that_names_the_known_ones() -> None:
    """The error has OpenAI's message and code."""
    error = error_of(send(Exchange(snapshot()), chat_body(model="gpt-9")))
    assert (error["code"], error["param"], error["type"]) == ("model_not_found", "model", "invalid_request_error")
    assert "auto, MoM, small, large, coder" in error["message"]


def test_an_endless_unknown_model_name_is_cut_short() -> None:
    """The error does not send a client's megabyte back."""
    reply = send(Exchange(snapshot()), chat_body(model="x" * 5000))
    assert isinstance(reply, Reply)
    assert len(reply.body) < 500


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"content_encoding": "gzip"}, 415, "unsupported_encoding"),
        ({"content_length": "10001"}, 413, "body_too_large"),
        ({"content_length": "0" * 6000 + "10001"}, 413, "body_too_large"),
        ({"content_length": "9" * 6000}, 413, "body_too_large"),
    ],
)
def test_what_cannot_be_read_is_refused_before_the_body_comes(headers: dict, status: int, code: str) -> None:
    """No megabytes are buffered for an answer that is already known."""
    reply = Exchange(snapshot()).receive(request_headers(**headers))
    assert isinstance(reply, Reply)
    assert (reply.http_status, error_of(reply)["code"]) == (status, code)


def test_an_identity_encoding_is_no_encoding() -> None:
    """Some clients send `identity`."""
    assert Exchange(snapshot()).receive(request_headers(content_encoding="Identity")) == Continue()


def test_a_body_without_a_length_is_measured_when_it_is_there() -> None:
    """Chunked requests meet the same limit."""
    reply = send(Exchange(snapshot(max_body_bytes=50)), chat_body("x" * 100))
    assert isinstance(reply, Reply)
    assert reply.http_status == 413


def test_a_request_without_a_body_is_told_so() -> None:
    """Envoy sends no body message for such a request, so the router answers the headers."""
    error = error_of(Exchange(snapshot()).receive(request_headers(is_end=True)))
    assert "empty" in error["message"]


def test_broken_json_is_a_400() -> None:
    """The record says so as well."""
    exchange = Exchange(snapshot())
    reply = send(exchange, b'{"model": ')
    assert isinstance(reply, Reply)
    assert (reply.http_status, reply.headers["x-vsr-response-path"]) == (400, "error")
    record = exchange.record(exchange.ending)
    assert (record.ending, record.error_code, record.http_status) == ("replied", "invalid_json", 400)
    assert (record.response_path, record.requested_model) == ("error", "")


def test_the_models_are_listed() -> None:
    """Aliases come first, then the configured models, in OpenAI's shape."""
    exchange = Exchange(snapshot())
    reply = exchange.receive(request_headers("/v1/models", "GET", is_end=True))
    assert isinstance(reply, Reply)
    document = json.loads(reply.body)
    assert document["object"] == "list"
    assert [card["id"] for card in document["data"]] == ["auto", "MoM", "small", "large", "coder"]
    assert document["data"][0] == {
        "id": "auto",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "semantic-router",
    }
    assert exchange.record(exchange.ending).response_path == "models"


def test_one_model_is_shown_and_an_unknown_one_is_404() -> None:
    """The id may be percent-encoded, as names with slashes are."""
    found = Exchange(snapshot()).receive(request_headers("/v1/models/%73mall", "GET", is_end=True))
    assert isinstance(found, Reply)
    assert json.loads(found.body)["id"] == "small"
    unknown = Exchange(snapshot()).receive(request_headers("/v1/models/nope", "GET", is_end=True))
    assert error_of(unknown)["code"] == "model_not_found"


# -- the response, when it is recorded -------------------------------------------------------------------------------

USAGE = '{"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}'


def answered(body: bytes, content_type: str, **more: str) -> Exchange:
    """An exchange that records usage and has received its response headers."""
    exchange = Exchange(snapshot(records_usage=True))
    route = send(exchange, body)
    assert isinstance(route, Route)
    assert not route.is_last
    assert route.remove_headers == ("accept-encoding",)
    exchange.receive(ResponseHeaders({":status": "200", "content-type": content_type, **more}, is_end=False))
    return exchange


def test_the_extra_usage_chunk_is_read_and_not_shown() -> None:
    """The client did not ask for that chunk. Everything else passes unchanged."""
    exchange = answered(chat_body(stream=True), "text/event-stream")
    assert exchange.receive(ResponseBody(b'data: {"choices": [{}]}\n\n', is_end=False)) == Continue()
    assert exchange.receive(ResponseBody(f"data: {USAGE}\n\ndata: [DO".encode(), is_end=False)) == Replace(b"")
    assert exchange.receive(ResponseBody(b"NE]\n\n", is_end=True)) == Replace(b"data: [DONE]\n\n", is_last=True)
    record = exchange.record(exchange.ending)
    assert (record.ending, record.usage, record.http_status) == ("completed", Usage(3, 5), 200)


def test_a_client_that_asked_for_usage_gets_it() -> None:
    """Usage is read in passing, and no byte is held back."""
    exchange = answered(chat_body(stream=True, stream_options={"include_usage": True}), "text/event-stream")
    chunk = f"data: {USAGE}\n\ndata: [DO".encode()
    assert exchange.receive(ResponseBody(chunk, is_end=False)) == Continue()
    assert exchange.record("abandoned").usage == Usage(3, 5)


def test_usage_is_read_from_json_answers() -> None:
    """The answer may come in any number of chunks."""
    exchange = answered(chat_body(), "application/json")
    document = b'{"choices": [{}], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}'
    assert exchange.receive(ResponseBody(document[:20], is_end=False)) == Continue()
    assert exchange.receive(ResponseBody(document[20:], is_end=True)) == Continue(is_last=True)
    assert exchange.record(exchange.ending).usage == Usage(7, 2)


@pytest.mark.parametrize("headers", [{":status": "503"}, {":status": "200", "content-encoding": "gzip"}, {":status": "x"}])
def test_answers_that_cannot_be_read_pass_without_us(headers: dict) -> None:
    """Errors and compressed bodies are not read."""
    exchange = Exchange(snapshot(records_usage=True))
    send(exchange, chat_body())
    assert exchange.receive(ResponseHeaders(headers, is_end=False)) == Continue(is_last=True)


def test_trailers_pass() -> None:
    """They pass in every phase in which Envoy may send them."""
    exchange = answered(chat_body(), "application/json")
    assert exchange.receive(Trailers()) == Continue()


# -- the machine -----------------------------------------------------------------------------------------------------

EVENTS = {
    "RequestHeaders": request_headers(),
    "RequestBody": RequestBody(chat_body()),
    "SignalsRead": SignalsRead({"intent": sure("math")}),
    "ResponseHeaders": ResponseHeaders({":status": "200"}, is_end=False),
    "ResponseBody": ResponseBody(b"x", is_end=False),
    "Trailers": Trailers(),
}
STEPS = ["RequestHeaders", "RequestBody", "SignalsRead", "ResponseHeaders", "ResponseBody"]
FOREIGN = ["ResponseHeaders", "ResponseBody"]
"""Events of an answer that Envoy gives itself."""
ALLOWED = {
    0: ["RequestHeaders", *FOREIGN],
    1: ["RequestBody", "Trailers", *FOREIGN],
    2: ["SignalsRead"],
    3: ["ResponseHeaders", "Trailers"],
}


JOURNEYS = {
    "routed": [request_headers(), RequestBody(chat_body()), EVENTS["SignalsRead"]],
    "recorded": [
        *[EVENTS[name] for name in ("RequestHeaders", "RequestBody", "SignalsRead", "ResponseHeaders")],
        ResponseBody(b"x", True),
    ],
    "not read": [request_headers(), RequestBody(chat_body(model="small")), ResponseHeaders({":status": "500"}, is_end=False)],
    "refused": [request_headers(), RequestBody(b"{")],
    "foreign": [request_headers(), ResponseHeaders({":status": "413"}, is_end=False)],
    "large": [request_headers(), RequestBody(chat_body("x" * 300_000)), Resumed(), Resumed(), EVENTS["SignalsRead"], Resumed()],
    "overloaded": [request_headers(), RequestBody(chat_body("x" * 300_000)), Overloaded()],
}


@pytest.mark.parametrize("name", JOURNEYS)
def test_an_exchange_goes_only_where_the_transitions_say(name: str) -> None:
    """Every change of state is one that the table allows."""
    exchange = Exchange(snapshot(MATH_RULE, max_body_bytes=1 << 20, records_usage=name in ("recorded", "not read")))
    for event in JOURNEYS[name]:
        before = type(exchange.state)
        exchange.receive(event)
        assert type(exchange.state) in TRANSITIONS[before][type(event)]


@pytest.mark.parametrize("step", range(4))
@pytest.mark.parametrize("name", EVENTS)
def test_only_the_events_of_a_state_are_taken(step: int, name: str) -> None:
    """Any other event ends the stream, and Envoy's failure policy takes over."""
    exchange = Exchange(snapshot(MATH_RULE, records_usage=True))
    for passed in STEPS[:step]:
        exchange.receive(EVENTS[passed])
    if name in ALLOWED[step]:
        exchange.receive(EVENTS[name])
    else:
        with pytest.raises(ProtocolError, match=name):
            exchange.receive(EVENTS[name])


@pytest.mark.parametrize("name", EVENTS)
def test_nothing_comes_after_the_end(name: str) -> None:
    """A finished exchange takes no more events."""
    exchange = Exchange(snapshot())
    send(exchange, chat_body())
    with pytest.raises(ProtocolError):
        exchange.receive(EVENTS[name])


def test_the_record_of_an_abandoned_exchange_holds_what_was_known() -> None:
    """The client left while signals were being read."""
    exchange = Exchange(snapshot(MATH_RULE))
    exchange.receive(RequestHeaders({**request_headers().headers, "x-request-id": "abc"}, is_end=False))
    exchange.receive(RequestBody(chat_body(stream=True)))
    record = exchange.record("abandoned")
    assert (record.request_id, record.endpoint, record.requested_model) == ("abc", "chat", "auto")
    assert (record.is_stream, record.model, record.category) == (True, "", "none")


# -- bypassing the router ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/chat%2Fcompletions", "/v1/chat/complet%69ons?x=1", "/v1%2fchat%2Fcompletions"])
def test_a_path_is_read_as_the_models_decode_it(path: str) -> None:
    """Envoy may not decode it, but the model would, and would serve the path as a chat."""
    exchange = Exchange(snapshot())
    assert exchange.receive(request_headers(path)) == Continue()
    assert isinstance(exchange.receive(RequestBody(chat_body())), Route)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "post", "GET"])
def test_a_body_by_another_method_is_refused(method: str) -> None:
    """Such a body would pass unread. A request without a body passes, such as a browser's OPTIONS."""
    exchange = Exchange(snapshot())
    action = exchange.receive(request_headers(method=method))
    assert isinstance(action, Reply)
    assert (action.http_status, error_of(action)["code"]) == (405, "method_not_allowed")
    assert Exchange(snapshot()).receive(request_headers(method=method, is_end=True)) == Continue(is_last=True)


@pytest.mark.parametrize("has_headers", [False, True])
@pytest.mark.parametrize("answer", [ResponseHeaders({":status": "400"}, is_end=False), ResponseBody(b"bad", is_end=True)])
def test_an_answer_of_envoys_own_passes(has_headers: bool, answer: ResponseHeaders | ResponseBody) -> None:
    """Envoy answers a malformed path, or a body that is too large or too slow. The record says that it was cut short."""
    exchange = Exchange(snapshot())
    if has_headers:
        exchange.receive(request_headers())
    assert exchange.receive(answer) == Continue(is_last=True)
    assert exchange.record(exchange.ending).ending == "abandoned"
