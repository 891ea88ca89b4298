"""A model on disk: which files belong to it, and that none is missing or damaged. Runs no model."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from router.inference.manifest import FORMAT, BundleManifest, broken

SHIPPED = Path(__file__).parent.parent / "models" / "intent"
SHIPPED_VERIFIER = SHIPPED.parent / "verifier"
"""The bundles that ship with the package."""
MODEL, TOKENIZER = "model.onnx", "tokenizer.json"
TRAINED_ON = "trained_on.bin"
"""The digests of the training texts, sorted and joined. An evaluation on training texts is refused."""
DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True)
class Bundle:
    """A whole and undamaged model."""

    folder: Path
    name: str
    version: str
    heads: Mapping[str, tuple[str, ...]]
    """The labels of each head, in the order of its outputs."""
    thresholds: Mapping[str, float]
    """By signal: the default threshold, a probability from 0 to 1."""
    max_tokens: int
    """The most tokens of one pass, special tokens included."""
    outputs: Mapping[str, str]
    """The graph's name of an output, by our name for it, where the two differ."""
    sha256: Mapping[str, str]
    """By file name."""

    @classmethod
    def load(cls, folder: Path) -> Bundle:
        """Read the manifest and check every file against it.

        Raises:
            ConfigError: a file is missing or damaged, or this version does not read its format; the file is named.
        """
        facts, file = BundleManifest.of(folder), folder / "manifest.json"
        if facts.format != FORMAT:
            raise broken(file, f"is of format {facts.format}, this version reads format {FORMAT}")
        if not {MODEL, TOKENIZER} <= facts.sha256.keys() or not facts.heads:
            raise broken(file, f"does not name its labels, {MODEL} and {TOKENIZER}")
        for name, expected in facts.sha256.items():
            _check(folder / name, expected)
        return cls(
            folder, facts.name, facts.version, facts.heads, facts.thresholds, facts.max_tokens, facts.outputs, facts.sha256
        )


def digest(text: str) -> bytes:
    """Eight bytes that identify a training text, computed from its words in lower case."""
    words = re.sub(r"\W+", " ", text.lower()).strip()
    return hashlib.blake2b(words.encode("utf-8", "replace"), digest_size=DIGEST_BYTES).digest()


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(path: Path, expected: str) -> None:
    try:
        found = sha256_of(path)
    except OSError as error:
        raise broken(
            path, "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        ) from None
    if found != expected:
        raise broken(path, "is damaged: its sha256 differs from the manifest's")
