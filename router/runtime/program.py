"""A program is what a router's workers run: the operator's files as they were read, and the settings that follow from them."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from router import files
from router.config.load import Config, load
from router.errors import ConfigError, Problem
from router.inference.manifest import BundleManifest

_KILL_S = 2.0  # beyond the configured time, for a worker to close its telemetry and its store


@dataclass(frozen=True, slots=True)
class Program:
    """One state of the configuration, with which any number of workers can start."""

    command: tuple[str, ...]
    """The command that starts a worker. The supervisor appends the options of each worker."""
    count: int
    """How many workers the configuration wants."""
    stop_s: float
    """How long a worker may take to shut down before it is killed, in seconds."""
    addresses: tuple[str, ...] = ()
    """The router's address and its admin port's. A restart cannot change them."""
    read: files.Files = field(default_factory=files.Files)
    """The files that workers use instead of those on the disk."""
    log_level: str = "info"
    allowed_hosts: tuple[str, ...] = ()
    """The host names under which the admin port answers."""


def read_program(path: Path, admin: str | None) -> Program:
    """Read and validate the configuration. `admin` replaces the configured address of the admin port.

    Raises:
        ConfigError: with every problem in it.
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
    """Raise `ConfigError` when an address has changed, because Envoy and the users of the admin port need to know it."""
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
    for folder in (signal.folder for signal in config.signals.custom.values()):
        found += [file for pattern in ("*.*", "onnx/*.*") for file in sorted(folder.glob(pattern)) if file.is_file()]
    return found


def _bundle_files(folder: Path) -> list[Path]:
    """The files that the manifest names. None for a damaged manifest, which the worker that loads it reports."""
    try:
        return [folder / name for name in BundleManifest.of(folder).sha256]
    except ConfigError:
        return []
