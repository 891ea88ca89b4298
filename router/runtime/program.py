"""What the workers of one router run: the operator's files as they were when they were read, and what follows from them."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from router import files
from router.config.load import Config, load
from router.errors import ConfigError, Problem

_KILL_S = 2.0  # a worker ends its telemetry and its store after the time that the configuration gives it


@dataclass(frozen=True, slots=True)
class Program:
    """One state of the configuration, with which any number of workers can be started."""

    command: tuple[str, ...]
    """Starts a worker; what tells workers apart is put behind it."""
    count: int
    stop_s: float
    """How long a worker may take to leave before it is killed."""
    addresses: tuple[str, ...] = ()
    """Of the router and of its admin port: a restart cannot change them."""
    read: files.Files = field(default_factory=files.Files)
    """For the worker in the place of the files on the disk."""
    log_level: str = "info"
    allowed_hosts: tuple[str, ...] = ()
    """Names that the admin port is asked under."""


def read_program(path: Path, admin: str | None) -> Program:
    """Read and validate the configuration. `admin` is an address in the place of the configured one.

    Raises:
        ConfigError: every problem in it.
    """
    with files.recorded() as read:
        config = load(path)
        read.pin(_model_files(config))
    command = (sys.executable, "-m", "router", "serve", "--config", str(path))
    server = config.server
    addresses = (server.address, admin or (config.admin.address if config.admin.enabled else ""))
    stop_s = server.drain_seconds + server.shutdown_timeout_seconds + _KILL_S
    return Program(command, server.workers, stop_s, addresses, read, config.telemetry.log_level, config.admin.allowed_hosts)


def refuse_moves(path: Path, running: Program, program: Program) -> None:
    """Raise `ConfigError` when an address is another one: Envoy and whoever asks the admin port have to be told, too."""
    problems = [
        Problem(str(path), 0, field, f"was {was or 'off'} when the router started; stop it and start it again to change that")
        for field, was, new in zip(("server.address", "admin.address"), running.addresses, program.addresses, strict=True)
        if was != new
    ]
    if problems:
        raise ConfigError(problems)


def _model_files(config: Config) -> list[Path]:
    """The files of all models that workers load."""
    found: list[Path] = []
    if config.signals.encoder.enabled:
        found += _bundle_files(config.signals.encoder.model_path)
    if config.cache.enabled and config.cache.verifier:
        found += _bundle_files(config.cache.verifier)
    for folder in config.signals.custom.values():
        found += [file for pattern in ("*.*", "onnx/*.*") for file in sorted(folder.glob(pattern)) if file.is_file()]
    return found


def _bundle_files(folder: Path) -> list[Path]:
    """As its manifest names them; a damaged one is told of by the worker that loads it."""
    try:
        return [folder / name for name in json.loads(files.read_text(folder / "manifest.json"))["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
