"""One router process: listens, reports, and leaves in order when it is told to."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from router import __version__
from router.admin.server import AdminRoutes, AdminServer
from router.build import Caching, Runtime
from router.core.types import Model
from router.errors import RequestError
from router.explain import explain
from router.extproc.server import Processor, Server

log = logging.getLogger(__name__)

_STORE_START_S = 10.0  # making the collection takes a Milvus server 7 s, the first time; one that is down fails at once
_FAST_GRACE_S = 0.3  # Ctrl-C: somebody waits at a terminal


async def serve(runtime: Runtime, index: int, admin_address: str | None, parent_fd: int | None) -> int:
    """Serve until SIGTERM, which drains, or SIGINT, which does not wait; the exit status.

    `parent_fd` is the end of a pipe whose other end a supervisor holds: when that is gone, so are we.

    Raises:
        ConfigError: an address cannot be listened on.
    """
    config, caching = runtime.config, runtime.caching
    address = config.server.address_of(index)
    processor = Processor(runtime.snapshot, runtime.senses, runtime.telemetry, caching.cache if caching else None)
    server = Server(address, processor, config.server.max_body_bytes)
    stopped: asyncio.Future[signal.Signals] = asyncio.get_running_loop().create_future()
    _listen_for_the_end(stopped, parent_fd)
    admin = AdminServer(admin_address, _routes(runtime, server, index)) if admin_address else None
    watching = [asyncio.create_task(runtime.metrics.watch_loop())] if runtime.metrics else []
    if caching:
        watching.append(asyncio.create_task(_sweep(caching)))
    try:
        if caching:
            await _open_cache(caching, processor)
        if admin:
            await admin.start()
        await server.start()
        # What is loaded by now stays: the collector need not walk it while a body with many values is parsed (116 ms, then 55).
        gc.freeze()
        log.info("serving ext_proc on %s", address)
        signum = await stopped
        if signum is signal.SIGTERM:
            log.info("draining")
            await server.drain(config.server.drain_s, config.server.grace_s)
        else:
            await server.drain(0, _FAST_GRACE_S)
        return 0
    finally:
        for task in watching:
            task.cancel()
        if admin:
            await admin.stop()
        if caching and caching.cache.keeper:
            await caching.cache.keeper.close()
        runtime.telemetry.close()


async def _open_cache(caching: Caching, processor: Processor) -> None:
    """Until the store has given the key for scopes, one of our own serves: answers stored under it are out of reach then."""

    def take(key: bytes) -> None:
        processor.snapshot = replace(processor.snapshot, cache=caching.plan(key))

    take(os.urandom(32))
    if caching.cache.keeper:
        await caching.cache.keeper.open(take, _STORE_START_S)


async def _sweep(caching: Caching) -> None:
    """Forget what has expired, now and then, until cancelled."""
    while True:
        await asyncio.sleep(caching.config.pace.sweep_s)
        caching.cache.sweep()


def _listen_for_the_end(stopped: asyncio.Future[signal.Signals], parent_fd: int | None) -> None:
    def stop(signum: signal.Signals) -> None:
        if not stopped.done():
            stopped.set_result(signum)

    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop, signum)
    if parent_fd is not None:
        from router.workers import watch_parent

        watch_parent(parent_fd, lambda: stop(signal.SIGTERM))


def _routes(runtime: Runtime, server: Server, index: int) -> AdminRoutes:
    async def readiness() -> tuple[bool, Mapping[str, Any]]:
        worker = {"worker": index, "pid": os.getpid(), "ready": server.is_ready}
        return server.is_ready, {"ready": server.is_ready, "workers": [worker]}

    async def metrics() -> bytes:
        return runtime.metrics.render() if runtime.metrics else b""

    async def explained(body: bytes) -> Mapping[str, Any]:
        return await explain(runtime.snapshot, runtime.senses, chat_body(body), {})

    async def described() -> Mapping[str, Any]:
        return describe(runtime)

    operations = runtime.caching.control.operations if runtime.caching else {}
    return AdminRoutes(readiness, metrics, explained, described, __version__, operations)


def chat_body(body: bytes) -> bytes:
    """A chat request from what a person may send to be explained: such a request, or `{"prompt": "..."}`.

    Raises:
        RequestError: the prompt is no string.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return body  # the exchange says what is wrong with it, as it would to a client
    if not isinstance(document, dict) or "prompt" not in document or "messages" in document:
        return body
    if not isinstance(document["prompt"], str):
        raise RequestError(400, "'prompt' must be a string", param="prompt", code="invalid_type")
    return prompt_body(document["prompt"])


def prompt_body(prompt: str) -> bytes:
    """The chat request that leaves the model open and asks `prompt`."""
    return json.dumps({"model": "auto", "messages": [{"role": "user", "content": prompt}]}).encode()


def describe(runtime: Runtime) -> dict[str, Any]:
    """The routing table in force, without anything secret."""
    config = runtime.config
    return {
        "auto_models": list(config.auto_models),
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
