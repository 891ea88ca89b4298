"""How a worker ends: by which signal, at which moment, with and without its supervisor."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from typing import cast

import pytest

from router.extproc.server import Server
from router.runtime.process import End


class Draining:
    """A server that notes how it is drained. With `forever` it does not end by itself."""

    def __init__(self, *, forever: bool = False) -> None:
        self.calls: list[tuple[float, float]] = []
        self.began = asyncio.Event()
        self._forever = forever

    async def drain(self, drain_s: float, grace_s: float) -> None:
        """Note the drain."""
        self.calls.append((drain_s, grace_s))
        self.began.set()
        if self._forever and len(self.calls) == 1:
            await asyncio.Event().wait()


@pytest.fixture
def pipe() -> Iterator[list[int]]:
    """A pipe between the worker and its supervisor, whose second end the test may close."""
    ends = list(os.pipe())
    yield ends
    for end in ends:
        os.close(end)


async def left(server: Draining, end: End) -> list[tuple[float, float]]:
    """How the worker was drained, once it has ended."""
    async with asyncio.timeout(10):
        await end.leave(cast(Server, server), 4, 30)
    return server.calls


async def test_sigterm_drains(pipe: list[int]) -> None:
    """The drain lasts as long as the configuration says."""
    end = End(pipe[0])
    os.kill(os.getpid(), signal.SIGTERM)
    assert await left(Draining(), end) == [(4, 30)]


async def test_sigint_in_the_middle_of_a_drain_cuts_it_short(pipe: list[int]) -> None:
    """Somebody waits at a terminal."""
    server, end = Draining(forever=True), End(pipe[0])
    os.kill(os.getpid(), signal.SIGTERM)
    leaving = asyncio.create_task(left(server, end))
    await server.began.wait()
    os.kill(os.getpid(), signal.SIGINT)
    first, second = await leaving
    assert first == (4, 30)
    assert second[0] == 0
    assert second[1] < 1


async def test_without_its_supervisor_it_lets_the_port_go_and_ends_what_is_open(pipe: list[int]) -> None:
    """Nobody can tell Envoy, and another router may be about to start on the port."""
    end = End(pipe[0])
    os.close(pipe.pop())
    assert await left(Draining(), end) == [(0, 30)]
    assert end.is_orphan
