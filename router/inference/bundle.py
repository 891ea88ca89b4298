"""A model on disk: which files belong to it, and that none is missing or damaged. Runs no model."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from router.inference.manifest import FORMAT, BundleManifest, broken

SHIPPED = Path(__file__).parent.parent / "models" / "intent"
SHIPPED_VERIFIER = SHIPPED.parent / "verifier"
"""The bundles that ship with the package."""
MODEL, TOKENIZER = "model.onnx", "tokenizer.json"
TRAINED_ON = "trained_on.bin"
"""The digests of the training texts, sorted and joined. An evaluation on training texts is refused."""
DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True)
class Bundle(BundleManifest):
    """A whole and undamaged model: a manifest with which all its files agree."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the manifest and check every file against it.

        Raises:
            ConfigError: a file is missing or damaged, or this version does not read its format; the file is named.
        """
        bundle, file = cls.of(folder), folder / "manifest.json"
        if bundle.format != FORMAT:
            raise broken(file, f"is of format {bundle.format}, this version reads format {FORMAT}")
        if not {MODEL, TOKENIZER} <= bundle.sha256.keys() or not bundle.heads:
            raise broken(file, f"does not name its labels, {MODEL} and {TOKENIZER}")
        for name, expected in bundle.sha256.items():
            _check(folder / name, expected)
        return bundle


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
