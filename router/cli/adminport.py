"""The client of the admin port, for all commands. The port may be a host:port or a unix:/path."""

from __future__ import annotations

import argparse
import http.client
import json
import re
import socket
from dataclasses import dataclass
from typing import Any

from router.errors import ConfigError, Problem

Document = dict[str, Any]
"""A JSON object from the router. The caller knows its fields."""
_TIMEOUT_S = 60.0
"""Long, because `explain` may read a long prompt, and a cache operation may wait for the store."""
_OK_STATUSES = range(200, 300)
_COMMAND = re.compile(r"\w+")
"""The first word of a path is the command that uses it."""


@dataclass(frozen=True, slots=True)
class AdminPort:
    """The admin port of one router. `address` is host:port or unix:/path."""

    address: str

    def post(self, path: str, document: object) -> Document:
        """Send a document and return the answer.

        Raises:
            ConfigError: nothing answers at the address, something else than a router does, or the router refuses.
        """
        return self._ask("POST", path, json.dumps(document).encode())

    def get(self, path: str) -> Document:
        """The document at `path`. Raises as `post` does."""
        return self._ask("GET", path, None)

    def _ask(self, method: str, path: str, body: bytes | None) -> Document:
        connection = _connection_to(self.address)
        try:
            connection.request(method, path, body, {"content-type": "application/json"})
            answer = connection.getresponse()
            document = json.loads(answer.read())
        except ValueError:
            message = f"{self.address} does not answer with JSON; is it a router's admin port?"
        except http.client.HTTPException:  # what it quotes may be the bytes of another protocol
            message = f"{self.address} does not answer with HTTP; is it a router's admin port?"
        except OSError as error:
            message = f"nothing answers at {self.address} ({error}); is the router running, and is that its admin port?"
        else:
            if answer.status in _OK_STATUSES and isinstance(document, dict):
                return document
            message = _refusal(document) or (f"{self.address} answers with status {answer.status}; is it a router's admin port?")
        finally:
            connection.close()
        raise ConfigError([Problem(_COMMAND.findall(path)[0], 0, "", message)])


def admin_port(options: argparse.Namespace, otherwise: str = "") -> AdminPort:
    """The port that `--admin` names, else the configured one. `otherwise` ends the message when the port is switched off.

    Raises:
        ConfigError: the configuration has errors, or switches the port off.
    """
    if options.admin is not None:
        return AdminPort(options.admin)
    from router.config.load import load

    admin = load(options.config).admin
    if not admin.enabled:
        message = f"is false, so the router has no admin port{otherwise}"
        raise ConfigError([Problem(str(options.config), 0, "admin.enabled", message)])
    return AdminPort(admin.address)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket's path."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(self._path)


def _connection_to(address: str) -> http.client.HTTPConnection:
    """A connection that is not open yet. Raises `ConfigError` for a malformed address."""
    if address.startswith("unix:"):
        return _UnixConnection(address.removeprefix("unix:"))
    host, _, port = address.rpartition(":")
    # A router that listens on all addresses also listens on loopback.
    host = {"0.0.0.0": "127.0.0.1", "[::]": "::1"}.get(host, host.strip("[]"))  # noqa: S104 - asked, not listened on
    if not port.isdecimal() or not host or "/" in host:
        raise ConfigError([Problem("admin", 0, "", f"'{address}' is not an address; expected host:port or unix:/path")])
    return http.client.HTTPConnection(host, int(port), timeout=_TIMEOUT_S)


def _refusal(document: object) -> str:
    """The router's error message. Empty when the answer is not a router's."""
    error = document.get("error") if isinstance(document, dict) else None
    return str(error.get("message", "")) if isinstance(error, dict) else ""
