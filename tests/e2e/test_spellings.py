"""Nothing bypasses the router: every spelling of a request, against a guarded setup in front of a real ASGI server.

The guard is a word, not a model: what is tested is whether a request is read at all.
"""

from __future__ import annotations

import contextlib
import copy
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h2.config
import h2.connection
import h2.events
import pytest

from tests.e2e.asgi import GENERATING, AsgiServer
from tests.e2e.stack import Stack, free_port, running

CHAT = "/v1/chat/completions"
WORD = "xyzzy"
ATTACK = json.dumps(
    {"model": "auto", "messages": [{"role": "user", "content": f"please {WORD} now"}], "prompt": WORD, "input": WORD}
)
HARMLESS = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "hello"}]})
UPGRADE = (
    "connection: upgrade",
    "upgrade: websocket",
    "sec-websocket-version: 13",
    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
)
CLUSTER_OF = {"httptools": "small", "h11": "large"}


@dataclass(frozen=True)
class Setup:
    """What differs between the listeners."""

    parser: Literal["httptools", "h11"]
    """The parser of the server that gets what the router does not see."""
    is_fail_open: bool
    is_guarded: bool = True

    def __str__(self) -> str:
        return f"{self.parser}-{'open' if self.is_fail_open else 'closed'}-{'guarded' if self.is_guarded else 'unguarded'}"


GUARDED = [Setup(parser, is_open) for parser in ("httptools", "h11") for is_open in (True, False)]
UNGUARDED = Setup("h11", is_fail_open=True, is_guarded=False)


@dataclass
class Edge:
    """One entrance, with a parser behind it, and what happens when the router fails."""

    port: int
    servers: list[AsgiServer]
    """All servers behind it, wherever the request is routed."""
    stack: Stack

    def cleared(self) -> Edge:
        """The same entrance, with an empty record."""
        for server in self.servers:
            server.seen.clear()
        return self

    def send(self, data: bytes) -> tuple[int, bytes]:
        """Send raw bytes; return the status and the rest of the answer. Status 0 means a close without an answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(data)
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                while part := connection.recv(65536):
                    answer += part
        while answer.startswith(b"HTTP/1.1 100"):
            answer = answer.partition(b"\r\n\r\n")[2]
        return (int(answer[9:12]), answer) if answer else (0, b"")

    def reached(self, word: str = WORD) -> list[str]:
        """The paths of requests with this word that a model received."""
        return [seen.path for server in self.servers for seen in server.seen if word.encode() in seen.body]


def request(target: str, method: str = "POST", version: str = "1.1", *headers: str, body: bytes | str = ATTACK) -> bytes:
    """A whole HTTP/1 request. It has a length unless a header says how it is sent."""
    data = body.encode() if isinstance(body, str) else body
    lines = [f"{method} {target} HTTP/{version}", "host: x", "content-type: application/json", *headers]
    if not any(line.split(":")[0] in ("connection", "x-keep") for line in headers):
        lines.append("connection: close")
    if data and not any(line.startswith(("transfer-encoding", "content-length")) for line in headers):
        lines.append(f"content-length: {len(data)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + data


def chunked(body: str = ATTACK, trailer: str = "") -> bytes:
    """A body in two chunks."""
    half = len(body) // 2
    return (
        "".join(f"{len(part):x}\r\n{part}\r\n" for part in (body[:half], body[half:])).encode() + f"0\r\n{trailer}\r\n".encode()
    )


def guard(config: dict[str, Any]) -> None:
    """A configuration with one rule that blocks a word."""
    config["signals"]["keywords"] = {"forbidden": {"words": [WORD]}}
    config["rules"] = [
        {"name": "guard", "when": {"keywords": "forbidden"}, "block": {"message": "Not here.", "fail_closed": True}}
    ]


@pytest.fixture(scope="module")
def edges(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Setup, Edge]]:
    """The shipped envoy.yaml with one listener for each setup."""
    servers = {parser: AsgiServer(parser).start() for parser in CLUSTER_OF}
    ports = {setup: free_port() for setup in (*GUARDED, UNGUARDED)}

    def multiply(envoy: dict[str, Any]) -> None:
        clusters = {cluster["name"]: cluster for cluster in envoy["static_resources"]["clusters"]}
        for parser, name in CLUSTER_OF.items():
            endpoint = clusters[name]["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
            endpoint["address"]["socket_address"]["port_value"] = servers[parser].port
        (shipped,) = envoy["static_resources"]["listeners"]
        envoy["static_resources"]["listeners"] = [_listener(shipped, setup, port) for setup, port in ports.items()]

    with running(tmp_path_factory.mktemp("edges"), edit_config=guard, edit_envoy=multiply) as stack:
        yield {setup: Edge(port, list(servers.values()), stack) for setup, port in ports.items()}
    for server in servers.values():
        server.stop()


def _listener(shipped: dict[str, Any], setup: Setup, port: int) -> dict[str, Any]:
    """The shipped listener on another port. Requests that the router does not read go to the setup's own server."""
    listener = copy.deepcopy(shipped)
    listener["name"] = str(setup)
    listener["address"]["socket_address"]["port_value"] = port
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"][0]["typed_config"]["failure_mode_allow"] = setup.is_fail_open
    manager["delayed_close_timeout"] = (
        "0.02s"  # Envoy waits a second after each answer to half a request, which is most of a minute here
    )
    mutations = manager["early_header_mutation_extensions"][0]["typed_config"]["mutations"]
    mutations[0]["append"]["header"]["value"] = CLUSTER_OF[setup.parser]
    if setup.is_guarded:
        set_switch(manager)
    return listener


def set_switch(manager: dict[str, Any], percent: int = 100) -> None:
    """Set the GUARDED switch of envoy.yaml."""
    (route,) = [r for r in manager["route_config"]["virtual_hosts"][0]["routes"] if "runtime_fraction" in r["match"]]
    route["match"]["runtime_fraction"]["default_value"]["numerator"] = percent


@pytest.fixture(params=GUARDED, ids=str)
def edge(request: pytest.FixtureRequest, edges: dict[Setup, Edge]) -> Edge:
    """Each guarded entrance."""
    return edges[request.param].cleared()


@pytest.fixture
def unguarded(edges: dict[Setup, Edge]) -> Edge:
    """The file as it is shipped."""
    return edges[UNGUARDED].cleared()


READ = {
    "plain": CHAT,
    "query": f"{CHAT}?a=1&b=/../x",
    "empty query": f"{CHAT}?",
    "escaped slash": "/v1/chat%2Fcompletions",
    "escaped slashes": "/v1%2fchat%2Fcompletions",
    "escaped first slash": "/%2Fv1/chat/completions",
    "escaped backslash": "/v1/chat%5Ccompletions",
    "backslashes": "/v1\\chat\\completions",
    "escaped letter": "/v1/chat/complet%69ons",
    "every letter escaped": "/" + "/".join("".join(f"%{ord(c):02x}" for c in part) for part in CHAT[1:].split("/")),
    "everything escaped": "/" + "".join(f"%{ord(c):02X}" for c in CHAT[1:]),
    "two slashes": "//v1//chat///completions",
    "dots": "/v1/./chat/x/../completions",
    "escaped dots": "/v1/%2e/chat/x/%2E%2e/completions",
    "out of a harmless path": "/health/../v1/chat/completions",
    "out of a harmless path, escaped": "/health%2F..%2Fv1%2Fchat%2Fcompletions",
    "out of the models": "/v1/models/..%2Fchat%2Fcompletions",
    "above the root": "/../../v1/chat/completions",
    "absolute form": f"http://x{CHAT}",
    "absolute form, escaped": "http://other:99/v1/chat%2Fcompletions",
    "absolute form, upper case": f"HTTP://X{CHAT}",
    "tab at the end": f"{CHAT}\t",
    "completions": "/v1%2Fcompletions",
}  # fmt: skip
"""Spellings of a path that the models serve as the plain one. The router has to read them."""


@pytest.mark.parametrize("target", READ.values(), ids=READ)
def test_another_spelling_of_the_path_is_read_like_the_plain_one(edge: Edge, target: str) -> None:
    """The guard refuses it with its own words, and the model never receives it."""
    status, answer = edge.send(request(target))
    assert (status, b"Not here." in answer) == (403, True), answer[:600]
    assert edge.reached() == []


FRAMED = {
    "chunked": request(CHAT, "POST", "1.1", "transfer-encoding: chunked", body=chunked()),
    "chunked with a trailer": request(CHAT, "POST", "1.1", "transfer-encoding: chunked", body=chunked(trailer="x-a: b\r\n")),
    "chunked in capitals": request(CHAT, "POST", "1.1", "transfer-encoding: CHUNKED", body=chunked()),
    "expecting": request(CHAT, "POST", "1.1", "expect: 100-continue"),
    "said to be rewritten": request(CHAT, "POST", "1.1", "x-original-url: /health", "x-envoy-original-path: /health"),
    "said to be another method": request(CHAT, "POST", "1.1", "x-http-method-override: GET"),
    "another content type": request(CHAT, "POST", "1.1", "content-type: text/plain"),
    "steered": request(CHAT, "POST", "1.1", "x-upstream-cluster: large", "x-vsr-response-path: upstream"),
    "hop by hop": request(CHAT, "POST", "1.1", "x-keep: 1", "connection: close, x-upstream-cluster, content-type"),
    "two requests at once": request(CHAT, "POST", "1.1", "x-keep: 1", body=HARMLESS.replace("hello", WORD)) + request(CHAT),
}  # fmt: skip
"""The plain path, sent in another way."""


@pytest.mark.parametrize("data", FRAMED.values(), ids=FRAMED)
def test_another_way_to_send_it_is_read_like_the_plain_one(edge: Edge, data: bytes) -> None:
    """The guard refuses it with its own words, and the model never receives it."""
    status, answer = edge.send(data)
    assert (status, b"Not here." in answer) == (403, True), answer[:600]
    assert edge.reached() == []


REFUSED = {
    "double escaped slash": request("/v1/chat%252Fcompletions"),
    "double escaped letter": request("/v1/chat/complet%2569ons"),
    "double escaped, out of the models": request("/v1/models/%252e%252e/chat/completions"),
    "slash at the end": request(f"{CHAT}/"),
    "parameter": request(f"{CHAT};x=1"),
    "parameter inside": request("/v1;x/chat/completions"),
    "escaped question mark": request(f"{CHAT}%3Fx=1"),
    "fragment": request(f"{CHAT}#x"),
    "escaped fragment": request(f"{CHAT}%23x"),
    "capitals": request("/V1/Chat/Completions"),
    "dot at the end": request(f"{CHAT}."),
    "space at the end": request(f"{CHAT}%20"),
    "zero at the end": request(f"{CHAT}%00"),
    "line end at the end": request(f"{CHAT}%0d%0a"),
    "latin letter": request("/v1/chat/c\xf6mpletions"),
    "full-width letter": request("/v1/chat/%EF%BD%83ompletions"),
    "overlong slash": request("/v1/chat%c0%afcompletions"),
    "half an escape": request(f"{CHAT}%2"),
    "escape of another kind": request("/v1/chat/comp%u006cetions"),
    "no slash": request("v1/chat/completions"),
    "star": request("*"),
    "under a prefix": request(f"/proxy{CHAT}"),
    "below": request(f"{CHAT}/batch"),
    "HTTP 1.0": request(CHAT, version="1.0"),
    "HTTP 0.9": request(CHAT, version="0.9"),
    "lower-case method": request(CHAT, "post"),
    "made-up method": request(CHAT, "P0ST"),
    "PUT": request(CHAT, "PUT"),
    "PATCH": request(CHAT, "PATCH"),
    "DELETE": request(CHAT, "DELETE"),
    "GET": request(CHAT, "GET", "1.1", "x-http-method-override: POST"),
    "PROPFIND": request(CHAT, "PROPFIND"),
    "CONNECT": request("x:80", "CONNECT"),
    "two lengths": request(CHAT, "POST", "1.1", "content-length: 3", f"content-length: {len(ATTACK)}"),
    "length and chunks": request(CHAT, "POST", "1.1", "content-length: 9", "transfer-encoding: chunked", body=chunked()),
    "unknown transfer encoding": request(CHAT, "POST", "1.1", "transfer-encoding: xchunked", body=chunked()),
    "two transfer encodings": request(CHAT, "POST", "1.1", "transfer-encoding: gzip, chunked", body=chunked()),
    "space before the colon": request(CHAT, "POST", "1.1", "transfer-encoding : chunked", body=chunked()),
    "compressed": request(CHAT, "POST", "1.1", "content-encoding: gzip"),
    "compressed twice": request(CHAT, "POST", "1.1", "content-encoding: identity", "content-encoding: gzip"),
    "upgrade to a web socket": request(CHAT, "POST", "1.1", *UPGRADE),
    "web socket": request("/v1/realtime", "GET", "1.1", *UPGRADE, body=""),
    "a model by its name": request("/v1/models/small:predict"),
    "the models, posted to": request("/v1/models"),
    "a harmless path, posted to": request("/health"),
    **{path: request(path) for path in sorted(GENERATING - {CHAT, "/v1/completions", "/v1/embeddings"})},
}  # fmt: skip
"""Paths that are no spelling of the router's. The models would serve some of these, and the router reads none."""


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_what_the_router_does_not_read_is_refused(edge: Edge, data: bytes) -> None:
    """The client gets a status that blames the request, or a closed connection if it is no HTTP. The model never receives it."""
    status, answer = edge.send(data)
    assert status == 0 or 400 <= status < 500 or status == 501, answer[:600]
    assert edge.reached() == []


NO_HTTP = {
    "HTTP 1.0": (request(CHAT, version="1.0"), 426),
    "no version": (f"GET {CHAT}\r\n\r\n".encode(), 426),
    "space in a name": (request(CHAT, "POST", "1.1", "a b: c"), 400),
    "two lengths": (REFUSED["two lengths"], 400),
    "headers too large": (request(CHAT, "POST", "1.1", f"a: {'x' * 70_000}"), 431),
}


@pytest.mark.parametrize(("data", "wanted"), NO_HTTP.values(), ids=NO_HTTP)
def test_what_is_no_http_gets_envoys_own_answer(edge: Edge, data: bytes, wanted: int) -> None:
    """A closed connection would tell the client nothing."""
    status, answer = edge.send(data)
    assert status == wanted, answer
    assert edge.reached() == []


def over_http2(edge: Edge, *changes: tuple[str, str], has_trailers: bool = False) -> int:
    """The status of a request over HTTP/2 without negotiation, or 0 if the stream was reset."""
    fields = dict([(":method", "POST"), (":path", CHAT), (":scheme", "http"), (":authority", "x"), *changes])
    settings = h2.config.H2Configuration(validate_outbound_headers=False, normalize_outbound_headers=False)
    client = h2.connection.H2Connection(settings)
    with socket.create_connection(("127.0.0.1", edge.port), timeout=10) as connection:
        client.initiate_connection()
        client.send_headers(1, list(fields.items()))
        client.send_data(1, ATTACK.encode(), end_stream=not has_trailers)
        if has_trailers:
            client.send_headers(1, [("x-checksum", "1")], end_stream=True)
        connection.sendall(client.data_to_send())
        while data := connection.recv(65536):
            for event in client.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived):
                    return int(dict(event.headers)[b":status"])
                if isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                    return 0
            connection.sendall(client.data_to_send())
    return 0


HTTP2 = {
    "plain": ([], 403),
    "escaped slash": ([(":path", "/v1/chat%2Fcompletions")], 403),
    "lower-case method": ([(":method", "post")], 405),
    "PUT": ([(":method", "PUT")], 405),
    "said to be encrypted": ([(":scheme", "https")], 403),
    "absolute form": ([(":path", f"http://x{CHAT}")], 404),
    "responses": ([(":path", "/v1/responses")], 404),
    "empty path": ([(":path", "")], 0),
    "extended CONNECT": ([(":method", "CONNECT"), (":protocol", "websocket")], 0),
}


@pytest.mark.parametrize(("changes", "wanted"), HTTP2.values(), ids=HTTP2)
def test_over_http2_the_same_holds(edge: Edge, changes: list[tuple[str, str]], wanted: int) -> None:
    """HTTP/2 allows methods and paths that an HTTP/1 parser does not know."""
    assert over_http2(edge, *changes) in {wanted, 400, 0} if wanted != 403 else over_http2(edge, *changes) == 403
    assert edge.reached() == []


def test_trailers_do_not_hide_the_body(edge: Edge) -> None:
    """The body is then not the end of the request."""
    assert over_http2(edge, has_trailers=True) == 403
    assert edge.reached() == []


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (request(CHAT, body=HARMLESS), CHAT),
        (request(f"{CHAT}?api-version=2", body=HARMLESS), CHAT),
        (request("/v1/chat%2Fcompletions", body=HARMLESS), CHAT),
        (request(CHAT, "POST", "1.1", "transfer-encoding: chunked", body=chunked(HARMLESS)), CHAT),
        (request("/health", "GET", body=""), "/health"),
        (request("/health?probe=1", "HEAD", body=""), "/health"),
        (request("/version", "GET", body=""), "/version"),
        (request(CHAT, "OPTIONS", body=""), CHAT),
        (request("/v1/models", "OPTIONS", body=""), "/v1/models"),
    ],
)
def test_a_guarded_setup_still_serves_what_is_harmless(edge: Edge, data: bytes, path: str) -> None:
    """Refusing them would be a defect of the guard."""
    status, answer = edge.send(data)
    assert status == 200, answer[:900]
    assert edge.reached("") == [path]


@pytest.mark.parametrize("path", ["/v1/models/small", "/v1/models/small?x=1", "/v1/models/s%6Dall"])
def test_a_guarded_setup_still_names_its_models(edge: Edge, path: str) -> None:
    """The router answers."""
    status, answer = edge.send(request(path, "GET", body=""))
    assert (status, b'"id": "small"' in answer) == (200, True)
    status, answer = edge.send(request("/v1/models/Qwen%2FQwen3-32B", "GET", body=""))
    assert (status, b"'Qwen/Qwen3-32B' does not exist" in answer) == (404, True)


def test_what_is_refused_is_refused_in_openais_shape(edge: Edge) -> None:
    """OpenAI's client can read it."""
    head, _, body = edge.send(request("/v1/responses"))[1].partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head
    assert json.loads(body)["error"]["code"] == "unknown_path"


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/audio/transcriptions", "/tokenize", "/v1/models/small:predict"])
def test_without_a_guard_other_paths_pass(unguarded: Edge, path: str) -> None:
    """The default cluster judges them."""
    unguarded.send(request(path))
    assert unguarded.reached() == [path]


def test_a_path_is_decoded_by_the_models_too(unguarded: Edge) -> None:
    """Otherwise the table would prove nothing. Both parsers, asked directly, take an escaped slash for a slash."""
    for server in unguarded.servers:
        Edge(server.port, [server], unguarded.stack).send(request("/v1/chat%2Fcompletions"))
        assert [seen.path for seen in server.seen] == [CHAT]


def test_without_a_guard_web_sockets_pass(tmp_path: Path, edges: dict[Setup, Edge]) -> None:
    """They work in both directions on a path of their own, and not on a path that the router reads."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with listening.accept()[0] as accepted:
                while b"\r\n\r\n" not in accepted.recv(65536):
                    pass
                accepted.sendall(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
                accepted.sendall(accepted.recv(100)[::-1])

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        stack = Stack(tmp_path)
        stack.router_port = stack.consecutive_ports(1)
        stack.model_ports["small"] = listening.getsockname()[1]
        stack.write_files()
        try:
            stack.start_envoy()
            with socket.create_connection(("127.0.0.1", stack.envoy_port), timeout=10) as client:
                client.sendall(request("/v1/realtime", "GET", "1.1", *UPGRADE, body=""))
                assert client.recv(65536).startswith(b"HTTP/1.1 101")
                client.sendall(b"ping")
                assert client.recv(100) == b"gnip"
        finally:
            stack.stop()
        thread.join(10)
    status, _ = edges[UNGUARDED].cleared().send(request(CHAT, "POST", "1.1", *UPGRADE))
    assert (status, edges[UNGUARDED].reached()) == (403, [])


def test_a_bad_path_is_no_fault_of_the_router(edges: dict[Setup, Edge]) -> None:
    """Envoy answers it without asking the router. The router lets that answer pass."""
    for setup in GUARDED:
        for path in (f"{CHAT}#x", f"{CHAT}%00"):
            assert edges[setup].send(request(path))[0] == 400
    assert "came in state" not in edges[UNGUARDED].stack.output("router")
