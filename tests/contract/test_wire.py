"""Our wire bytes agree with an independent judge: envoy-data-plane's copy of Envoy's own protos."""

from __future__ import annotations

import dataclasses

import pytest
from envoy_data_plane.envoy.config.core import v3 as envoy_core
from envoy_data_plane.envoy.extensions.filters.http.ext_proc import v3 as envoy_filter
from envoy_data_plane.envoy.service.ext_proc import v3 as envoy
from envoy_data_plane.envoy.type import v3 as envoy_type
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from router.core.events import (
    Action,
    Continue,
    Event,
    ReadSignals,
    Replace,
    Reply,
    RequestBody,
    RequestHeaders,
    ResponseBody,
    ResponseHeaders,
    Route,
    Trailers,
)
from router.errors import ProtocolError
from router.extproc import wire
from router.extproc.pb import extproc_pb2 as pb
from tests.unit.builders import ask

PHASES = [
    "request_headers",
    "request_body",
    "response_headers",
    "response_body",
    "request_trailers",
    "response_trailers",
]

ENVOYS = {
    "HeaderValue": [envoy_core.HeaderValue],
    "HeaderMap": [envoy_core.HeaderMap],
    "HeaderValueOption": [envoy_core.HeaderValueOption],
    "HttpHeaders": [envoy.HttpHeaders],
    "HttpBody": [envoy.HttpBody],
    "HttpTrailers": [envoy.HttpTrailers],
    "ProtocolConfiguration": [envoy.ProtocolConfiguration],
    "ProcessingRequest": [envoy.ProcessingRequest],
    "HeaderMutation": [envoy.HeaderMutation],
    "BodyMutation": [envoy.BodyMutation],
    "CommonResponse": [envoy.CommonResponse],
    "PhaseResponse": [envoy.HeadersResponse, envoy.BodyResponse],
    "TrailersResponse": [envoy.TrailersResponse],
    "HttpStatus": [envoy_type.HttpStatus],
    "ImmediateResponse": [envoy.ImmediateResponse],
    "ProcessingMode": [envoy_filter.ProcessingMode],
    "ProcessingResponse": [envoy.ProcessingResponse],
}
"""Which of Envoy's messages each of ours stands for."""

KINDS = {
    FieldDescriptor.TYPE_MESSAGE: {"message", "map"},
    FieldDescriptor.TYPE_BYTES: {"bytes"},
    FieldDescriptor.TYPE_STRING: {"string"},
    FieldDescriptor.TYPE_BOOL: {"bool"},
    FieldDescriptor.TYPE_ENUM: {"enum"},
    FieldDescriptor.TYPE_INT32: {"enum", "int32"},  # an enum travels as its number
}


def as_envoy_reads(phase: str, action: Action) -> envoy.ProcessingResponse:
    """The reply, decoded by the other implementation."""
    return envoy.ProcessingResponse.parse(wire.serialize_response(wire.encode(phase, action)))


def as_we_read(request: envoy.ProcessingRequest) -> tuple[str, Event]:
    """A message encoded by the other implementation, decoded by ours."""
    return wire.decode(wire.parse_request(bytes(request)))


def header_map(*headers: tuple[str, str]) -> envoy_core.HeaderMap:
    """Headers as Envoy sends them: in `raw_value`."""
    values = [envoy_core.HeaderValue(key=key, raw_value=value.encode()) for key, value in headers]
    return envoy_core.HeaderMap(headers=values)


def sent_headers(mutation: envoy.HeaderMutation | None) -> dict[str, bytes]:
    """What Envoy would set. Envoy reads only `raw_value`, and ignores `append_action`."""
    assert mutation is not None
    options = [option.header for option in mutation.set_headers if option.header is not None]
    assert all(header.value == "" for header in options)
    return {header.key: header.raw_value for header in options}


@pytest.mark.parametrize("message", pb.DESCRIPTOR.message_types_by_name.values(), ids=lambda message: message.name)
def test_every_field_is_envoys_own(message: Descriptor) -> None:
    """Name, number and wire type are those of Envoy's proto."""
    for theirs in ENVOYS[message.name]:
        fields = {field.name: field.metadata["betterproto"] for field in dataclasses.fields(theirs)}
        for field in message.fields:
            envoys = fields[field.name]
            assert field.number == envoys.number, field.full_name
            assert envoys.proto_type in KINDS[field.type], field.full_name


@pytest.mark.parametrize(
    ("message", "phase", "event"),
    [
        (
            envoy.ProcessingRequest(
                request_headers=envoy.HttpHeaders(
                    headers=header_map((":path", "/v1"), ("x-a", "1"), ("x-a", "2"), ("x-b", "é")), end_of_stream=True
                )
            ),
            "request_headers",
            RequestHeaders({":path": "/v1", "x-a": "1, 2", "x-b": "é"}, is_end=True),
        ),
        (
            envoy.ProcessingRequest(request_body=envoy.HttpBody(body=b"\x00{", end_of_stream=True)),
            "request_body",
            RequestBody(b"\x00{"),
        ),
        (
            envoy.ProcessingRequest(response_headers=envoy.HttpHeaders(headers=header_map((":status", "200")))),
            "response_headers",
            ResponseHeaders({":status": "200"}, is_end=False),
        ),
        (
            envoy.ProcessingRequest(response_body=envoy.HttpBody(body=b"data", end_of_stream=False)),
            "response_body",
            ResponseBody(b"data", is_end=False),
        ),
        (envoy.ProcessingRequest(request_trailers=envoy.HttpTrailers()), "request_trailers", Trailers()),
        (envoy.ProcessingRequest(response_trailers=envoy.HttpTrailers()), "response_trailers", Trailers()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_envoys_messages_become_events(message: envoy.ProcessingRequest, phase: str, event: Event) -> None:
    """Every message that Envoy may send is understood."""
    assert as_we_read(message) == (phase, event)


def test_a_message_of_no_known_phase_is_a_protocol_error() -> None:
    """A newer Envoy may send a phase that we do not know."""
    with pytest.raises(ProtocolError):
        wire.decode(pb.ProcessingRequest())


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("is_last", [True, False])
def test_a_continue_names_its_phase(phase: str, is_last: bool) -> None:
    """An empty reply would violate the protocol and, under fail-open, cause a silent bypass."""
    response = as_envoy_reads(phase, Continue(is_last))
    assert getattr(response, phase) is not None
    assert [other for other in PHASES if getattr(response, other) is not None] == [phase]


def test_a_route_sets_the_cluster_and_clears_the_route() -> None:
    """One reply has the header mutation, the body and `clear_route_cache`. Without the flag the header would change nothing."""
    route = Route({"x-upstream-cluster": "big", "content-length": "4"}, b"body", ("accept-encoding",))
    common = as_envoy_reads("request_body", route).request_body.response
    assert common.clear_route_cache
    assert common.body_mutation.body == b"body"
    assert sent_headers(common.header_mutation) == {"x-upstream-cluster": b"big", "content-length": b"4"}
    assert common.header_mutation.remove_headers == ["accept-encoding"]


def test_a_route_without_a_body_leaves_envoys() -> None:
    """There is no body mutation. An empty one would empty the body."""
    common = as_envoy_reads("request_body", Route({"x-upstream-cluster": "big"})).request_body.response
    assert common.body_mutation is None


def test_a_replaced_chunk_may_become_empty() -> None:
    """An empty body mutation is still a mutation."""
    mutation = as_envoy_reads("response_body", Replace(b"")).response_body.response.body_mutation
    assert mutation is not None
    assert mutation.body == b""


def test_a_reply_is_an_immediate_response() -> None:
    """It has status, headers, body and details."""
    reply = Reply(404, {"content-type": "application/json"}, b"{}", "sr_model_not_found")
    immediate = as_envoy_reads("request_body", reply).immediate_response
    assert (immediate.status.code, immediate.body, immediate.details) == (404, b"{}", "sr_model_not_found")
    assert sent_headers(immediate.headers) == {"content-type": b"application/json"}


@pytest.mark.parametrize("value", ["a\r\nx-evil: 1", "a\nb", "a\0b", "a\ud83d"])
def test_no_header_value_can_break_the_response(value: str) -> None:
    """CR, LF and NUL would cause a 500 in Envoy even with fail-open. Half a character cannot be encoded."""
    common = as_envoy_reads("request_body", Route({"x-vsr-selected-model": value})).request_body.response
    sent = sent_headers(common.header_mutation)["x-vsr-selected-model"]
    assert sent.startswith(b"a")
    assert not set(sent) & set(b"\r\n\0")


def test_reading_signals_is_never_a_message_to_envoy() -> None:
    """The shell carries it out."""
    with pytest.raises(ProtocolError):
        wire.encode("request_body", ReadSignals(ask(), frozenset()))


def test_the_stream_ends_with_replies_and_last_actions_alone() -> None:
    """This decides how long Envoy keeps us in the exchange."""
    last = [Reply(400, {}, b"", ""), Continue(is_last=True), Route({}), Replace(b"", is_last=True)]
    open_ = [Continue(), Route({}, is_last=False), Replace(b""), ReadSignals(ask(), frozenset())]
    assert [wire.is_last(action) for action in last] == [True] * 4
    assert [wire.is_last(action) for action in open_] == [False] * 4
