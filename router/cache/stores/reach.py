"""Says why a connection failed, in words for an operator. Loads no library, because `check` uses it without a store."""

from __future__ import annotations

import os
import socket


def why_not(error: OSError) -> str:
    """The message of the operating system for an error."""
    if isinstance(error, TimeoutError):
        return "no connection in time"
    if isinstance(error, socket.gaierror):
        return str(error.strerror)
    return os.strerror(error.errno) if error.errno else str(error)
