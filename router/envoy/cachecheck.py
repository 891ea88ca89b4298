"""What `semantic-router check` says of the cache: where it stores, and whether it could from here. Starts nothing."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from router.cache.stores.reach import why_not
from router.config.cache import CacheConfig
from router.errors import Problem

_KNOCK_S = 2.0


def cache_problems(cache: CacheConfig, file: str) -> Iterator[Problem]:
    """Warnings only: the router may run elsewhere, where the store can be reached."""
    if not cache.enabled:
        return
    if cache.backend == "memory" and cache.rejections_file:
        if fault := _unwritable(cache.rejections_file.parent):
            message = f"rejected pairs are forgotten when the router ends: {fault}; {_REMEDY}"
            yield Problem(file, 0, "semantic_cache", message, "warning")
    elif folder := cache.milvus.file:
        if fault := _unwritable(folder):
            yield Problem(file, 0, "semantic_cache", f"Milvus Lite could not start from here: {fault}; {_REMEDY}", "warning")
        elif _is_open(folder):
            message = f"{folder} holds the key of the scopes and is open to other users; the router shuts it at its start"
            yield Problem(file, 0, "semantic_cache", message, "warning")
    elif cache.backend == "milvus" and (fault := _knock(cache.milvus.host, cache.milvus.port)):
        message = f"{_place(cache)} does not answer from here: {fault}; without it the router caches in its own memory"
        yield Problem(file, 0, "semantic_cache.backend_config_path", message, "warning")


_REMEDY = "set server.state_path, or the variable STATE_DIRECTORY, to a folder that the router may write"


def cache_summary(cache: CacheConfig) -> str:
    """One line: on or off, where answers are stored, and who shares them."""
    if not cache.enabled:
        return "cache: off"
    shared = f"shared by requests with the same {cache.scope_header}" if cache.scope_header else "shared by all clients"
    return f"cache: on, in {_place(cache)}, {shared}"


def _place(cache: CacheConfig) -> str:
    if cache.backend != "milvus":
        return cache.backend
    return f"Milvus Lite, {cache.milvus.file}" if cache.milvus.file else f"Milvus at {cache.milvus.host}:{cache.milvus.port}"


def _unwritable(path: Path) -> str:
    """Why a path could not be made or written to, or empty. Nothing is made to find out."""
    existing = next((folder for folder in (path, *path.parents) if folder.exists()), path)
    if not existing.is_dir():
        return f"{existing} is no folder"
    if not os.access(existing, os.W_OK | os.X_OK):
        return f"{existing} cannot be written"
    return ""


def _is_open(folder: Path) -> bool:
    return folder.exists() and bool(stat.S_IMODE(folder.stat().st_mode) & 0o077)


def _knock(host: str, port: int) -> str:
    try:
        socket.create_connection((host, port), _KNOCK_S).close()
    except OSError as error:
        return why_not(error)
    return ""
