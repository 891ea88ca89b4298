"""The client of the admin port: its message when whoever answers does not answer as a router does."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from router.cli.adminport import AdminPort, admin_port
from router.errors import ConfigError


async def _said(request: web.Request) -> web.Response:
    answers = {
        "/good": web.json_response({"asked": await request.text()}),
        "/cache/refused": web.json_response({"error": {"message": "the cache is off"}}, status=404),
        "/cache/page": web.Response(text="<html>"),
        "/cache/list": web.json_response([]),
        "/cache/else": web.json_response({"error": "odd"}, status=500),
    }
    return answers[request.path]


@pytest.fixture(params=["host:port", "unix:"])
async def port(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AdminPort]:
    """A server with a fixed answer, at either kind of address."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", _said)
    runner = web.AppRunner(app)
    await runner.setup()
    socket = tmp_path / "admin.sock"
    site = web.UnixSite(runner, str(socket)) if request.param == "unix:" else web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield AdminPort(f"unix:{socket}" if request.param == "unix:" else f"127.0.0.1:{runner.addresses[0][1]}")
    await runner.cleanup()


async def test_a_document_gets_a_document(port: AdminPort) -> None:
    """A question without a document gets one too."""
    assert await asyncio.to_thread(port.post, "/good", {"a": 1}) == {"asked": '{"a": 1}'}
    assert await asyncio.to_thread(port.get, "/good") == {"asked": ""}


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/cache/refused", "cache: the cache is off"),
        ("/cache/page", "does not answer with JSON; is it a router's admin port?"),
        ("/cache/list", "answers with status 200; is it a router's admin port?"),
        ("/cache/else", "answers with status 500; is it a router's admin port?"),
    ],
)
async def test_what_no_router_answers_is_told_in_words(port: AdminPort, path: str, said: str) -> None:
    """A router's own message is shown if there is one."""
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
        await asyncio.to_thread(port.post, path, {})


@pytest.mark.parametrize("address", ["127.0.0.1:1", "unix:/nowhere/admin.sock"])
def test_where_nobody_listens_the_address_is_named(address: str) -> None:
    """This holds for either kind of address."""
    with pytest.raises(ConfigError, match=f"nothing answers at {address}"):
        AdminPort(address).get("/restart")


def test_a_port_that_is_switched_off_is_not_asked(tmp_path: Path) -> None:
    """The default port is not asked either, for another router may listen there."""
    file = tmp_path / "config.yaml"
    file.write_text("version: 1\nmodels: { small: { cluster: small } }\ndefault: { model: small }\nadmin: { enabled: false }\n")
    with pytest.raises(ConfigError, match=r"admin.enabled: is false, so the router has no admin port; do else"):
        admin_port(argparse.Namespace(admin=None, config=file), "; do else")


async def test_bytes_of_another_protocol_are_not_shown() -> None:
    """A gRPC port answers with bytes that a terminal should not get."""

    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\0\0\x12\x04\0\0\0\0\0\x1b[31m\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        port = AdminPort(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with pytest.raises(ConfigError, match="does not answer with HTTP") as caught:
            await asyncio.to_thread(port.get, "/cache/stats")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("address", ["http://127.0.0.1:8802", "", ":8802", "localhost"])
def test_an_address_that_is_none_is_told_what_one_looks_like(address: str) -> None:
    """A URL or an empty word is not taken for a host."""
    with pytest.raises(ConfigError, match="expected host:port or unix:/path"):
        admin_port(argparse.Namespace(admin=address)).get("/cache/stats")
