"""An answer that the router itself gives reaches the client unchanged, whatever Envoy does with similar statuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc
import httpx2 as httpx
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from router.core.events import Continue
from router.core.openai.replies import error_reply
from router.errors import RequestError
from router.extproc import wire
from router.extproc.pb import extproc_pb2 as pb
from tests.e2e.stack import Stack


def answer(messages: Iterator[pb.ProcessingRequest], context: grpc.ServicerContext) -> Iterator[pb.ProcessingResponse]:
    """Refuse with the status and code that the request's headers name."""
    wanted: dict[str, str] = {}
    for message in messages:
        phase, event = wire.decode(message)
        headers = getattr(event, "headers", None)
        if headers is not None:
            wanted = dict(headers)
            yield wire.encode(phase, Continue())
            continue
        error = RequestError(int(wanted["x-status"]), "words of the router's own", code=wanted["x-code"])
        yield wire.encode(phase, error_reply(error))
        return


@dataclass
class Refusing(Stack):
    """A stack whose router refuses every request, in a way that the request names."""

    server: grpc.Server = field(default_factory=lambda: grpc.server(ThreadPoolExecutor(8)))

    def start_router(self) -> None:
        """Start the router in this process."""
        method = grpc.stream_stream_rpc_method_handler(answer, wire.parse_request, wire.serialize_response)
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(wire.SERVICE, {"Process": method}),))
        states = health.HealthServicer()
        states.set(wire.SERVICE, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(states, self.server)
        assert self.server.add_insecure_port(f"127.0.0.1:{self.router_port}")
        self.server.start()

    def stop(self) -> None:
        """Stop the router as well."""
        super().stop()
        self.server.stop(None).wait()


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Refusing]:
    """One stack for all tests."""
    stack = Refusing(tmp_path_factory.mktemp("refusing"))
    try:
        yield stack.start()  # type: ignore[misc]
    finally:
        stack.stop()


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (503, "unreadable"),
        (503, "overloaded"),
        (504, "not_cached"),
        (413, "body_too_complex"),
        (403, "blocked"),
        (404, "model_not_found"),
    ],
)
def test_an_answer_of_the_routers_own_keeps_its_words(refusing: Refusing, status: int, code: str) -> None:
    """Envoy rewrites its own 413, 503 and 504 in OpenAI's shape. The router's have words of their own."""
    headers = {"x-status": str(status), "x-code": code}
    answered = httpx.post(f"{refusing.url}/v1/chat/completions", json={"model": "auto"}, headers=headers)
    assert answered.status_code == status
    assert json.loads(answered.text)["error"] == {
        "message": "words of the router's own",
        "type": "server_error" if status == 503 else "invalid_request_error",
        "param": None,
        "code": code,
    }
