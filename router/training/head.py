"""Trains a head for an operator's own labels on the frozen encoder: a calibrated linear classifier. Needs no torch."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from router.config.conditions import BUILT_IN_SIGNALS
from router.config.keys import NAME, NAME_WORDS
from router.errors import BackendError, ConfigError, Problem
from router.evaluation.measures import Estimate, bootstrap, roc_area, share
from router.evaluation.texts import groups_of, read_labelled
from router.inference.bundle import MODEL, Bundle, sha256_of
from router.inference.cores import usable_cores
from router.inference.encoder import Encoder
from router.inference.manifest import HEAD_FORMAT, OUTSIDE
from router.inference.pool import InferencePool
from router.signals.own.head import VECTOR, WEIGHTS, Head, features_of

Vectors = NDArray[np.float32]
Places = NDArray[np.int64]
STRENGTHS = (3e-6, 1e-5, 3e-5, 1e-4, 3e-4)
"""The penalties on weights to try. Unit vectors need little."""
FOLDS = 5
_MIN_EXAMPLES = 2  # per label: one to train on, one to measure on
_MAX_TRIED = 2000
_MAX_NAMED = 5
_STEPS, _MEMORY = 150, 8


@dataclass(frozen=True, slots=True)
class Fitted:
    """A head with its figures from cross-validation."""

    head: Head
    threshold: float
    strength: float
    figures: dict[str, Estimate]


def train(path: Path, encoder: Bundle, out: Path, name: str, config: Path | None = None) -> Iterator[str]:
    """Train a head on the labelled texts in `path`, write its bundle into `out`, and report line by line.

    Texts labelled `out_of_scope` teach the head which texts belong to none of its labels. `name` is the signal's name in rules,
    and `config` the configuration that will use it.

    Raises:
        ConfigError: the file cannot be read, a label has fewer than two texts, or there are fewer than two labels.
    """
    _check_name(name)
    lines = read_labelled(path)
    texts = [case for _, case in lines]
    groups = np.array(groups_of([text for text, _ in texts]), dtype=np.int64)
    _check(path, [label for _, label in texts], groups)
    yield from _repeated(path, lines, groups)
    layers = encode([text for text, _ in texts], encoder)
    labels = tuple(sorted({label for _, label in texts} - {OUTSIDE}))
    truth = np.array([labels.index(label) if label != OUTSIDE else -1 for _, label in texts], dtype=np.int64)
    fitted = fit(layers, truth, labels, groups)
    width = len(fitted.head.weights)
    yield f"{len(texts)} texts, {len(labels)} labels; {width} features, penalty {fitted.strength:g}"
    yield f"by {FOLDS}-fold cross-validation:"
    for figure, estimate in fitted.figures.items():
        yield f"{figure:20} {estimate}"
    yield f"{'threshold':20} {fitted.threshold:.2f}  where labels are right 19 times in 20"
    write(fitted, encoder, out, name, path)
    yield from _how_to_use(out, name, config)


def _how_to_use(out: Path, name: str, config: Path | None) -> Iterator[str]:
    """The lines for the configuration. Its paths are relative to its folder."""
    if config is None or not config.is_file():
        where, folder = "the router's configuration", str(out.resolve())
    else:
        where, folder = str(config), os.path.relpath(out.resolve(), config.resolve().parent)
    quoted = json.dumps(folder, ensure_ascii=False)
    yield f"wrote {out}; in {where}:\n\nsignals:\n  custom:\n    {name}: {{ model_path: {quoted} }}"


def _check_name(name: str) -> None:
    if not re.fullmatch(NAME, name) or name in BUILT_IN_SIGNALS:
        why = "is a built-in signal" if name in BUILT_IN_SIGNALS else f"is not allowed: {NAME_WORDS} was expected"
        message = f"the signal's name would be '{name}', which {why}; name it with --name, or write to another folder"
        raise ConfigError([Problem("--out", 0, "", message)])


def _repeated(path: Path, lines: Sequence[tuple[int, tuple[str, str]]], groups: Places) -> Iterator[str]:
    """Warnings about repeated texts."""
    members: dict[int, list[tuple[int, str]]] = {}
    for (line, (_, label)), group in zip(lines, groups, strict=True):
        members.setdefault(int(group), []).append((line, label))
    again = [some for some in members.values() if len(some) > 1]
    if again:
        extra = sum(len(some) - 1 for some in again)
        alike = "repeat others, apart from case, spacing and punctuation; copies are never both trained and measured on"
        yield f"warning: {path}: {extra} of {len(lines)} texts {alike}"
    torn = [some for some in again if len({label for _, label in some}) > 1]
    for some in torn[:_MAX_NAMED]:
        named = ", ".join(f"line {line} '{label}'" for line, label in some[:4])
        yield f"warning: {path}: the same text has different labels: {named}"
    if len(torn) > _MAX_NAMED:
        yield f"warning: {path}: {len(torn) - _MAX_NAMED} more texts have different labels"


def _check(path: Path, labels: Sequence[str], groups: Places) -> None:
    different = {(label, int(group)) for label, group in zip(labels, groups, strict=True)}
    counts = {label: sum(label == other for other, _ in different) for label in dict.fromkeys(labels)}
    few = [label for label, count in counts.items() if count < _MIN_EXAMPLES]
    if few:
        need = "every label needs two different texts, and eight are a good start"
        message = f"has only one text, perhaps repeated, for {', '.join(few[:5])}; {need}"
        raise ConfigError([Problem(str(path), 0, "label", message)])
    if len(counts.keys() - {OUTSIDE}) < 2:
        raise ConfigError([Problem(str(path), 0, "label", "names fewer than two labels, so there is nothing to tell apart")])


def encode(texts: Sequence[str], bundle: Bundle) -> Vectors:
    """The vectors of four layers, (n, 1536) float32, computed on all cores. A text without tokens gives zeros."""
    encoder = Encoder(bundle, InferencePool(1, 1))

    blank = encoder.run("blank").layers

    def vector(text: str) -> Vectors:
        try:
            return encoder.run(text).layers
        except BackendError:
            return np.zeros_like(blank)

    with ThreadPoolExecutor(usable_cores()) as pool:
        return np.stack(list(pool.map(vector, texts)))


def fit(layers: Vectors, truth: Places, labels: Sequence[str], groups: Places | None = None) -> Fitted:
    """The best head by cross-validation, of two widths and several penalties.

    `layers` is (texts, 1536). `truth` is each text's index in `labels`, or -1 for `out_of_scope`. Texts of one group are never
    split between training and measuring, because memorised texts say nothing.
    """
    inside, inner = layers[truth >= 0], truth[truth >= 0]
    folds = _folds(inner, np.arange(len(inner)) if groups is None else groups[truth >= 0])
    width, strength = _chosen(inside, inner, len(labels), folds)
    logits = _out_of_fold(features_of(inside, width), inner, len(labels), folds, strength)
    scale = _scale(logits, inner)
    probabilities = _softmax(logits * scale)
    figures = dict(bootstrap(inner, probabilities.astype(np.float64)))
    weights, bias = minimise(features_of(inside, width), inner, len(labels), strength)
    vectors = features_of(inside, VECTOR)
    examples = np.rint(vectors * 127).astype(np.int8)
    head = Head(tuple(labels), weights * scale, bias * scale, examples, -1.0)
    min_familiarity = -1.0
    if (truth < 0).any():
        known, unknown = _familiar_out_of_fold(vectors, probabilities, folds), head.familiarity(layers[truth < 0])
        min_familiarity = _min_familiarity(known, unknown)
        is_known = np.concatenate([np.ones(len(known), bool), np.zeros(len(unknown), bool)])
        area = roc_area(is_known, np.concatenate([known, unknown]).astype(np.float64))
        figures["outside_roc_area"] = Estimate(area, area, area)
        figures["taken_for_outside"] = share(int((known < min_familiarity).sum()), len(known))
        figures["outside_found"] = share(int((unknown < min_familiarity).sum()), len(unknown))
    head = Head(head.labels, head.weights, head.bias, examples if min_familiarity > -1 else examples[:0], min_familiarity)
    return Fitted(head, _threshold(probabilities, inner), strength, figures)


def _chosen(layers: Vectors, truth: Places, labels: int, folds: Places) -> tuple[int, float]:
    """The width and the penalty with the lowest loss, by cross-validation on a few thousand texts."""
    few = np.concatenate([np.flatnonzero(truth == label)[: max(FOLDS, _MAX_TRIED // labels)] for label in range(labels)])
    some, known, parts = layers[few], truth[few], folds[few]
    losses = {}
    for width in sorted({VECTOR, layers.shape[1]}):
        for strength in STRENGTHS:
            logits = _out_of_fold(features_of(some, width), known, labels, parts, strength)
            losses[width, strength] = _log_loss(logits, known, _scale(logits, known))
    return min(losses, key=losses.__getitem__)


def minimise(vectors: Vectors, truth: Places, labels: int, strength: float) -> tuple[Vectors, Vectors]:
    """Weights (width, labels) and bias (labels,) of multinomial logistic regression with an L2 penalty, by L-BFGS."""
    rows, width = np.arange(len(truth)), vectors.shape[1]
    wide = np.concatenate([vectors, np.ones((len(vectors), 1), np.float32)], axis=1)

    def loss(flat: NDArray[np.float32]) -> tuple[float, NDArray[np.float32]]:
        matrix = flat.reshape(width + 1, labels)
        probabilities = _softmax(wide @ matrix)
        value = float(-np.log(np.maximum(probabilities[rows, truth], 1e-12)).mean()) + strength / 2 * float(
            (matrix[:-1] ** 2).sum()
        )
        probabilities[rows, truth] -= 1
        gradient = wide.T @ probabilities / len(truth)
        gradient[:-1] += strength * matrix[:-1]
        return value, np.asarray(gradient.ravel(), dtype=np.float32)

    best = _lbfgs(loss, np.zeros((width + 1) * labels, dtype=np.float32)).reshape(width + 1, labels)
    return best[:-1], best[-1]


def _lbfgs(loss: Callable[[Vectors], tuple[float, Vectors]], start: Vectors) -> Vectors:
    """The minimum of a smooth convex function: Nocedal and Wright, algorithm 7.5, with a backtracking line search."""
    place, steps, changes = start, list[Vectors](), list[Vectors]()
    value, gradient = loss(place)
    for _ in range(_STEPS):
        direction = -_inverse_hessian_times(gradient, steps, changes)
        slope, size = float(gradient @ direction), 1.0
        while True:
            new_value, new_gradient = loss(place + size * direction)
            if new_value <= value + 1e-4 * size * slope or size < 1e-6:
                break
            size /= 2
        step, change = size * direction, new_gradient - gradient
        is_done = value - new_value < 1e-7 * max(1.0, abs(value))
        place, value, gradient = place + step, new_value, new_gradient
        if is_done:
            break
        if float(step @ change) > 0:
            steps, changes = [*steps[1 - _MEMORY :], step], [*changes[1 - _MEMORY :], change]
    return place


def _inverse_hessian_times(gradient: Vectors, steps: Sequence[Vectors], changes: Sequence[Vectors]) -> Vectors:
    """Algorithm 7.4 of the same book."""
    result, shares = gradient.copy(), []
    for step, change in zip(reversed(steps), reversed(changes), strict=True):
        part = float(step @ result) / float(step @ change)
        result -= part * change
        shares.append(part)
    if steps:
        result *= float(steps[-1] @ changes[-1]) / float(changes[-1] @ changes[-1])
    for step, change, part in zip(steps, changes, reversed(shares), strict=True):
        result += step * (part - float(change @ result) / float(step @ change))
    return result


def _folds(truth: Places, groups: Places) -> Places:
    """A fold for every text. Texts of a group share one, and each label is spread over all folds."""
    _, first, members = np.unique(groups, return_index=True, return_inverse=True)
    of_group, labels = np.empty(len(first), dtype=np.int64), truth[first]
    chance = np.random.default_rng(0)
    for label in range(int(truth.max()) + 1):
        places = np.flatnonzero(labels == label)
        of_group[chance.permutation(places)] = np.arange(len(places)) % FOLDS
    return of_group[members]


def _out_of_fold(vectors: Vectors, truth: Places, labels: int, folds: Places, strength: float) -> Vectors:
    logits = np.empty((len(truth), labels), dtype=np.float32)
    for fold in range(FOLDS):
        weights, bias = minimise(vectors[folds != fold], truth[folds != fold], labels, strength)
        logits[folds == fold] = vectors[folds == fold] @ weights + bias
    return logits


def _familiar_out_of_fold(vectors: Vectors, probabilities: Vectors, folds: Places) -> Vectors:
    """The familiarity of the operator's texts, each compared only with texts of other folds."""
    nearest = np.empty(len(vectors), dtype=np.float32)
    for fold in range(FOLDS):
        held, others = folds == fold, folds != fold
        nearest[held] = (vectors[held] @ vectors[others].T).max(axis=1)
    return np.asarray((probabilities.max(axis=1) + nearest) / 2, dtype=np.float32)


def _min_familiarity(known: Vectors, unknown: Vectors) -> float:
    """The threshold with the highest sum of two shares: own texts kept and `out_of_scope` texts found."""
    thresholds = np.unique(np.quantile(np.concatenate([known, unknown]), np.linspace(0, 1, 201)))
    right = [(known >= threshold).mean() + (unknown < threshold).mean() for threshold in thresholds]
    return round(float(thresholds[int(np.argmax(right))]), 4)


def _threshold(probabilities: Vectors, truth: Places) -> float:
    """The lowest of 0.30, 0.35 ... 0.95 above which 19 of 20 labels are right; 0.95 if there is none."""
    right, sure = probabilities.argmax(axis=1) == truth, probabilities.max(axis=1)
    for threshold in np.arange(0.30, 0.96, 0.05):
        if (sure >= threshold).any() and right[sure >= threshold].mean() >= 0.95:
            return round(float(threshold), 2)
    return 0.95


def _scale(logits: Vectors, truth: Places) -> float:
    """The factor for logits that calibrates the probabilities."""
    return float(min(np.geomspace(0.25, 16, 49), key=lambda scale: _log_loss(logits, truth, float(scale))))


def _log_loss(logits: Vectors, truth: Places, scale: float) -> float:
    chosen = _softmax(logits * scale)[np.arange(len(truth)), truth]
    return float(-np.log(np.maximum(chosen, 1e-12)).mean())


def _softmax(logits: Vectors) -> Vectors:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float32)


def write(fitted: Fitted, encoder: Bundle, out: Path, name: str, source: Path) -> None:
    """Write a bundle for `signals.custom`."""
    out.mkdir(parents=True, exist_ok=True)
    head = fitted.head
    np.savez_compressed(out / WEIGHTS, weights=head.weights, bias=head.bias, examples=head.examples)
    manifest = {
        "format": HEAD_FORMAT,
        "kind": "head",
        "name": name,
        "labels": list(head.labels),
        "threshold": fitted.threshold,
        "known_at_least": head.min_familiarity,
        "encoder": f"{encoder.name} {encoder.version}",
        "encoder_sha256": encoder.sha256[MODEL],
        "sha256": sha256_of(out / WEIGHTS),
        "data_sha256": sha256_of(source),
        "penalty": fitted.strength,
        "metrics": {figure: [round(part, 4) for part in (e.value, e.low, e.high)] for figure, e in fitted.figures.items()},
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
