"""What clients may take of Envoy: time, connections and memory, as envoy.yaml limits them. These tests use smaller numbers."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import httpx2 as httpx
import pytest

from tests.e2e.stack import Stack, running, wait_for

REQUEST_S = 4.0
IDLE_S = 1.0
HEAP_MIB = 128
CONNECTIONS = 240
MIB = 1 << 20
ONE_OF_MANY = 15 * MIB
MOST_CLIENTS = 100
"""Clients with 15 MiB each. This is ten times the limit on memory, so that even a slow machine notices in time."""
SOME = 6
"""Refusals to await. Each takes Envoy's delayed close of a second."""
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"


def smaller(envoy: dict[str, Any]) -> None:
    """The shipped limits on time and connections, lowered so that each is reached within seconds."""
    _, connections = (monitor["typed_config"] for monitor in envoy["overload_manager"]["resource_monitors"])
    connections["max_active_downstream_connections"] = CONNECTIONS
    manager = envoy["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    manager["drain_timeout"] = "0.1s"  # before an idle connection is closed; five seconds as shipped
    manager["request_timeout"] = f"{REQUEST_S}s"
    manager["common_http_protocol_options"]["idle_timeout"] = f"{IDLE_S}s"


def less_memory(envoy: dict[str, Any]) -> None:
    """The shipped limit on memory, lowered so that 30 clients reach it. Time limits are as shipped, so a slow machine ends none
    first.
    """
    heap, _ = (monitor["typed_config"] for monitor in envoy["overload_manager"]["resource_monitors"])
    heap["max_heap_size_bytes"] = HEAP_MIB * MIB


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A shared stack. Each test waits until its effects are over."""
    with running(tmp_path_factory.mktemp("bounded"), edit_envoy=smaller) as stack:
        yield stack


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An Envoy with little memory. Each test waits until others are served again."""
    with running(tmp_path_factory.mktemp("small"), edit_envoy=less_memory) as stack:
        yield stack


@pytest.fixture
def opened() -> Iterator[contextlib.ExitStack]:
    """Connections that are closed at the end."""
    with contextlib.ExitStack() as stack:
        yield stack


def connect(stack: Stack, opened: contextlib.ExitStack) -> socket.socket:
    """Open a client connection that the test holds."""
    return opened.enter_context(socket.create_connection(("127.0.0.1", stack.envoy_port), timeout=10))


def ask(stack: Stack) -> httpx.Response:
    """Send an honest request and return its answer."""
    body = {"model": "large", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    return httpx.post(f"{stack.url}/v1/chat/completions", json=body, headers={"x-sim-first-token-ms": "1"}, timeout=10)


def open_requests(stack: Stack) -> int:
    """The number of open requests, as Envoy counts them."""
    return stack.envoy_stat("http.openai.downstream_rq_active")


def memory_mib(stack: Stack) -> int:
    """Envoy's resident memory."""
    status = Path(f"/proc/{stack.processes['envoy'].pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) // 1024


def test_two_hundred_bodies_that_trickle_are_ended(bounded: Stack, opened: contextlib.ExitStack) -> None:
    """Each byte would reset an idle timer. Other clients are served meanwhile."""
    clients = [connect(bounded, opened) for _ in range(200)]
    for client in clients:
        client.sendall(HEAD % 100_000 + b"{")
    wait_for(lambda: open_requests(bounded) == 200, "200 open requests")
    assert ask(bounded).status_code == 200
    began = time.monotonic()
    while open_requests(bounded):
        assert time.monotonic() - began < 3 * REQUEST_S
        assert ask(bounded).status_code == 200
        for client in clients:
            with contextlib.suppress(OSError):
                client.sendall(b" ")
    assert clients[0].recv(100).startswith(b"HTTP/1.1 408")
    assert "came in state" not in bounded.output("router")


def test_a_slow_but_steady_body_is_served(bounded: Stack, opened: contextlib.ExitStack) -> None:
    """A phone may need most of the allowed time."""
    message = {"role": "user", "content": "hi"}
    body = json.dumps({"model": "large", "messages": [message], "max_tokens": 2, "user": "x" * 600_000}).encode()
    client = connect(bounded, opened)
    client.sendall(HEAD % len(body))
    began, sent = time.monotonic(), 0
    while sent < len(body):
        due = int(len(body) * min(1.0, (time.monotonic() - began) / (0.6 * REQUEST_S)))
        client.sendall(body[sent:due])
        sent = max(sent, due)
        time.sleep(0.01)  # the phone's own pace, not a wait for anything
    answer = client.recv(600)
    assert answer.startswith(b"HTTP/1.1 200"), answer


def test_an_idle_connection_is_closed(bounded: Stack, opened: contextlib.ExitStack) -> None:
    """It is closed between two requests, not during one."""
    client = connect(bounded, opened)
    client.sendall(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n")
    assert client.recv(65536).startswith(b"HTTP/1.1 200")
    while client.recv(65536):
        pass


def test_there_are_only_so_many_connections(bounded: Stack, opened: contextlib.ExitStack) -> None:
    """A further one is closed at once."""
    for _ in range(CONNECTIONS):
        connect(bounded, opened)
    wait_for(lambda: bounded.envoy_stat("http.openai.downstream_cx_active") == CONNECTIONS, "all connections")
    with pytest.raises(httpx.TransportError):
        ask(bounded)
    opened.close()
    wait_for(lambda: not bounded.envoy_stat("http.openai.downstream_cx_active"), "no connection")
    assert ask(bounded).status_code == 200


def test_unfinished_bodies_do_not_take_all_memory(small: Stack, opened: contextlib.ExitStack) -> None:
    """Envoy checks its memory ten times a second. How many bodies it accepts in between depends on their speed."""
    refusals = (number for number in range(MOST_CLIENTS) if is_refused(small, opened))
    assert len(list(itertools.islice(refusals, SOME))) == SOME, f"nearly all {MOST_CLIENTS} bodies were taken"
    assert open_requests(small) > 0, "the bodies that were taken are gone"
    assert memory_mib(small) < MOST_CLIENTS * ONE_OF_MANY // MIB / 2
    opened.close()
    wait_for(lambda: is_served(small), "an answer after it")


def is_refused(stack: Stack, opened: contextlib.ExitStack) -> bool:
    """Whether one more client that sends most of 16 MiB is cut off."""
    client = connect(stack, opened)
    try:
        client.sendall(HEAD % (16 * MIB))
        for _ in range(15):
            client.sendall(b" " * MIB)
    except OSError:
        return True
    return False


def test_over_http2_the_largest_requests_are_ended(small: Stack, opened: contextlib.ExitStack) -> None:
    """Envoy accounts for their bodies, so that nobody else need suffer."""
    ended = "envoy.overload_actions.reset_high_memory_stream.count"
    before = small.envoy_stat(ended)
    for _ in range(MOST_CLIENTS):
        with contextlib.suppress(OSError):
            send_over_http2(connect(small, opened), ONE_OF_MANY)
        if small.envoy_stat(ended) > before:
            break
    wait_for(lambda: small.envoy_stat(ended) > before, "a request that was ended")
    wait_for(lambda: is_served(small), "an answer beside those that are left")


def is_served(stack: Stack) -> bool:
    """Whether an honest client gets an answer."""
    with contextlib.suppress(httpx.TransportError):
        return ask(stack).status_code == 200
    return False


def send_over_http2(connection: socket.socket, size_bytes: int) -> None:
    """Send most of a request, and never its end."""
    client = h2.connection.H2Connection(h2.config.H2Configuration())
    client.initiate_connection()
    connection.sendall(client.data_to_send())
    client.receive_data(connection.recv(65536))  # its settings: until they are acknowledged the window is small
    names = {":method": "POST", ":path": "/v1/chat/completions", ":scheme": "http", ":authority": "x"}
    client.send_headers(1, list(names.items()))
    frame = (1 << 14).to_bytes(3, "big") + b"\0\0" + (1).to_bytes(4, "big") + b" " * (1 << 14)
    connection.sendall(client.data_to_send() + frame * (size_bytes >> 14))
