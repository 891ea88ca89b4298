"""A real Milvus server, from the PyPI wheel `milvus`, and a door before it that tests can shut, block and open again."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.stack import free_port, wait_for

PROGRAM = shutil.which("milvus-server", path=str(Path(sys.executable).parent)) or shutil.which("milvus-server")
_PORTS = (
    "etcd", "root-coord", "proxy-internal", "query-coord", "query-node", "index-coord", "index-node", "data-coord", "data-node",
)  # fmt: skip
"""The ports that Milvus' parts use among themselves. No other program on this machine may have them."""


class MilvusServer:
    """A standalone Milvus on a free port, with its data in a folder."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.port, self.options = folder, free_port(), options
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it is ready. The first start takes about 20 seconds."""
        assert PROGRAM is not None
        with (self.folder / "server.log").open("ab") as log:
            ports = [part for name in _PORTS for part in (f"--{name}-port", str(free_port()))]
            command = [PROGRAM, "--data", str(self.folder / "data"), "--proxy-port", str(self.port), *ports, *self.options]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_for(lambda: self._answers() or self._has_died(), "Milvus", 90)
            assert not self._has_died(), f"Milvus ended: {(self.folder / 'server.log').read_text()[-2000:]}"
        except BaseException:
            self.kill()  # whoever asks for a server that fails to start cannot end it
            raise

    def _has_died(self) -> bool:
        """The wheel's program waits for ever for a server that has ended. Such a server shows as a child that nobody collects."""
        assert self.process is not None
        if self.process.poll() is not None:
            return True
        pid = self.process.pid
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            return any(") Z " in Path(f"/proc/{child}/stat").read_text() for child in children)
        return False

    def _answers(self) -> bool:
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException

        try:
            client = MilvusClient(uri=f"http://127.0.0.1:{self.port}", timeout=2)
            client.list_collections()
            client.close()
        except (MilvusException, ValueError):
            return False
        return True

    def kill(self) -> None:
        """Kill the server and all its processes at once."""
        if self.process and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


_STARTED: list[MilvusServer] = []
"""The servers that this process started. They are kept, for others may use them after this process."""
_SHARED = Path(tempfile.gettempdir()) / f"milvus-of-tests-{os.getuid()}.json"


@contextlib.contextmanager
def shared(folder: Path) -> Iterator[int]:
    """The port of the one server for all test processes of this machine; the last one that uses it ends it.

    Milvus allows only one server on a machine, whatever its ports, because it locks /run/milvus/standalone.pid. If this process
    has to start it, `folder` holds its data.
    """
    with _state() as state:
        if not state.get("users") or not Path(f"/proc/{state['pid']}").exists():
            if state.get("users"):
                _end(state["pid"])  # of a run that was killed: its server lives on and would keep out another
            server = MilvusServer(folder)
            server.start()
            _STARTED.append(server)
            assert server.process is not None
            state.update(users=0, pid=server.process.pid, port=server.port)
        state["users"] += 1
        port = state["port"]
    try:
        yield port
    finally:
        with _state() as state:
            state["users"] -= 1
            if not state["users"]:
                _end(state["pid"])


def _end(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


@contextlib.contextmanager
def _state() -> Iterator[dict[str, int]]:
    """What all test processes know of the server. One process reads it at a time."""
    with _SHARED.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        state: dict[str, int] = json.loads(file.read() or "{}")
        yield state
        file.truncate(0)
        file.write(json.dumps(state))


class Door:
    """A TCP port that leads to the server. When it is shut, the server seems dead: connections break, and new ones are refused.

    The server itself is not killed, because Milvus 2.3 would wait more than a minute for its own sessions before it comes back.
    """

    def __init__(self, port: int) -> None:
        self.port, self._behind = free_port(), port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._passing = asyncio.Event()
        self._passing.set()

    async def open(self) -> None:
        """Let connections through."""
        self._server = await asyncio.start_server(self._enter, "127.0.0.1", self.port)

    async def shut(self) -> None:
        """Break every connection, and refuse new ones."""
        if self._server:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    def block(self) -> None:
        """Keep the connections and let nothing pass, as when the server hangs."""
        self._passing.clear()

    def unblock(self) -> None:
        """Let the held bytes pass."""
        self._passing.set()

    async def _enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._behind)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, inner_writer}
        await asyncio.gather(self._pass(reader, inner_writer), self._pass(inner_reader, writer))
        self._writers -= {writer, inner_writer}

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                await self._passing.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()
