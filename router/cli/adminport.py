"""Asks a running router over its admin port: the one client of all commands, at host:port and at unix:/path alike."""

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
"""A JSON object of another process; who asked for it knows its fields."""
_TIMEOUT_S = 60.0
"""`explain` of a long prompt reads all of it, and an operation on the cache waits for the store."""
_OK_STATUSES = range(200, 300)
_COMMAND = re.compile(r"\w+")
"""What a path begins with is the command that asks for it."""


@dataclass(frozen=True, slots=True)
class AdminPort:
    """The admin port of one router. `address` is host:port or unix:/path."""

    address: str

    def post(self, path: str, document: object) -> Document:
        """The answer to a document.

        Raises:
            ConfigError: nobody answers there, no router does, or the router refuses.
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
            message = f"{self.address} answers with no JSON: is the admin port of a router there?"
        except (OSError, http.client.HTTPException) as error:
            why = error or type(error).__name__
            message = f"nobody answers at {self.address} ({why}); is the router running, and is that its admin port?"
        else:
            if answer.status in _OK_STATUSES and isinstance(document, dict):
                return document
            message = _refusal(document) or (
                f"{self.address} answers with status {answer.status}: is the admin port of a router there?"
            )
        finally:
            connection.close()
        raise ConfigError([Problem(_COMMAND.findall(path)[0], 0, "", message)])


def admin_port(options: argparse.Namespace, otherwise: str = "") -> AdminPort:
    """The port that `--admin` names, else the configured one. `otherwise` says what else to do where it is switched off.

    Raises:
        ConfigError: the configuration is wrong, or switches the port off.
    """
    if options.admin:
        return AdminPort(options.admin)
    from router.config.load import load

    admin = load(options.config).admin
    if not admin.enabled:
        message = f"is false, so nobody can be asked{otherwise}"
        raise ConfigError([Problem(str(options.config), 0, "admin.enabled", message)])
    return AdminPort(admin.address)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        """To the socket's path."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(self._path)


def _connection_to(address: str) -> http.client.HTTPConnection:
    """Not open yet. Raises `ConfigError` for what is no address."""
    if address.startswith("unix:"):
        return _UnixConnection(address.removeprefix("unix:"))
    host, _, port = address.rpartition(":")
    # Where it listens on every address, this machine's own is one of them.
    host = {"0.0.0.0": "127.0.0.1", "[::]": "::1"}.get(host, host.strip("[]"))  # noqa: S104 - asked, not listened on
    if not port.isdecimal():
        raise ConfigError([Problem("admin", 0, "", f"'{address}' is no address; host:port or unix:/path is")])
    return http.client.HTTPConnection(host, int(port), timeout=_TIMEOUT_S)


def _refusal(document: object) -> str:
    """What the router says is wrong; empty when that is no router's answer."""
    error = document.get("error") if isinstance(document, dict) else None
    return str(error.get("message", "")) if isinstance(error, dict) else ""
