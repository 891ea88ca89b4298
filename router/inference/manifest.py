"""The one reader of a model's manifest.json or config.json. Loads no model library, because `check` needs only the labels."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from router.errors import ConfigError, Problem
from router.files import is_file, read_text

FORMAT = 2
"""The bundle format that this version reads."""
_LABELS_OF = {
    "intent": "labels",
    "outcomes": "models",
    "attack": "attacks",
    "personal": "personal",
    "cacheability": "cacheability",
    "complexity": "complexity",
}
"""The manifest's key for the labels of each head."""
HEAD_FORMAT = 1
"""The format of a head's bundle that this version reads."""
OUTSIDE = "out_of_scope"
"""A head's label for texts that belong to none of its own labels."""
_Json = Mapping[str, Any]
"""A file's document before its fields are checked."""
_MAX_TOKENS = 512
_PLACES = re.compile(r"^[BILUES]-")
"""The prefix of a label that marks the token's place within an entity."""


@dataclass(frozen=True, slots=True)
class BundleManifest:
    """The manifest.json of an encoder or a verifier. `Bundle` checks the files against it."""

    folder: Path
    """The folder of the manifest and its files."""
    format: object
    name: str
    version: str
    heads: Mapping[str, tuple[str, ...]]
    """The labels of each head, in the order of its outputs; empty where `labels` is missing."""
    thresholds: Mapping[str, float]
    """By signal: the default threshold, a probability from 0 to 1."""
    max_tokens: int
    """The most tokens of one pass, special tokens included."""
    outputs: Mapping[str, str]
    """The graph's name of an output, by our name for it, where the two differ."""
    sha256: Mapping[str, str]
    """By file name."""
    metrics: Mapping[str, object]
    """Measured when the model was trained."""

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Read manifest.json.

        Raises:
            ConfigError: the file is missing, or is not a manifest.
        """
        file = folder / "manifest.json"
        try:
            manifest = json.loads(read_text(file))
        except FileNotFoundError:
            raise broken(file, "is missing") from None
        except (OSError, ValueError) as error:
            raise broken(file, f"cannot be read: {getattr(error, 'strerror', None) or 'it is not JSON'}") from None
        if not isinstance(manifest, dict):
            raise broken(file, f"is of format None, this version reads format {FORMAT}")
        try:
            return cls._from(manifest, folder)
        except (AttributeError, TypeError, ValueError):
            raise broken(file, "is damaged") from None

    @classmethod
    def _from(cls, manifest: _Json, folder: Path) -> Self:
        heads = {head: tuple(map(str, manifest.get(key) or ())) for head, key in _LABELS_OF.items()}
        return cls(
            folder,
            manifest.get("format"),
            str(manifest.get("name", folder.name)),
            str(manifest.get("version", "?")),
            {head: labels for head, labels in heads.items() if labels and manifest.get("labels")},
            {str(signal): float(threshold) for signal, threshold in (manifest.get("thresholds") or {}).items()},
            int(manifest.get("max_tokens", 128)),
            {str(word): str(output) for word, output in (manifest.get("outputs") or {}).items()},
            {str(file): str(facts.get("sha256")) for file, facts in (manifest.get("files") or {}).items()},
            manifest.get("metrics") or {},
        )


def broken(file: Path, what: str) -> ConfigError:
    """The error for a model file that cannot be used, with the remedy."""
    message = f"the model file {what}; reinstall the package, or make the bundle again with `make train`"
    return ConfigError([Problem(str(file), 0, "", message)])


@dataclass(frozen=True, slots=True)
class ModelManifest:
    """The config.json of an exported Hugging Face model."""

    labels: tuple[str, ...]
    """In the order of the outputs."""
    is_multi_label: bool
    is_of_tokens: bool
    max_tokens: int

    @property
    def names(self) -> tuple[str, ...]:
        """The labels, or the kinds of entities, that rules may name."""
        return (
            tuple(dict.fromkeys(kind_of(label) for label in self.labels if kind_of(label))) if self.is_of_tokens else self.labels
        )

    @classmethod
    def of(cls, folder: Path) -> ModelManifest:
        """Read config.json.

        Raises:
            ConfigError: the file is missing, or names no labels.
        """
        file = folder / "config.json"
        try:
            document: _Json = json.loads(read_text(file))
            by_index = {int(index): str(label) for index, label in document["id2label"].items()}
            labels = tuple(by_index[index] for index in range(len(by_index)))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            message = "is missing or has no id2label; export the model with its configuration (config.json) beside it"
            raise ConfigError([Problem(str(file), 0, "id2label", message)]) from None
        kinds = document.get("architectures") or [""]
        positions = int(document.get("max_position_embeddings") or _MAX_TOKENS)
        return cls(
            labels,
            document.get("problem_type") == "multi_label_classification",
            "TokenClassification" in str(kinds[0]),
            min(_MAX_TOKENS, positions - 2 if positions > _MAX_TOKENS else positions),  # RoBERTa counts from 2
        )


def kind_of(label: str) -> str:
    """The kind of entity that a token's label names. Empty for `O`, which means outside."""
    return "" if label == "O" else _PLACES.sub("", label)


@dataclass(frozen=True, slots=True)
class HeadManifest:
    """The manifest.json of a head."""

    labels: tuple[str, ...]
    """In the order of the weights."""
    threshold: float
    """The default threshold of the confidence, 0 to 1."""
    min_familiarity: float
    """Threshold of the familiarity, -1 to 1: a text below it belongs to none of the labels. -1 switches this off."""
    sha256: str
    """Of the weights file."""
    encoder_sha256: str

    @property
    def names(self) -> tuple[str, ...]:
        """The labels that rules may name."""
        return (*self.labels, OUTSIDE) if self.min_familiarity > -1 else self.labels

    @classmethod
    def of(cls, folder: Path) -> HeadManifest:
        """Read manifest.json.

        Raises:
            ConfigError: `semantic-router train intent` did not write it.
        """
        file = folder / "manifest.json"
        try:
            manifest: _Json = json.loads(read_text(file))
            if manifest["format"] != HEAD_FORMAT or manifest["kind"] != "head":
                raise ValueError
            labels = tuple(map(str, manifest["labels"]))
            threshold, min_familiarity = (float(manifest[key]) for key in ("threshold", "known_at_least"))
            return cls(labels, threshold, min_familiarity, str(manifest["sha256"]), str(manifest["encoder_sha256"]))
        except (OSError, ValueError, KeyError, TypeError):
            message = "is not a head that `semantic-router train intent` wrote; train it again"
            raise ConfigError([Problem(str(file), 0, "", message)]) from None


def facts_of(folder: Path) -> HeadManifest | ModelManifest:
    """The manifest of an operator's own model. A head has a manifest.json, an exported model has a config.json.

    Raises:
        ConfigError: the folder has neither file, or the file cannot be used.
    """
    if is_file(folder / "manifest.json"):
        return HeadManifest.of(folder)
    if is_file(folder / "config.json"):
        return ModelManifest.of(folder)
    message = "holds neither manifest.json (`semantic-router train intent`) nor config.json (an exported Hugging Face model)"
    raise ConfigError([Problem(str(folder), 0, "", message)])
