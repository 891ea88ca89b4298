"""Runs Milvus Lite inside this process, behind a unix socket that only this user can reach.

pymilvus could start it as well, but on a TCP port that every user of the machine can reach, in a folder that everybody can read,
and without telling why it does not start.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from milvus_lite.adapter.grpc.servicer import MilvusServicer
from milvus_lite.db import MilvusLite
from milvus_lite.exceptions import DataDirLockedError, MilvusLiteError
from pymilvus.grpc_gen.milvus_pb2_grpc import add_MilvusServiceServicer_to_server

from router.errors import BackendError, ConfigError, Problem

log = logging.getLogger(__name__)

_THREADS = 10
_MESSAGE_BYTES = 256 * 1024 * 1024
_STOP_S = 2.0
_FOR_OWNER = 0o700
_PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.EINTR, errno.ENOMEM)
"""These errors may pass by themselves. The operator must fix all others."""


class LiteServer:
    """Serves one folder from `start` to `stop`. Both methods block, so call them in a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sockets: tempfile.TemporaryDirectory[str] | None = None
        self._database: MilvusLite | None = None
        self._server: grpc.Server | None = None

    def start(self) -> str:
        """Open the folder, create it if it is missing, and return the address to connect to.

        Raises:
            ConfigError: the folder cannot be written.
            BackendError: another process uses the folder, or the disk is full.
        """
        self.stop()
        try:
            keep_private(self._folder)
            self._sockets = tempfile.TemporaryDirectory(prefix="semantic-cache-")  # mode 0700
            self._database = MilvusLite(str(self._folder))
        except DataDirLockedError:
            self.stop()
            raise BackendError(f"{self._folder} is in use by another router") from None
        except MilvusLiteError as error:
            self.stop()
            raise BackendError(f"{self._folder} cannot be opened: {type(error).__name__}") from None
        except OSError as error:
            self.stop()
            raise _unwritable(self._folder, error) from None
        address = f"unix:{self._sockets.name}/milvus"
        options = [("grpc.max_receive_message_length", _MESSAGE_BYTES), ("grpc.max_send_message_length", _MESSAGE_BYTES)]
        self._server = grpc.server(ThreadPoolExecutor(_THREADS, thread_name_prefix="milvus-lite"), options=options)
        add_MilvusServiceServicer_to_server(MilvusServicer(self._database), self._server)
        self._server.add_insecure_port(address)
        self._server.start()
        return address

    def stop(self) -> None:
        """Close the folder."""
        server, database, sockets = self._server, self._database, self._sockets
        self._server = self._database = self._sockets = None
        if server:
            server.stop(_STOP_S).wait()
        if database:
            database.close()
        if sockets:
            sockets.cleanup()


def keep_private(folder: Path) -> None:
    """Create a folder that only this user can enter, or close an existing one to others. It holds the key that hides scopes.

    Raises:
        OSError: the folder cannot be created or written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=_FOR_OWNER, exist_ok=True)
    if stat.S_IMODE(folder.stat().st_mode) & ~_FOR_OWNER:
        try:
            folder.chmod(_FOR_OWNER)
            log.warning("%s was open to other users; the router has closed it to them", folder)
        except OSError as error:
            log.warning("%s is open to other users and holds the key that hides scopes: %s", folder, error.strerror)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _unwritable(folder: Path, error: OSError) -> ConfigError | BackendError:
    if error.errno in _PASSING:
        return BackendError(f"{folder} cannot be written: {error.strerror}")
    message = (
        f"cannot write {folder}: {error.strerror or error}; set server.state_path, or the variable STATE_DIRECTORY, to a folder "
        "that the router may write, or semantic_cache.backend_type to memory"
    )
    return ConfigError([Problem("config", 0, "semantic_cache", message)])
