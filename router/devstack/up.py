"""`semantic-router up`: starts and stops Envoy, the router and mock vLLM backends together on this machine.

Production does not need it: there, Envoy and `semantic-router serve` run on their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from router.config.load import Config, load
from router.core.admission import MODELS_PATH
from router.core.headers import PATH_HEADER
from router.envoy.binary import find_envoy
from router.envoy.file import EnvoyFile, endpoints_of, read_envoy
from router.errors import ConfigError, Problem

_START_TIMEOUT_S = 60.0  # a cold machine loads the models in seconds; Envoy takes 0.3 s
_STOP_TIMEOUT_S = 0.8  # Ctrl-C should feel immediate; processes that are left are killed
_POLL_S = 0.1
_THIS_MACHINE = ("127.0.0.1", "localhost")
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address on which a part will listen."""

    host: str
    port: int
    field: str
    """Where the operator set it, for the message when it is in use."""


@dataclass(frozen=True, slots=True)
class StackPlan:
    """What to run, and how to tell that it is ready."""

    commands: dict[str, Sequence[str]]
    """Command lines by name, in the order in which they start. They are stopped in reverse order."""
    ready_urls: tuple[str, ...]
    """The stack is ready when all of them answer 200."""
    routed_url: str
    """The router itself must answer it: until Envoy's health check has seen the router, requests bypass it."""
    addresses: tuple[Address, ...]
    """Must be free before anything starts."""


def plan_of(config_path: Path, envoy_path: Path) -> tuple[StackPlan, int]:
    """The plan for these two files, and the port for clients.

    A model marked `mock` gets a mock vLLM backend if its cluster points at this machine.

    Raises:
        ConfigError: a file cannot be read, or there is no Envoy.
    """
    config, envoy = load(config_path), read_envoy(envoy_path)
    addresses = [Address(*envoy.listener, "envoy.yaml listener"), Address(*envoy.admin, "envoy.yaml admin")]
    program = [sys.executable, "-m", "router"]
    commands: dict[str, Sequence[str]] = {}
    mocks = _mocks(config, envoy)
    if mocks:
        commands["mock backends"] = [*program, "mock-vllm", *(f"{name}={host}:{port}" for name, host, port in mocks)]
        addresses += [Address(host, port, f"envoy.yaml, cluster of {name}") for name, host, port in mocks]
    commands["router"] = [*program, "serve", "--config", str(config_path)]
    commands["envoy"] = [find_envoy(), "-c", str(envoy_path), "--log-level", "warning", "--use-dynamic-base-id"]
    ready = [f"http://{envoy.admin[0]}:{envoy.admin[1]}/ready"]
    ours = [config.server.address_of(index) for index in range(config.server.workers)]
    if config.admin.enabled:
        ours.append(config.admin.address)
        if not config.admin.address.startswith("unix:"):
            ready.insert(0, f"http://{config.admin.address}/readyz")
    for address in ours:
        if not address.startswith("unix:"):
            host, _, port = address.rpartition(":")
            addresses.append(Address(host, int(port), "config.yaml"))
    facing, client_port = envoy.listener
    routed_url = f"http://{'127.0.0.1' if facing == '0.0.0.0' else facing}:{client_port}{MODELS_PATH}"  # noqa: S104 - asked, not listened on
    return StackPlan(commands, tuple(ready), routed_url, tuple(addresses)), client_port


def _mocks(config: Config, envoy: EnvoyFile) -> list[tuple[str, str, int]]:
    """Served name, host and port of the models to mock, the default model first."""
    clusters, found = envoy.clusters(), []
    for model in sorted(config.models.values(), key=lambda model: model is not config.default_model):
        host, port = next(iter(endpoints_of(clusters[model.cluster])), ("", 0)) if model.cluster in clusters else ("", 0)
        if model.name in config.mocks and host in _THIS_MACHINE:
            found.append((model.served_name, host, port))
    return found


async def run(plan: StackPlan, on_ready: Callable[[], None]) -> int:
    """Start everything, call `on_ready` when all parts answer, and run until a signal or until a part ends.

    Returns the exit status: 0 after SIGINT or SIGTERM, 1 when a part ended on its own.

    Raises:
        ConfigError: an address is in use, or a part did not start.
    """
    _refuse_taken(plan.addresses)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stopped.set)
    processes: dict[str, asyncio.subprocess.Process] = {}
    try:
        for name, command in plan.commands.items():
            processes[name] = await _start(command)
        return await _watch(processes, plan, on_ready, stopped)
    finally:
        await _stop([processes[name] for name in reversed(processes)])


async def _watch(
    processes: dict[str, asyncio.subprocess.Process], plan: StackPlan, on_ready: Callable[[], None], stopped: asyncio.Event
) -> int:
    ended: dict[asyncio.Task[object], str] = {asyncio.create_task(process.wait()): name for name, process in processes.items()}
    stop, ready = asyncio.create_task(stopped.wait()), asyncio.create_task(_wait_ready(plan))
    try:
        done, _ = await asyncio.wait({*ended, stop, ready}, return_when=asyncio.FIRST_COMPLETED)
        if ready in done:
            ready.result()
            on_ready()
            done, _ = await asyncio.wait({*ended, stop}, return_when=asyncio.FIRST_COMPLETED)
        if stop in done:
            return 0
        task = next(task for task in done if task in ended)
        print(f"{ended[task]} ended with status {task.result()}; stopping the rest", file=sys.stderr)
        return 1
    finally:
        for task in (stop, ready, *ended):
            task.cancel()


async def _start(command: Sequence[str]) -> asyncio.subprocess.Process:
    # A session of its own, so that the terminal's Ctrl-C reaches only this process, which then stops the parts in order.
    preexec = _die_with_parent if sys.platform == "linux" else None
    return await asyncio.create_subprocess_exec(*command, start_new_session=True, preexec_fn=preexec)


def _die_with_parent() -> None:
    """Ask Linux to end this child when its parent is gone, even by SIGKILL."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


async def _wait_ready(plan: StackPlan) -> None:
    deadline = asyncio.get_running_loop().time() + _START_TIMEOUT_S
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1)) as session:
        for url in (*plan.ready_urls, plan.routed_url):
            path = "models" if url == plan.routed_url else None
            while not await _answers(session, url, path):
                if asyncio.get_running_loop().time() > deadline:
                    raise ConfigError([Problem("up", 0, "", f"{url} did not answer within {_START_TIMEOUT_S:.0f} s")])
                await asyncio.sleep(_POLL_S)


async def _answers(session: aiohttp.ClientSession, url: str, response_path: str | None) -> bool:
    """Whether the URL answers 200, with the given response path of the router if any."""
    try:
        async with session.get(url) as response:
            return response.status == 200 and response.headers.get(PATH_HEADER) == response_path
    except (aiohttp.ClientError, TimeoutError):
        return False


async def _stop(processes: Sequence[asyncio.subprocess.Process]) -> None:
    """Send SIGINT to all, which makes every part stop at once. After a moment, send SIGKILL to the rest."""
    for process in processes:
        _signal(process, signal.SIGINT)
    waiting = [asyncio.create_task(process.wait()) for process in processes]
    if waiting:
        _, late = await asyncio.wait(waiting, timeout=_STOP_TIMEOUT_S)
        if late:
            for process in processes:
                _signal(process, signal.SIGKILL)
            await asyncio.wait(late)


def _signal(process: asyncio.subprocess.Process, signum: int) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            # The whole session, because a supervisor's workers must not outlive it.
            os.killpg(process.pid, signum)


def _refuse_taken(addresses: Sequence[Address]) -> None:
    problems = [
        Problem(
            address.field,
            0,
            "",
            f"another program uses port {address.port} on {address.host}; stop it or set another port",
        )
        for address in addresses
        if _is_taken(address)
    ]
    if problems:
        raise ConfigError(problems)


def _is_taken(address: Address) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError:
            return True
    return False
