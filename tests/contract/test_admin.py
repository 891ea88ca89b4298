"""The admin port over real sockets."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from router.admin.server import AdminRoutes, AdminServer
from router.errors import ConfigError, RequestError
from tests.waiting import until

SECRET = "a prompt that must not be seen"
MOST_BYTES = 16 * 1024 * 1024


class Behind:
    """The handler behind the port, whose answers a test can change."""

    def __init__(self) -> None:
        self.is_ready = True
        self.explained: list[bytes] = []
        self.error: Exception | None = None

    async def readiness(self) -> tuple[bool, Mapping[str, Any]]:
        """One worker's readiness."""
        return self.is_ready, {"ready": self.is_ready, "workers": [{"worker": 0, "pid": 7, "ready": self.is_ready}]}

    async def metrics(self) -> bytes:
        """One line of metrics."""
        return b"llm_router_active_exchanges 0.0\n"

    async def explain(self, body: bytes) -> Mapping[str, Any]:
        """Record the body."""
        self.explained.append(body)
        if self.error:
            raise self.error
        return {"decision": {"name": "día"}}

    async def describe(self) -> Mapping[str, Any]:
        """A routing table."""
        return {"models": {"small": {"cluster": "small"}}}

    def routes(self) -> AdminRoutes:
        """All paths of this handler."""
        return AdminRoutes(self.readiness, self.metrics, self.explain, self.describe, "1.2.3")


Start = Callable[[str], Awaitable[int]]
JSON = {"content-type": "application/json"}


@pytest.fixture
def behind() -> Behind:
    """A handler that is ready and has no faults."""
    return Behind()


@pytest.fixture
async def start(behind: Behind) -> AsyncIterator[Start]:
    """Start admin ports, and stop them at the end."""
    servers: list[AdminServer] = []

    async def start(address: str) -> int:
        servers.append(AdminServer(address, behind.routes()))
        return await servers[-1].start()

    yield start
    for server in servers:
        await server.stop()


@pytest.fixture
async def port(start: Start) -> int:
    """The port of a listening server."""
    return await start("127.0.0.1:0")


@asynccontextmanager
async def ask(port: int, path: str, method: str = "GET", data: object = None) -> AsyncIterator[aiohttp.ClientResponse]:
    """Send one request."""
    async with (
        aiohttp.ClientSession() as session,
        session.request(
            method, f"http://127.0.0.1:{port}{path}", data=data, headers={"content-type": "application/json"}
        ) as response,
    ):
        yield response


async def test_a_living_process_is_healthy_even_if_it_is_not_ready(port: int, behind: Behind) -> None:
    """A process that drains is alive, and must not be restarted."""
    behind.is_ready = False
    async with ask(port, "/healthz") as response:
        assert response.status == 200


@pytest.mark.parametrize(("is_ready", "status"), [(True, 200), (False, 503)])
async def test_readiness_names_its_workers(port: int, behind: Behind, is_ready: bool, status: int) -> None:
    """One process and several give the same format, whether ready or not."""
    behind.is_ready = is_ready
    async with ask(port, "/readyz") as response:
        assert response.status == status
        assert await response.json() == {"ready": is_ready, "workers": [{"worker": 0, "pid": 7, "ready": is_ready}]}


async def test_metrics_come_as_prometheus_reads_them(port: int) -> None:
    """The content type names the version of the text format."""
    async with ask(port, "/metrics") as response:
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert await response.text() == "llm_router_active_exchanges 0.0\n"


async def test_an_explanation_gets_the_body_as_it_was_sent(port: int, behind: Behind) -> None:
    """The body arrives byte for byte, and the answer is JSON."""
    async with ask(port, "/explain", "POST", b'{"prompt": "hi"}') as response:
        assert response.status == 200
        assert (await response.json())["decision"]["name"] == "día"
    assert behind.explained == [b'{"prompt": "hi"}']


async def test_a_request_that_cannot_be_explained_says_why(port: int, behind: Behind) -> None:
    """The error is JSON and names the field."""
    behind.error = RequestError(400, "'prompt' must be a string", param="prompt", code="invalid_type")
    async with ask(port, "/explain", "POST", b"{}") as response:
        assert response.status == 400
        assert await response.json() == {
            "error": {"message": "'prompt' must be a string", "param": "prompt", "code": "invalid_type"}
        }


async def test_a_fault_tells_neither_the_client_nor_the_log_what_was_asked(
    port: int, behind: Behind, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception may quote the prompt."""
    behind.error = ValueError(SECRET)
    caplog.set_level(logging.DEBUG)
    async with ask(port, "/explain", "POST", SECRET.encode()) as response:
        assert response.status == 500
        assert await response.json() == {"error": {"message": "internal error"}}
    assert "/explain failed: ValueError" in caplog.text
    assert SECRET not in caplog.text


async def test_no_request_is_logged(port: int, caplog: pytest.LogCaptureFixture) -> None:
    """Probes ask every second, and a query could hold any text."""
    caplog.set_level(logging.DEBUG)
    async with ask(port, f"/healthz?q={SECRET}") as response:
        assert response.status == 200
    assert [record for record in caplog.records if record.name.startswith(("aiohttp.access", "router"))] == []


async def test_the_largest_body_is_taken_and_a_larger_one_refused(port: int, behind: Behind) -> None:
    """The limit is 16 MiB, as in Envoy. The refusal is JSON too."""
    async with ask(port, "/explain", "POST", BytesIO(b"x" * MOST_BYTES)) as response:
        assert response.status == 200
    async with ask(port, "/explain", "POST", BytesIO(b"x" * (MOST_BYTES + 1))) as response:
        assert response.status == 413
        assert "message" in (await response.json())["error"]
    assert len(behind.explained) == 1


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nothing", 404), ("GET", "/explain", 405), ("POST", "/config", 405)]
)
async def test_an_unknown_path_is_an_error_in_json(port: int, method: str, path: str, status: int) -> None:
    """All other answers are JSON as well."""
    async with ask(port, path, method) as response:
        assert response.status == status
        assert "message" in (await response.json())["error"]


async def test_the_routing_table_and_the_version_can_be_read(port: int) -> None:
    """They tell what runs here."""
    async with ask(port, "/config") as response:
        assert await response.json() == {"models": {"small": {"cluster": "small"}}}
    async with ask(port, "/version") as response:
        assert await response.json() == {"version": "1.2.3"}


async def test_it_listens_on_a_unix_socket(start: Start, tmp_path: Path) -> None:
    """Workers of a supervisor do so. The socket of a dead process is replaced."""
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert await start(f"unix:{path}") == 0
    connector = aiohttp.UnixConnector(path=str(path))
    async with aiohttp.ClientSession(connector=connector) as session, session.get("http://admin/healthz") as response:
        assert response.status == 200


async def test_an_ipv6_address_stands_in_brackets(start: Start) -> None:
    """A URL needs the brackets."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    assert await start("[::1]:0") > 0


async def test_a_taken_port_is_an_operators_error(start: Start, port: int) -> None:
    """The error names the field to change."""
    with pytest.raises(ConfigError, match=rf"admin\.address: cannot listen on 127\.0\.0\.1:{port}: .*in use"):
        await start(f"127.0.0.1:{port}")


async def test_a_living_process_keeps_its_unix_socket(start: Start, tmp_path: Path) -> None:
    """Otherwise a second process would silently take the path away."""
    address = f"unix:{tmp_path}/admin.sock"
    await start(address)
    with pytest.raises(ConfigError, match="another process listens there"):
        await start(address)


@pytest.mark.parametrize(
    "address", ["nowhere", "127.0.0.1:", "127.0.0.1:99999", "host.invalid:1", "192.0.2.1:1", "unix:/no/such/folder/s"]
)
async def test_an_impossible_address_is_an_operators_error(start: Start, address: str) -> None:
    """The address may come from the command line, where nothing has checked it."""
    with pytest.raises(ConfigError, match=r"admin\.address: cannot listen on"):
        await start(address)


async def test_stopping_does_not_wait_for_a_client_that_never_finishes(behind: Behind) -> None:
    """Answers under way get one second."""
    server = AdminServer("127.0.0.1:0", behind.routes())
    port = await server.start()
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /explain HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf")
    await writer.drain()
    await until(lambda: server.connections)
    await asyncio.wait_for(server.stop(), 4)
    writer.close()
