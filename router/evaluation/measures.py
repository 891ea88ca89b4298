"""The field's measures of classifiers, with their uncertainty. Plain arithmetic on arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Probabilities = NDArray[np.float64]
_BINS = 15  # equal-width bins of confidence, as Guo et al. (2017) measure calibration
_RESAMPLES = 1000
_Z95 = 1.959964


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95% confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f}  (95% {self.low:.4f} to {self.high:.4f})"


def share(hits: int, total: int) -> Estimate:
    """A share of `total` with its Wilson interval."""
    if total == 0:
        return Estimate(0.0, 0.0, 1.0)
    rate, squared = hits / total, _Z95**2
    centre = (rate + squared / (2 * total)) / (1 + squared / total)
    half = _Z95 / (1 + squared / total) * np.sqrt(rate * (1 - rate) / total + squared / (4 * total**2))
    return Estimate(rate, max(0.0, float(centre - half)), min(1.0, float(centre + half)))


def macro_f1(truth: Labels, guess: Labels, labels: int) -> float:
    """Mean F1 over the labels that occur in either."""
    scores = []
    for label in range(labels):
        right = int(((truth == label) & (guess == label)).sum())
        named = int((truth == label).sum() + (guess == label).sum())
        if named:
            scores.append(2 * right / named)
    return float(np.mean(scores))


def calibration_error(is_right: NDArray[np.bool_], confidence: NDArray[np.float64]) -> float:
    """Expected calibration error: mean gap between confidence and accuracy, weighted by bin."""
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gaps = [
        abs(is_right[bins == index].mean() - confidence[bins == index].mean()) * (bins == index).mean()
        for index in range(_BINS)
        if (bins == index).any()
    ]
    return float(sum(gaps))


def bootstrap(truth: Labels, probabilities: Probabilities, seed: int = 0) -> dict[str, Estimate]:
    """Accuracy, macro-F1 and calibration error. The intervals of the last two come from resampling the questions.

    `calibration_error_by_chance` is the error that a perfectly calibrated model with the same confidences would show on as many
    questions. On average, no model falls below it.
    """
    guess, confidence = probabilities.argmax(1), probabilities.max(1)
    is_right, labels = guess == truth, probabilities.shape[1]
    rng = np.random.default_rng(seed)
    f1, ece, by_chance = [], [], []
    for _ in range(_RESAMPLES):
        drawn = rng.integers(0, len(truth), len(truth))
        f1.append(macro_f1(truth[drawn], guess[drawn], labels))
        ece.append(calibration_error(is_right[drawn], confidence[drawn]))
        by_chance.append(calibration_error(rng.random(len(truth)) < confidence, confidence))
    return {
        "accuracy": share(int(is_right.sum()), len(truth)),
        "macro_f1": Estimate(macro_f1(truth, guess, labels), *map(float, np.percentile(f1, [2.5, 97.5]))),
        "calibration_error": Estimate(calibration_error(is_right, confidence), *map(float, np.percentile(ece, [2.5, 97.5]))),
        "calibration_error_by_chance": Estimate(float(np.mean(by_chance)), *map(float, np.percentile(by_chance, [2.5, 97.5]))),
    }


def roc_area(truth: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """Probability that a true case scores above a false one, ties counting half; 0.5 is chance."""
    order = np.sort(scores)
    below, upto = np.searchsorted(order, scores, "left"), np.searchsorted(order, scores, "right")
    ranks, right = (below + upto + 1) / 2, int(truth.sum())
    return float((ranks[truth].sum() - right * (right + 1) / 2) / (right * (len(truth) - right)))


def recall_at_precision(truth: NDArray[np.bool_], scores: NDArray[np.float64], precision: float) -> float:
    """The largest recall of a threshold on the score that reaches a precision."""
    order = np.argsort(-scores, kind="stable")
    right, ranked = truth[order].cumsum(), scores[order]
    is_threshold = np.append(ranked[1:] != ranked[:-1], True)  # a threshold cannot separate equal scores
    enough = is_threshold & (right >= precision * np.arange(1, len(truth) + 1))
    return float(right[enough].max() / truth.sum()) if enough.any() else 0.0


def clopper_pearson(hits: int, total: int, confidence: float = 0.95) -> float:
    """The upper end of the two-sided confidence interval of a share (Clopper and Pearson, 1934)."""
    if hits >= total:
        return 1.0
    tail, low, high = (1 - confidence) / 2, hits / total, 1.0
    for _ in range(60):  # bisection: the binomial tail falls as the share grows
        middle = (low + high) / 2
        if _at_most(hits, total, middle) > tail:
            low = middle
        else:
            high = middle
    return high


def _at_most(hits: int, total: int, rate: float) -> float:
    """Probability of at most `hits` out of `total` at a rate."""
    logs = [
        math.lgamma(total + 1) - math.lgamma(count + 1) - math.lgamma(total - count + 1)
        + count * math.log(rate) + (total - count) * math.log1p(-rate)
        for count in range(hits + 1)
    ]  # fmt: skip
    return math.fsum(map(math.exp, logs))
