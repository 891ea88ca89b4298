"""A model on disk: what belongs to it, and that it is whole. Loads nothing into a runtime."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from router.errors import ConfigError, Problem
from router.files import read_text

FORMAT = 2
"""The layout of a bundle that this version reads."""
SHIPPED = Path(__file__).parent.parent / "models" / "intent"
SHIPPED_VERIFIER = SHIPPED.parent / "verifier"
"""The bundles inside the package."""
MODEL, TOKENIZER = "model.onnx", "tokenizer.json"
TRAINED_ON = "trained_on.bin"
"""Digests of the training texts, sorted and joined: an evaluation on them is refused."""
DIGEST_BYTES = 8
_FIX = "reinstall the package, or make the bundle again with `make train`"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A whole and undamaged model."""

    folder: Path
    name: str
    version: str
    labels: tuple[str, ...]
    """In the order of the model's outputs."""
    thresholds: dict[str, float]
    """By signal: probability, 0 to 1, from which it counts unless the operator says otherwise."""
    max_tokens: int
    """What is read in one pass, special tokens included."""
    attacks: tuple[str, ...]
    """In the order of the output `attack`, harmless first; empty for a model without it."""
    kinds: tuple[str, ...]
    """Of personal data, in the order of the output `personal`; empty for a model without it."""
    models: tuple[str, ...]
    """Whose chances of a right answer are told, in the order of the output `outcomes`; empty for a model without it."""
    outputs: dict[str, str]
    """What the graph calls an output, by our word for it, where the two differ."""
    sha256: dict[str, str]
    """By file name."""

    @classmethod
    def load(cls, folder: Path) -> Bundle:
        """Read the manifest and check every file against it.

        Raises:
            ConfigError: a file is missing, damaged, or of a format that this version does not read; it names the file.
        """
        manifest = _manifest(folder)
        sha256 = {str(name): str(facts.get("sha256")) for name, facts in manifest["files"].items()}
        for name, expected in sha256.items():
            _check(folder / name, expected)
        attacks, kinds, models = (tuple(map(str, manifest.get(key, ()))) for key in ("attacks", "personal", "models"))
        return cls(
            folder,
            str(manifest.get("name", folder.name)),
            str(manifest.get("version", "?")),
            tuple(map(str, manifest["labels"])),
            {str(name): float(bar) for name, bar in manifest.get("thresholds", {}).items()},
            int(manifest.get("max_tokens", 128)),
            attacks,
            kinds,
            models,
            {str(name): str(output) for name, output in manifest.get("outputs", {}).items()},
            sha256,
        )


def digest(text: str) -> bytes:
    """Eight bytes by which a training text is known again: of its words in lower case."""
    words = re.sub(r"\W+", " ", text.lower()).strip()
    return hashlib.blake2b(words.encode("utf-8", "replace"), digest_size=DIGEST_BYTES).digest()


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(read_text(path))
    except FileNotFoundError:
        raise _broken(path, "is missing") from None
    except (OSError, ValueError) as error:
        raise _broken(path, f"cannot be read: {getattr(error, 'strerror', None) or 'it is not JSON'}") from None
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise _broken(path, f"is of format {found}, this version reads format {FORMAT}")
    files, labels = manifest.get("files"), manifest.get("labels")
    if not isinstance(files, dict) or not {MODEL, TOKENIZER} <= files.keys() or not isinstance(labels, list) or not labels:
        raise _broken(path, f"does not name its labels and the files {MODEL} and {TOKENIZER}")
    return manifest


def _check(path: Path, expected: str) -> None:
    try:
        found = sha256_of(path)
    except OSError as error:
        raise _broken(
            path, "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        ) from None
    if found != expected:
        raise _broken(path, "is damaged: its sha256 is not the manifest's")


def _broken(path: Path, what: str) -> ConfigError:
    return ConfigError([Problem(str(path), 0, "", f"the model file {what}; {_FIX}")])
