"""`semantic-router restart`: asks a running router for a rolling restart and prints its progress."""

from __future__ import annotations

import sys
import time

from router.cli.adminport import AdminPort, Document
from router.errors import ConfigError, Problem

_POLL_S = 0.2
_REFUSED, _FAILED = 2, 1


def restart(port: AdminPort) -> int:
    """Ask for a restart, print each step, and return the exit status.

    The status is 0 when the new configuration serves, 1 when the restart failed, and 2 when the configuration has errors.

    Raises:
        ConfigError: nothing answers at the port, or something that cannot restart.
    """
    state = _state(port, port.post("/restart", {}))
    shown = 0
    while True:
        for step in state["steps"][shown:]:
            print(step, flush=True)
        shown = len(state["steps"])
        if state["state"] not in ("waiting", "running"):
            break
        time.sleep(_POLL_S)
        state = _state(port, port.get(f"/restart?number={state['restart']}"))
    for problem in state["problems"]:
        print(problem, file=sys.stderr)
    return {"done": 0, "refused": _REFUSED}.get(state["state"], _FAILED)


def _state(port: AdminPort, document: Document) -> Document:
    if "steps" not in document:
        message = f"{port.address} reports no restart; is it a router's admin port?"
        raise ConfigError([Problem("restart", 0, "", message)])
    return document
