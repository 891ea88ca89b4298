"""Checks of the cache: where it stores answers, and whether it can do so from this machine. Starts nothing."""

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
    """Warnings only, because the router may run on another machine that can reach the store."""
    if not cache.enabled:
        return
    if cache.backend == "memory" and cache.rejections_file:
        if fault := _unwritable(cache.rejections_file.parent):
            message = f"rejected pairs are lost when the router ends: {fault}; {_REMEDY}"
            yield Problem(file, 0, "semantic_cache", message, "warning")
    elif folder := cache.milvus.file:
        if fault := _unwritable(folder):
            yield Problem(file, 0, "semantic_cache", f"Milvus Lite could not start here: {fault}; {_REMEDY}", "warning")
        elif _is_open(folder):
            message = f"{folder} holds the key of the scopes, and other users can open it; the router closes it when it starts"
            yield Problem(file, 0, "semantic_cache", message, "warning")
    elif cache.backend == "milvus" and (fault := _knock(cache.milvus.host, cache.milvus.port)):
        message = f"{_place(cache)} does not answer from here: {fault}; without it the router caches in memory only"
        yield Problem(file, 0, "semantic_cache.backend_config_path", message, "warning")


_REMEDY = "set server.state_path, or the variable STATE_DIRECTORY, to a folder that the router can write to"


def cache_summary(cache: CacheConfig) -> str:
    """One line: whether the cache is on, where it stores answers, and who shares them."""
    if not cache.enabled:
        return "cache: off"
    shared = f"shared by requests with the same {cache.scope_header}" if cache.scope_header else "shared by all clients"
    return f"cache: on, in {_place(cache)}, {shared}"


def _place(cache: CacheConfig) -> str:
    if cache.backend != "milvus":
        return cache.backend
    return f"Milvus Lite, {cache.milvus.file}" if cache.milvus.file else f"Milvus at {cache.milvus.host}:{cache.milvus.port}"


def _unwritable(path: Path) -> str:
    """Why the router could not create a path or write to it, else empty. Creates nothing."""
    existing = next((folder for folder in (path, *path.parents) if folder.exists()), path)
    if not existing.is_dir():
        return f"{existing} is not a folder"
    if not os.access(existing, os.W_OK | os.X_OK):
        return f"{existing} is not writable"
    return ""


def _is_open(folder: Path) -> bool:
    return folder.exists() and bool(stat.S_IMODE(folder.stat().st_mode) & 0o077)


def _knock(host: str, port: int) -> str:
    try:
        socket.create_connection((host, port), _KNOCK_S).close()
    except OSError as error:
        return why_not(error)
    return ""
