"""A closed-loop HTTP/1.1 client, as lean as Python allows, so that it does not dominate the measurement."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator, Sequence

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
_STAMP = re.compile(rb'"sent": (\d+)')


def request(path: str, body: bytes, **headers: str) -> bytes:
    """The bytes of a POST."""
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


class Connection(asyncio.Protocol):
    """One keep-alive connection with one request at a time."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._done: asyncio.Future[bytes] | None = None
        self.stamps: list[float] = []
        """Seconds between the sending of each event, as the backend stamped it, and its arrival here."""
        self.first_byte = 0.0
        """When the first body byte of the last response came, in seconds of `perf_counter`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Keep the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Collect until the response is whole."""
        now = time.perf_counter()
        self._received += data
        for found in _STAMP.finditer(data):
            self.stamps.append(now - int(found[1]) / 1e9)
        head_end = self._received.find(b"\r\n\r\n")
        if head_end < 0 or self._done is None:
            return
        if not self.first_byte and len(self._received) > head_end + 4:
            self.first_byte = now
        length = _LENGTH.search(self._received, 0, head_end)
        whole = len(self._received) >= head_end + 4 + int(length[1]) if length else self._received.endswith(b"0\r\n\r\n")
        if whole:
            response, self._received = bytes(self._received), bytearray()
            self._done.set_result(response)

    def connection_lost(self, exc: Exception | None) -> None:
        """A server that closes ends the benchmark."""
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionError("the server closed the connection"))

    async def ask(self, message: bytes, status: int = 200) -> bytes:
        """Send a request and return its response, which must have this status."""
        self._done = asyncio.get_running_loop().create_future()
        self.first_byte = 0.0
        self._transport.write(message)
        response = await self._done
        if not response.startswith(b"HTTP/1.1 %d" % status):
            raise ConnectionError(response[:200].decode(errors="replace"))
        return response


async def connect(port: int) -> Connection:
    """A connection to this machine."""
    _, protocol = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    return protocol


async def closed_loop(port: int, messages: Iterator[bytes], connections: int, count: int, status: int = 200) -> list[float]:
    """Latency in seconds of each of `count` requests, sent over `connections` connections as fast as answers come."""
    latencies: list[float] = []
    left = count

    async def run(connection: Connection) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            began = time.perf_counter()
            await connection.ask(next(messages), status)
            latencies.append(time.perf_counter() - began)

    opened = [await connect(port) for _ in range(connections)]
    await asyncio.gather(*map(run, opened))
    return latencies


async def stream(port: int, message: bytes) -> tuple[float, Sequence[float]]:
    """Time to the first byte of a streamed answer, and the lag of each event, in seconds."""
    connection = await connect(port)
    began = time.perf_counter()
    await connection.ask(message)
    return connection.first_byte - began, connection.stamps
