"""Unit tests stay inside their process. One that opens a socket or starts a process fails, and is told where it belongs."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from typing import NoReturn

import pytest
from hypothesis import settings

EXAMPLES = int(os.environ.get("UNIT_EXAMPLES", "25"))
"""Examples of each property, different ones in every run. `make test` takes 100; UNIT_EXAMPLES=1000 looks longer."""
settings.register_profile("unit", max_examples=EXAMPLES, deadline=None)
settings.load_profile("unit")

FORBIDDEN = (
    *((socket.socket, name) for name in ("connect", "connect_ex", "bind", "listen", "sendto")),
    (socket, "getaddrinfo"),
    (subprocess.Popen, "__init__"),
    *((os, name) for name in ("fork", "forkpty", "posix_spawn", "posix_spawnp", "system", "execv", "execve")),
)


def refuse(*arguments: object, **_: object) -> NoReturn:
    """Fail the test, and leave no socket open. No `except Exception` of the code under test can catch this."""
    for argument in arguments:
        if isinstance(argument, socket.socket):
            argument.close()
    pytest.fail("A unit test opens no socket and starts no process: tests/README.md says which folder may.")


@pytest.fixture(autouse=True, scope="module")
def inside_the_process() -> Iterator[None]:
    """Replace every way out of the process while the unit tests of one file run."""
    with pytest.MonkeyPatch.context() as patch:
        for place, name in FORBIDDEN:
            patch.setattr(place, name, refuse)
        yield
