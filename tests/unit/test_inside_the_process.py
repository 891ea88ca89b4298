"""Unit tests cannot leave their process, whichever way a test tries."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable

import pytest

WAYS: dict[str, Callable[[], object]] = {
    "a connection": lambda: socket.create_connection(("127.0.0.1", 9)),
    "a server": lambda: socket.create_server(("127.0.0.1", 0)),
    "a name": lambda: socket.getaddrinfo("localhost", 80),
    "a page": lambda: urllib.request.urlopen("http://127.0.0.1:9/"),
    "a command": lambda: subprocess.run(["true"], check=True),
    "a command in a loop": lambda: asyncio.run(asyncio.create_subprocess_exec(sys.executable, "-V")),
    "a shell": lambda: os.system("true"),  # noqa: S605 - it is refused
    "a copy of the process": lambda: multiprocessing.get_context("fork").Process(target=print).start(),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_way_out_of_the_process_fails_the_test(way: str) -> None:
    """The failure says which folder such a test belongs to."""
    with pytest.raises(pytest.fail.Exception, match=r"tests/README\.md"):
        WAYS[way]()
