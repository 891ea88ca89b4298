"""The operator's files, read once, so that every worker runs the configuration that was validated.

The supervisor reads the configuration under `recorded` and hands the texts to its workers. A worker reads under `replayed` and
finds the same texts, even if the files on the disk have changed. Models are too large to hand over. The supervisor hands over
their SHA-256, and a worker that finds another model does not start.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from router.errors import ConfigError, Problem


@dataclass(slots=True)
class Files:
    """Texts and digests of files, by the path under which they were read."""

    texts: dict[str, str] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)
    """Hex digests of the files whose text is not handed over."""

    def pin(self, paths: Iterable[Path]) -> None:
        """Remember the digests of these files. Files that do not exist are left out."""
        for path in paths:
            with contextlib.suppress(OSError):
                self.sha256[str(path)] = _digest(path)

    def check(self) -> None:
        """Compare the pinned files with their digests.

        Raises:
            ConfigError: some files have changed; each is named.
        """
        message = (
            "has changed since the router read its configuration, so this worker would differ from the others; "
            "restore the file, or run `semantic-router restart` so that all workers use the new one"
        )
        changed = [path for path, sha256 in self.sha256.items() if _now(Path(path)) != sha256]
        if changed:
            raise ConfigError([Problem(path, 0, "", message) for path in changed])

    def dump(self) -> bytes:
        """As bytes for another process."""
        return json.dumps({"texts": self.texts, "sha256": self.sha256}).encode()

    @classmethod
    def load(cls, dumped: bytes) -> Files:
        """Read the result of `dump`."""
        document = json.loads(dumped)
        return cls(document["texts"], document["sha256"])


@dataclass(frozen=True, slots=True)
class _Use:
    files: Files
    is_replay: bool


_MAX_NAME, _MAX_PATH = 255, 4095


def is_usable(path: str) -> bool:
    """Whether a file system could hold this path at all: no NUL, no half of a character, no name too long."""
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return b"\0" not in encoded and len(encoded) <= _MAX_PATH and all(len(name) <= _MAX_NAME for name in encoded.split(b"/"))


def is_file(path: Path) -> bool:
    """Whether there is such a file. A path that cannot be looked at is none, where `Path.is_file` may raise."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


_in_use: ContextVar[_Use | None] = ContextVar("_in_use", default=None)


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, under `replayed` the recorded text. Raises as `Path.read_text` does."""
    use = _in_use.get()
    if use and use.is_replay and str(path) in use.files.texts:
        return use.files.texts[str(path)]
    text = path.read_text(encoding="utf-8")
    if use and not use.is_replay:
        use.files.texts[str(path)] = text
    return text


@contextlib.contextmanager
def recorded() -> Iterator[Files]:
    """Record every text that `read_text` reads in this context."""
    files = Files()
    token = _in_use.set(_Use(files, is_replay=False))
    try:
        yield files
    finally:
        _in_use.reset(token)


@contextlib.contextmanager
def replayed(files: Files) -> Iterator[None]:
    """Have `read_text` return the texts of `files` instead of those on the disk."""
    token = _in_use.set(_Use(files, is_replay=True))
    try:
        yield
    finally:
        _in_use.reset(token)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _now(path: Path) -> str:
    try:
        return _digest(path)
    except OSError:
        return ""
