"""A worker process: it listens, reports that it serves, and shuts down in order."""

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

from router import __version__
from router.admin.asked import read_asked
from router.admin.explain import explain
from router.admin.server import AdminRoutes, AdminServer
from router.core.models import Model
from router.extproc.processor import Processor
from router.extproc.server import Server
from router.runtime.build import Runtime
from router.runtime.build_cache import Caching
from router.runtime.supervisor import READY, report, watch_parent

log = logging.getLogger(__name__)

_STORE_START_S = 10.0  # a Milvus server takes 7 s to create the collection; an unreachable one fails at once
_FAST_GRACE_S = 0.3  # after Ctrl-C, when somebody waits at a terminal


@dataclass(frozen=True, slots=True)
class Supervised:
    """What a worker gets from its supervisor."""

    index: int
    admin_address: str
    parent_fd: int
    """The read end of a pipe. It closes when the supervisor ends, and then the worker ends, too."""
    report_fd: int


async def serve(runtime: Runtime, by: Supervised) -> int:
    """Serve until SIGTERM, which drains, or SIGINT, which does not wait. Returns the exit status.

    Raises:
        ConfigError: the worker cannot listen on an address.
    """
    config, caching = runtime.config, runtime.caching
    address = config.server.address_of(by.index)
    processor = Processor(runtime.snapshot, runtime.signal_reader, runtime.telemetry, caching.cache if caching else None)
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
        # The garbage collector need not visit what is loaded so far and stays: parsing a large body took 116 ms, now 55.
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
    """Open the store and use its key for scopes. Until it arrives, a random key is used, whose answers are then forgotten."""

    known = b""

    def take(key: bytes) -> None:
        nonlocal known
        plan, control = caching.plan(key), caching.control
        if known not in (b"", key) and plan.scope.header and (count := caching.cache.forget_scopes()):
            log.warning(
                "the key that hides scopes has changed; the cache forgets %d entries, because nobody could find them any more",
                count,
            )
        known = key
        control.scope_header = plan.scope.header
        control.scope_of = lambda value: plan.scope.of({plan.scope.header: value})
        processor.snapshot = replace(processor.snapshot, cache=plan)

    take(os.urandom(32))
    if caching.cache.store_sync:
        await caching.cache.store_sync.open(take, _STORE_START_S)


async def _sweep(caching: Caching) -> None:
    """Remove expired entries from time to time, until cancelled."""
    while True:
        await asyncio.sleep(caching.config.sync.sweep_s)
        caching.cache.sweep()


def _remove_folder(admin_address: str) -> None:
    """Remove the folder of the sockets when the supervisor is gone. The last worker succeeds, because it finds it empty."""
    socket = Path(admin_address.removeprefix("unix:"))
    with contextlib.suppress(OSError):
        socket.unlink(missing_ok=True)
        socket.parent.rmdir()


class End:
    """Waits for a reason to shut down, and shuts down accordingly."""

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
        """Wait for the reason, then shut down. SIGTERM drains; SIGINT, even while draining, does not wait.

        When the supervisor is gone, the port is released at once, so that another router can start there. Only open exchanges are
        completed.
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
    async def readiness() -> tuple[bool, Mapping[str, object]]:
        asked_s = server.health_asked_s
        worker = {"worker": index, "pid": os.getpid(), "ready": server.is_ready, "health_asked_s": asked_s}
        return server.is_ready, {"ready": server.is_ready, "workers": [worker]}

    async def metrics() -> bytes:
        return runtime.metrics.render() if runtime.metrics else b""

    async def explained(body: bytes) -> Mapping[str, object]:
        # The snapshot that traffic gets, including the cache's plan.
        return await explain(processor.snapshot, runtime.signal_reader, read_asked(body), peek)

    async def described() -> Mapping[str, object]:
        return describe(runtime)

    peek = runtime.caching.peek if runtime.caching else None
    operations = runtime.caching.control.operations if runtime.caching else {}
    return AdminRoutes(readiness, metrics, explained, described, __version__, operations)


def describe(runtime: Runtime) -> dict[str, object]:
    """The routing table in use, without secrets."""
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
        "signals": sorted(runtime.signal_reader.signals),
        "deadline_ms": config.signals.deadline_ms,
    }


def _model(model: Model) -> dict[str, str | None]:
    return {"cluster": model.cluster, "served_name": model.served_name, "reasoning_family": model.reasoning_family}
