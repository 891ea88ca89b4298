"""Turns Envoy's ext_proc messages into events, and actions into Envoy's messages. The only module that knows protobuf.

Two rules of Envoy 1.40 are kept here. Header values travel only in `raw_value`. A `ProcessingResponse` always names the
phase that it answers, because an empty one violates the protocol.
"""

from __future__ import annotations

from collections.abc import Mapping

from router.core.events import (
    Action,
    Continue,
    Event,
    Lookup,
    Pause,
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
from router.extproc.pb import extproc_pb2 as pb

SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
"""Name of the gRPC service. Envoy's health checks ask for this name, too."""

parse_request = pb.ProcessingRequest.FromString
serialize_response = pb.ProcessingResponse.SerializeToString


def decode(message: pb.ProcessingRequest) -> tuple[str, Event]:
    """The phase of a message of Envoy, which `encode` needs, and its event.

    Raises:
        ProtocolError: the phase of the message is unknown.
    """
    phase = message.WhichOneof("request")
    match phase:
        case "request_headers":
            part = message.request_headers
            return phase, RequestHeaders(_headers(part.headers), part.end_of_stream)
        case "response_headers":
            part = message.response_headers
            return phase, ResponseHeaders(_headers(part.headers), part.end_of_stream)
        case "request_body":
            return phase, RequestBody(message.request_body.body)
        case "response_body":
            return phase, ResponseBody(message.response_body.body, message.response_body.end_of_stream)
        case "request_trailers" | "response_trailers":
            return phase, Trailers()
        case _:
            raise ProtocolError("a message of an unknown phase")


def encode(phase: str, action: Action) -> pb.ProcessingResponse:
    """The response to a message of `phase` that carries out `action`.

    Raises:
        ProtocolError: the action is for the shell, not for Envoy.
    """
    response = pb.ProcessingResponse()
    match action:
        case Continue():
            getattr(response, phase).SetInParent()  # names the phase and changes nothing
        case Route():
            _encode_route(getattr(response, phase).response, action)
        case Replace():
            getattr(response, phase).response.body_mutation.body = action.data
        case Reply():
            _encode_reply(response.immediate_response, action)
        case Pause() | ReadSignals() | Lookup():
            raise ProtocolError(f"{type(action).__name__} is for the shell, not for Envoy")
    return response


def more_time(seconds: float) -> pb.ProcessingResponse:
    """A message that asks Envoy to wait longer. Envoy grants this once, up to `max_message_timeout`."""
    response = pb.ProcessingResponse()
    response.override_message_timeout.FromMilliseconds(int(seconds * 1000))
    return response


def is_last(action: Action) -> bool:
    """Whether the gRPC stream ends with this action. The rest of the exchange then passes without the router."""
    return isinstance(action, Reply) or (isinstance(action, Continue | Route | Replace) and action.is_last)


def _encode_route(common: pb.CommonResponse, route: Route) -> None:
    # Without this flag, Envoy keeps the route and cluster that it chose before it asked the router.
    common.clear_route_cache = True
    _set_headers(common.header_mutation, route.set_headers)
    common.header_mutation.remove_headers.extend(route.remove_headers)
    if route.body is not None:
        common.body_mutation.body = route.body


def _encode_reply(immediate: pb.ImmediateResponse, reply: Reply) -> None:
    immediate.status.code = reply.http_status
    _set_headers(immediate.headers, reply.headers)
    immediate.body = reply.body
    immediate.details = reply.details


def _set_headers(mutation: pb.HeaderMutation, headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        header = mutation.set_headers.add().header
        header.key = name
        header.raw_value = _header_bytes(value)


def _header_bytes(value: str) -> bytes:
    """A value that Envoy accepts. With CR, LF or NUL in it, the client would get a 500, even when Envoy fails open."""
    return value.replace("\r", " ").replace("\n", " ").replace("\0", " ").encode("utf-8", "replace")


def _headers(headers: pb.HeaderMap) -> dict[str, str]:
    """Headers by name. Bytes that are not UTF-8 become surrogates, so different values stay different and can be encoded back."""
    decoded: dict[str, str] = {}
    for header in headers.headers:
        name, value = header.key, header.raw_value.decode("utf-8", "surrogateescape")
        decoded[name] = f"{decoded[name]}, {value}" if name in decoded else value
    return decoded
