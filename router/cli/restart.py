"""`semantic-router restart`: asks a running router for a rolling restart, and tells what becomes of it."""

from __future__ import annotations

import http.client
import json
import socket
import sys
import time
from typing import Any

from router.errors import ConfigError, Problem

_ANSWER_S = 10.0
_POLL_S = 0.2
_REFUSED, _FAILED = 2, 1


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path, self._timeout_s = path, timeout_s

    def connect(self) -> None:
        """To the socket's path."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self._timeout_s)
        self.sock.connect(self._path)


def restart(address: str) -> int:
    """Ask the admin port at `address` and print each step; 0 when the new configuration serves, 1 when not, 2 when it is bad.

    Raises:
        ConfigError: nobody answers there, or nobody that can restart.
    """
    state = _ask(address, "POST", "/restart")
    shown = 0
    while True:
        for step in state["steps"][shown:]:
            print(step, flush=True)
        shown = len(state["steps"])
        if state["state"] not in ("waiting", "running"):
            break
        time.sleep(_POLL_S)
        state = _ask(address, "GET", f"/restart?number={state['restart']}")
    for problem in state["problems"]:
        print(problem, file=sys.stderr)
    return {"done": 0, "refused": _REFUSED}.get(state["state"], _FAILED)


def _ask(address: str, method: str, path: str) -> dict[str, Any]:
    connection = connection_to(address, _ANSWER_S)
    try:
        connection.request(method, path, "{}" if method == "POST" else None, {"content-type": "application/json"})
        answer = connection.getresponse()
        document = json.loads(answer.read())
        if isinstance(document, dict) and "steps" in document:
            return document
        message = f"{address} answers with status {answer.status} and no restart: is the admin port of a router there?"
    except (OSError, http.client.HTTPException, ValueError) as error:
        message = (
            f"nobody answers at {address} ({error or type(error).__name__}); is the router running, and is that its admin port?"
        )
    finally:
        connection.close()
    raise ConfigError([Problem("restart", 0, "", message)])


def connection_to(address: str, timeout_s: float) -> http.client.HTTPConnection:
    """To the admin port at host:port or unix:/path; not open yet.

    Raises:
        ConfigError: that is no address.
    """
    if address.startswith("unix:"):
        return _UnixConnection(address.removeprefix("unix:"), timeout_s)
    host, _, port = address.rpartition(":")
    # Where it listens on every address, this machine's own is one of them.
    host = {"0.0.0.0": "127.0.0.1", "[::]": "::1"}.get(host, host.strip("[]"))  # noqa: S104 - asked, not listened on
    if not port.isdecimal():
        raise ConfigError([Problem("admin", 0, "", f"'{address}' is no address; host:port or unix:/path is")])
    return http.client.HTTPConnection(host, int(port), timeout=timeout_s)
