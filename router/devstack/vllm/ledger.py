"""Remembers the requests of a mock vLLM backend for tests, in memory and bounded. No I/O.

| path | answer |
|---|---|
| `GET /sim/last` | the newest request: path, headers in order, the exact body |
| `GET /sim/requests/{x-request-id}` | the newest request with that `x-request-id` |
| `GET /sim/count` | how many requests came and how they ended |
"""

from __future__ import annotations

import base64
from collections import Counter, deque
from dataclasses import dataclass

MAX_REQUESTS = 50
MAX_BODY_BYTES = 64 * 1024 * 1024
"""Above either limit, older requests are forgotten. The newest is always kept."""

ENDINGS = ("completed", "refused", "aborted", "dropped")
"""`completed`: answered in full. `refused`: answered with an error. `aborted`: the client left first.
`dropped`: the backend cut the connection, because `x-sim-abort-after` asked for it."""


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it arrived."""

    method: str
    path: str
    """With the query string."""
    headers: tuple[tuple[str, str], ...]
    """In the order of arrival, names as they were sent, repeated ones repeated."""
    body: bytes
    request_id: str
    """`x-request-id`, empty when there was none."""

    def describe(self) -> dict[str, object]:
        """As JSON: `body_base64` is exact, `body` is for people."""
        return {
            "request_id": self.request_id,
            "method": self.method,
            "path": self.path,
            "headers": [list(pair) for pair in self.headers],
            "body": self.body.decode("utf-8", "replace"),
            "body_base64": base64.b64encode(self.body).decode(),
        }


class Ledger:
    """The requests of one backend: the last few in full, all of them as counts."""

    def __init__(self) -> None:
        self._requests: deque[Received] = deque()
        self._held_bytes = 0
        self._received_count = 0
        self._endings: Counter[str] = Counter()

    def receive(self, request: Received) -> None:
        """Remember a request that arrived."""
        self._received_count += 1
        self._requests.append(request)
        self._held_bytes += len(request.body)
        while len(self._requests) > MAX_REQUESTS or (len(self._requests) > 1 and self._held_bytes > MAX_BODY_BYTES):
            self._held_bytes -= len(self._requests.popleft().body)

    def end(self, ending: str) -> None:
        """Count how a received request ended: one of `ENDINGS`, exactly once for each `receive`."""
        self._endings[ending] += 1

    def find(self, request_id: str | None = None) -> Received | None:
        """The newest request, or the newest with that id; None when it is not remembered."""
        matches = (r for r in reversed(self._requests) if request_id is None or r.request_id == request_id)
        return next(matches, None)

    def counts(self) -> dict[str, int]:
        """`received`, `active` and every ending; `received` is the sum of all others."""
        endings = {ending: self._endings[ending] for ending in ENDINGS}
        return {"received": self._received_count, "active": self._received_count - sum(endings.values())} | endings
