"""One router process: listens, reports, and leaves in order when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from router import __version__
from router.admin.asked import read_asked
from router.admin.explain import explain
from router.admin.server import AdminRoutes, AdminServer
from router.core.types import Model
from router.extproc.server import Processor, Server
from router.runtime.build import Caching, Runtime
from router.runtime.supervisor import READY, report, watch_parent

log = logging.getLogger(__name__)

_STORE_START_S = 10.0  # making the collection takes a Milvus server 7 s, the first time; one that is down fails at once
_FAST_GRACE_S = 0.3  # Ctrl-C: somebody waits at a terminal


@dataclass(frozen=True, slots=True)
class Supervised:
    """What a supervisor gives to its worker."""

    index: int
    admin_address: str
    parent_fd: int
    """The end of a pipe whose other end the supervisor holds: when that is gone, so are we."""
    report_fd: int


async def serve(runtime: Runtime, by: Supervised) -> int:
    """Serve until SIGTERM, which drains, or SIGINT, which does not wait; the exit status.

    Raises:
        ConfigError: an address cannot be listened on.
    """
    config, caching = runtime.config, runtime.caching
    address = config.server.address_of(by.index)
    processor = Processor(runtime.snapshot, runtime.senses, runtime.telemetry, caching.cache if caching else None)
    server = Server(address, processor, config.server.max_body_bytes)
    end = End(by.parent_fd)
    admin = AdminServer(by.admin_address, _routes(runtime, processor, server, by.index))
    watching = [asyncio.create_task(runtime.metrics.watch_loop())] if runtime.metrics else []
    if caching:
        watching.append(asyncio.create_task(_sweep(caching)))
    try:
        if caching:
            await _open_cache(caching, processor)
        await admin.start()
        await server.start()
        # What is loaded by now stays: the collector need not walk it while a body with many values is parsed (116 ms, then 55).
        gc.freeze()
        log.info("serving ext_proc on %s", address)
        report(by.report_fd, READY)
        await end.leave(server, config.server.drain_seconds, config.server.shutdown_timeout_seconds)
        return 0
    finally:
        for task in watching:
            task.cancel()
        await admin.stop()
        if end.is_orphan:
            _remove_folder(by.admin_address)
        if caching and caching.cache.store_sync:
            await caching.cache.store_sync.close()
        runtime.telemetry.close()


async def _open_cache(caching: Caching, processor: Processor) -> None:
    """Until the store has given the key for scopes, one of our own serves: answers stored under it are out of reach then."""

    known = b""

    def take(key: bytes) -> None:
        nonlocal known
        plan, control = caching.plan(key), caching.control
        if known not in (b"", key) and plan.scope.header:
            caching.cache.forget_scopes()
        known = key
        control.scope_header = plan.scope.header
        control.scope_of = lambda value: plan.scope.of({plan.scope.header: value})
        processor.snapshot = replace(processor.snapshot, cache=plan)

    take(os.urandom(32))
    if caching.cache.store_sync:
        await caching.cache.store_sync.open(take, _STORE_START_S)


async def _sweep(caching: Caching) -> None:
    """Forget what has expired, now and then, until cancelled."""
    while True:
        await asyncio.sleep(caching.config.pace.sweep_s)
        caching.cache.sweep()


def _remove_folder(admin_address: str) -> None:
    """Of the sockets; the supervisor can do it no more. The last worker finds it empty."""
    socket = Path(admin_address.removeprefix("unix:"))
    with contextlib.suppress(OSError):
        socket.unlink(missing_ok=True)
        socket.parent.rmdir()


class End:
    """Waits for the reason to leave, and leaves accordingly."""

    def __init__(self, parent_fd: int) -> None:
        self._told, self._hurried = asyncio.Event(), asyncio.Event()
        self.is_orphan = False
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._told.set)
        loop.add_signal_handler(signal.SIGINT, self._hurry)
        watch_parent(parent_fd, self._orphan)

    def _hurry(self) -> None:
        self._told.set()
        self._hurried.set()

    def _orphan(self) -> None:
        self.is_orphan = True
        self._told.set()

    async def leave(self, server: Server, drain_s: float, grace_s: float) -> None:
        """When it is time: SIGTERM drains, SIGINT, also in the middle of that, does not wait.

        Without a supervisor there is none to come after us either: the port is let go at once, so that another router can
        start there, and only what is open is ended in peace.
        """
        await self._told.wait()
        log.info("leaving" if self._hurried.is_set() else "the supervisor is gone" if self.is_orphan else "draining")
        draining = asyncio.create_task(server.drain(0 if self.is_orphan else drain_s, grace_s))
        hurried = asyncio.create_task(self._hurried.wait())
        await asyncio.wait({draining, hurried}, return_when=asyncio.FIRST_COMPLETED)
        if not draining.done():
            draining.cancel()
            await server.drain(0, _FAST_GRACE_S)
        hurried.cancel()


def _routes(runtime: Runtime, processor: Processor, server: Server, index: int) -> AdminRoutes:
    async def readiness() -> tuple[bool, Mapping[str, Any]]:
        asked_s = server.health_asked_s
        worker = {"worker": index, "pid": os.getpid(), "ready": server.is_ready, "health_asked_s": asked_s}
        return server.is_ready, {"ready": server.is_ready, "workers": [worker]}

    async def metrics() -> bytes:
        return runtime.metrics.render() if runtime.metrics else b""

    async def explained(body: bytes) -> Mapping[str, Any]:
        # The very snapshot that traffic gets, with the cache's plan in it.
        return await explain(processor.snapshot, runtime.senses, read_asked(body), peek)

    async def described() -> Mapping[str, Any]:
        return describe(runtime)

    peek = runtime.caching.peek if runtime.caching else None
    operations = runtime.caching.control.operations if runtime.caching else {}
    return AdminRoutes(readiness, metrics, explained, described, __version__, operations)


def describe(runtime: Runtime) -> dict[str, Any]:
    """The routing table in force, without anything secret."""
    config = runtime.config
    return {
        "virtual_models": list(config.virtual_models),
        "models": {name: _model(model) for name, model in config.models.items()},
        "rules": [
            {"name": rule.name, "priority": rule.priority, "when": str(rule.when), "model": rule.model.name}
            for rule in config.policy.rules
        ],
        "default": config.default_model.name,
        "intent_threshold": config.policy.intent_threshold,
        "signals": sorted(runtime.senses.signals),
        "deadline_ms": config.signals.deadline_ms,
    }


def _model(model: Model) -> dict[str, str | None]:
    return {"cluster": model.cluster, "served_name": model.served_name, "reasoning_family": model.reasoning_family}
