"""The faults that request headers provoke in a mock vLLM backend, and when each token is due. Pure; the shell waits.

| header | effect |
|---|---|
| `x-sim-status: 503` | answer with this status, 400 to 599, and vLLM's error body |
| `x-sim-stall-ms: 2000` | wait this long before the first byte, headers included |
| `x-sim-stall-after: 5` | stay silent after this many tokens, until the client leaves (at most `STALL_S`) |
| `x-sim-abort-after: 5` | drop the connection after this many tokens |
| `x-sim-token-ms: 5` | time between tokens, instead of the model's own |
| `x-sim-first-token-ms: 50` | time to the first token, instead of the model's own |
| `x-sim-answer-tokens: 100` | repeat or cut the answer to this many tokens |

An answer that is not streamed takes the same time and has the same faults, all before its first byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from router.errors import RequestError

STALL_S = 600.0
"""The longest silence in seconds, so that a forgotten client does not hold a connection for ever."""

LIMITS = {
    "x-sim-status": (400, 599),
    "x-sim-stall-ms": (0, 600_000),
    "x-sim-stall-after": (0, 1_000_000),
    "x-sim-abort-after": (0, 1_000_000),
    "x-sim-token-ms": (0, 60_000),
    "x-sim-first-token-ms": (0, 600_000),
    "x-sim-answer-tokens": (1, 100_000),
}
"""Each header with its smallest and largest value."""


@dataclass(frozen=True, slots=True)
class Faults:
    """The faults of one request. None provokes nothing."""

    status: int | None = None
    stall_ms: float = 0.0
    stall_after: int | None = None
    abort_after: int | None = None
    token_ms: float | None = None
    first_token_ms: float | None = None
    answer_tokens: int | None = None


def read_faults(headers: Mapping[str, str]) -> Faults:
    """Read the `x-sim-` headers; `headers` must find names in any case.

    Raises: `RequestError` (400) for a value that is not a number or out of range, so that no test misses its fault silently.
    """
    values = {name: _number(name, headers[name]) for name in LIMITS if name in headers}
    return Faults(**{name.removeprefix("x-sim-").replace("-", "_"): value for name, value in values.items()})


def _number(name: str, value: str) -> int:
    low, high = LIMITS[name]
    if not value.isascii() or not value.isdigit() or not low <= int(value) <= high:
        raise RequestError(400, f"{name} must be a whole number from {low} to {high}", param=name)
    return int(value)


@dataclass(frozen=True, slots=True)
class Pace:
    """When tokens are due, in milliseconds since the request was read."""

    first_token_ms: float
    token_ms: float

    def due_s(self, token_count: int) -> float:
        """Seconds from the start at which token number `token_count` (from 0) is ready."""
        return (self.first_token_ms + token_count * self.token_ms) / 1000

    def bent(self, faults: Faults) -> Pace:
        """This pace, changed as the request asks."""
        return Pace(
            self.first_token_ms if faults.first_token_ms is None else faults.first_token_ms,
            self.token_ms if faults.token_ms is None else faults.token_ms,
        )
