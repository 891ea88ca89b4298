"""`semantic-router eval intent FILE`: measures intent classification on texts that the model was not trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from router.errors import ConfigError, Problem
from router.evaluation.leaks import without_trained_on
from router.evaluation.lines import UnfitError, read_cases
from router.evaluation.measures import Estimate, bootstrap, share
from router.evaluation.texts import WANTED, labelled_text
from router.inference.bundle import SHIPPED, Bundle
from router.inference.encoder import Encoder
from router.inference.manifest import HeadManifest
from router.inference.pool import InferencePool
from router.signals.intent import HEAD as INTENT
from router.signals.own.head import WEIGHTS, Head

SCIENCES = ("biology", "chemistry", "computer science", "engineering", "health", "math", "physics", "psychology")
"""Everyday talk does the most harm when it is classified as a science, because rules send these to a large model."""


@dataclass(frozen=True, slots=True)
class Classifier:
    """A model that classifies texts: the encoder with its categories, or an operator's head on its vectors."""

    name: str
    labels: tuple[str, ...]
    threshold: float
    encoder: Bundle
    head: Head | None = None

    @classmethod
    def load(cls, folder: Path) -> Classifier:
        """Load an encoder's bundle, or a head, which uses the shipped encoder. Raises `ConfigError` for any other folder."""
        if not (folder / WEIGHTS).is_file():
            bundle = Bundle.load(folder)
            return cls(f"{bundle.name} {bundle.version}", bundle.heads[INTENT], bundle.thresholds["intent"], bundle)
        encoder, facts = Bundle.load(SHIPPED), HeadManifest.of(folder)
        return cls(folder.name, facts.names, facts.threshold, encoder, Head.load(folder, encoder))

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """(texts, labels) float64. A text outside a head's labels has probability 1 for `out_of_scope`."""
        encoder = Encoder(self.encoder, InferencePool(1, 1))
        encodings = [encoder.run(text) for text in texts]
        if self.head is None:
            return np.array([encoding.scores[INTENT] for encoding in encodings], dtype=np.float64)
        layers = np.stack([encoding.layers for encoding in encodings])
        found = self.head.probabilities(layers).astype(np.float64)
        if len(self.labels) == len(self.head.labels):
            return found
        outside = (self.head.familiarity(layers) < self.head.min_familiarity)[:, np.newaxis]
        return np.concatenate([np.where(outside, 0.0, found), outside.astype(np.float64)], axis=1)


def evaluate(path: Path, folder: Path, threshold: float | None = None) -> Iterator[str]:
    """The report on the labelled texts in `path`, line by line.

    Each line of the file is a JSON object with `text` and `label`.

    Raises:
        ConfigError: the file does not have this form, or the model was trained on most of it.
    """
    model = Classifier.load(folder)
    cases, warnings = _read(path, model)
    yield from warnings
    threshold = model.threshold if threshold is None else threshold
    probabilities = model.probabilities([text for text, _ in cases])
    truth = np.array([label for _, label in cases], dtype=np.int64)
    guess, confidence = probabilities.argmax(1), probabilities.max(1)
    is_known = confidence >= threshold
    yield f"{model.name} on {path.name}: {len(cases)} texts"
    for name, estimate in bootstrap(truth, probabilities).items():
        yield f"{name:28} {estimate}"
    known = int(is_known.sum())
    yield f"{'known':28} {share(known, len(cases))}  confidence at least {threshold:.2f}"
    yield f"{'accuracy of known':28} {share(int((guess == truth)[is_known].sum()), known)}"
    yield from _everyday(truth, guess, is_known, model.labels)
    yield ""
    yield from _confusion(truth, guess, model.labels)


def compare(path: Path, folders: Sequence[Path]) -> Iterator[str]:
    """Compare two models on the same labelled texts, and test whether their difference is significant.

    Raises:
        ConfigError: the models have different labels; else as `evaluate`.
    """
    one, other = map(Classifier.load, folders)
    if set(one.labels) != set(other.labels):
        message = f"{folders[0]} and {folders[1]} have different labels, so one file cannot compare them"
        raise ConfigError([Problem(str(folders[1]), 0, "labels", message)])
    right: list[NDArray[np.bool_]] = []
    figures: list[dict[str, Estimate]] = []
    read = [_read(path, model) for model in (one, other)]
    both = set(read[0][0]) & set(read[1][0])  # texts that one model was trained on are left out for both
    yield from dict.fromkeys(warning for _, warnings in read for warning in warnings)
    for model, (known, _) in zip((one, other), read, strict=True):
        cases = [(text, label) for text, label in known if (text, label) in both]
        probabilities = model.probabilities([text for text, _ in cases])
        truth = np.array([label for _, label in cases], dtype=np.int64)
        right.append(probabilities.argmax(1) == truth)
        figures.append(bootstrap(truth, probabilities))
    yield f"{len(right[0])} texts of {path.name}"
    yield f"{'':28} {one.name:36} {other.name}"
    for name in figures[0]:
        yield f"{name:28} {figures[0][name]!s:36} {figures[1][name]}"
    first, second = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    p = _sign_test(first, second)
    yield f"only the first is right on {first}, only the second on {second}: p = {p:.3g} (exact McNemar test)"


Places = NDArray[np.int64]
"""(texts,) int64: the index of each text's label."""


def _sign_test(first: int, second: int) -> float:
    """The two-sided probability of a split at least this uneven by chance."""
    total = first + second
    tail: float = sum(math.comb(total, count) for count in range(min(first, second) + 1)) / 2**total
    return min(1.0, 2 * tail)


def _everyday(truth: Places, guess: Places, is_known: NDArray[np.bool_], labels: Sequence[str]) -> Iterator[str]:
    if "other" not in labels:
        return
    everyday = truth == labels.index("other")
    sciences = np.isin(guess, [labels.index(name) for name in SCIENCES if name in labels])
    if everyday.any():
        taken = int((everyday & sciences & is_known).sum())
        yield f"{'other as science':28} {share(taken, int(everyday.sum()))}  of `other`, confidently in a science"


def _confusion(truth: Places, guess: Places, labels: Sequence[str]) -> Iterator[str]:
    yield "rows: the label; columns: the prediction"
    yield " " * 18 + "".join(f"{label[:5]:>6}" for label in labels)
    for row, label in enumerate(labels):
        counts = [int(((truth == row) & (guess == column)).sum()) for column in range(len(labels))]
        if sum(counts):
            yield f"{label:18}" + "".join(f"{count or '.':>6}" for count in counts)


def _read(path: Path, model: Classifier) -> tuple[list[tuple[str, int]], list[str]]:
    """Texts with the index of their label, without those that the model was trained on, and a warning about the latter."""
    labels = model.labels

    def labelled(line: dict[str, object]) -> tuple[str, int]:
        text, label = labelled_text(line)
        if label not in labels:
            raise UnfitError("label", f"'{label}' is none of {', '.join(labels)}")
        return text, labels.index(label)

    cases = [(line, case) for line, case in read_cases(path, labelled, WANTED) if case[0].strip()]
    return without_trained_on(path, model.encoder, cases, lambda case: case[0])
