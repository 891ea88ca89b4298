"""What the files of a model say of it: the one reader of manifest.json. Loads no library: `check` needs the labels alone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from router.errors import ConfigError, Problem
from router.files import read_text

FORMAT = 2
"""The layout of a bundle that this version reads."""
_LABELS_OF = {"intent": "labels", "outcomes": "models", "attack": "attacks", "personal": "personal"}
"""Under which key that layout keeps the labels of a head."""
HEAD_FORMAT = 1
"""The layout of a head's bundle that this version reads."""
OUTSIDE = "out_of_scope"
"""A head's word for what belongs to none of its labels."""
_Json = Mapping[str, Any]
"""A file's document, before it is looked at."""
_MAX_TOKENS = 512
_PLACES = re.compile(r"^[BILUES]-")
"""What marks a token's place within an entity, in front of its kind."""


@dataclass(frozen=True, slots=True)
class BundleManifest:
    """What the manifest.json of an encoder or a verifier says. `Bundle` checks the files against it."""

    format: object
    name: str
    version: str
    heads: Mapping[str, tuple[str, ...]]
    """The labels of each head that the model has, in the order of its outputs; empty where `labels` is missing."""
    thresholds: Mapping[str, float]
    """By signal: probability, 0 to 1, from which it counts unless the operator says otherwise."""
    max_tokens: int
    """What is read in one pass, special tokens included."""
    outputs: Mapping[str, str]
    """What the graph calls an output, by our word for it, where the two differ."""
    sha256: Mapping[str, str]
    """By file name."""
    metrics: Mapping[str, object]
    """What was measured when it was made."""

    @classmethod
    def of(cls, folder: Path) -> BundleManifest:
        """Read manifest.json.

        Raises:
            ConfigError: it is missing, or no manifest.
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
            return cls._from(manifest, folder.name)
        except (AttributeError, TypeError, ValueError):
            raise broken(file, "is damaged") from None

    @classmethod
    def _from(cls, manifest: _Json, name: str) -> BundleManifest:
        heads = {head: tuple(map(str, manifest.get(key) or ())) for head, key in _LABELS_OF.items()}
        return cls(
            manifest.get("format"),
            str(manifest.get("name", name)),
            str(manifest.get("version", "?")),
            {head: labels for head, labels in heads.items() if labels and manifest.get("labels")},
            {str(signal): float(threshold) for signal, threshold in (manifest.get("thresholds") or {}).items()},
            int(manifest.get("max_tokens", 128)),
            {str(word): str(output) for word, output in (manifest.get("outputs") or {}).items()},
            {str(file): str(facts.get("sha256")) for file, facts in (manifest.get("files") or {}).items()},
            manifest.get("metrics") or {},
        )


def broken(file: Path, what: str) -> ConfigError:
    """A file of a model that cannot be used, and the way on."""
    message = f"the model file {what}; reinstall the package, or make the bundle again with `make train`"
    return ConfigError([Problem(str(file), 0, "", message)])


@dataclass(frozen=True, slots=True)
class ModelManifest:
    """What the config.json of an exported Hugging Face model says."""

    labels: tuple[str, ...]
    """In the order of the outputs."""
    is_multi_label: bool
    is_of_tokens: bool
    max_tokens: int

    @property
    def names(self) -> tuple[str, ...]:
        """What rules may ask for: labels, or kinds of entities."""
        return (
            tuple(dict.fromkeys(kind_of(label) for label in self.labels if kind_of(label))) if self.is_of_tokens else self.labels
        )

    @classmethod
    def of(cls, folder: Path) -> ModelManifest:
        """Read config.json.

        Raises:
            ConfigError: it is missing, or says no labels.
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
    """The kind of entity that a token's label names; empty for `O`."""
    return "" if label == "O" else _PLACES.sub("", label)


@dataclass(frozen=True, slots=True)
class HeadManifest:
    """What the manifest.json of a head says."""

    labels: tuple[str, ...]
    """In the order of the weights."""
    threshold: float
    """Confidence from which a label counts unless the operator says otherwise."""
    known_at_least: float
    """Familiarity below which a text lies outside, -1 to 1; -1 when nothing does."""
    sha256: str
    """Of the weights."""
    encoder_sha256: str

    @property
    def names(self) -> tuple[str, ...]:
        """What rules may ask for."""
        return (*self.labels, OUTSIDE) if self.known_at_least > -1 else self.labels

    @classmethod
    def of(cls, folder: Path) -> HeadManifest:
        """Read manifest.json.

        Raises:
            ConfigError: it is none that `semantic-router train intent` wrote.
        """
        file = folder / "manifest.json"
        try:
            manifest: _Json = json.loads(read_text(file))
            if manifest["format"] != HEAD_FORMAT or manifest["kind"] != "head":
                raise ValueError
            labels = tuple(map(str, manifest["labels"]))
            threshold, known_at_least = (float(manifest[key]) for key in ("threshold", "known_at_least"))
            return cls(labels, threshold, known_at_least, str(manifest["sha256"]), str(manifest["encoder_sha256"]))
        except (OSError, ValueError, KeyError, TypeError):
            message = "is no head that `semantic-router train intent` wrote; train it again"
            raise ConfigError([Problem(str(file), 0, "", message)]) from None


def facts_of(folder: Path) -> HeadManifest | ModelManifest:
    """A head has a manifest.json, an exported model a config.json. Raises `ConfigError` for what is neither."""
    if (folder / "manifest.json").is_file():
        return HeadManifest.of(folder)
    if (folder / "config.json").is_file():
        return ModelManifest.of(folder)
    message = "holds neither manifest.json (`semantic-router train intent`) nor config.json (an exported Hugging Face model)"
    raise ConfigError([Problem(str(folder), 0, "", message)])
