"""Measures of how much selection between models gains, from recorded outcomes. Plain arithmetic on arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from router.evaluation.measures import Estimate, roc_area

Numbers = NDArray[np.float64]
PAIRS = (
    ("Meta-Llama-3_1-8B-Instruct", "gemini-1.5-pro-002"),
    ("Meta-Llama-3_1-8B-Instruct", "Meta-Llama-3_1-70B-Instruct"),
    ("Phi-3-mini-4k-instruct", "gemini-1.5-flash-002"),
)
"""Pairs of a small and a large model. Their recorded accuracies on MMLU-Pro: .44 and .70, .44 and .63, .42 and .64."""
COSTS = {
    "gemini-1.5-pro-002": 3.50, "Meta-Llama-3_1-70B-Instruct": 0.90, "Qwen1.5-72B-Chat": 0.90, "Mixtral-8x7B-Instruct-v0.1": 0.60,
    "gemini-1.5-flash-002": 0.35, "Meta-Llama-3_1-8B-Instruct": 0.20, "Phi-3-mini-4k-instruct": 0.10,
}  # fmt: skip
"""Seven of the recorded models, with the cost of a million input tokens in US dollars when the answers were recorded (2024)."""
HARD, EASY = 0.25, 0.75
"""A question is hard if at most this share of the models answered it right, and easy if at least this share did."""
_RESAMPLES = 300


def gap_recovered(small: Numbers, large: Numbers, gain: Numbers) -> float:
    """RouteLLM's APGR: the mean share of the accuracy gap between two models that is recovered, over all shares of large calls.

    `small` and `large` are 1 where the model is right. The questions with the largest `gain` go to the large model first.
    0.5 is chance.
    """
    won = np.concatenate([[0.0], np.cumsum((large - small)[np.argsort(-gain, kind="stable")])])
    total = float((large - small).sum())
    return float(won.mean() / total) if total else 0.5


def gap_recovered_with_interval(small: Numbers, large: Numbers, gain: Numbers, seed: int = 0) -> Estimate:
    """The same with its 95% interval, by resampling the questions."""
    rng = np.random.default_rng(seed)
    drawn = [rng.integers(0, len(gain), len(gain)) for _ in range(_RESAMPLES)]
    some = [gap_recovered(small[rows], large[rows], gain[rows]) for rows in drawn]
    return Estimate(gap_recovered(small, large, gain), *map(float, np.percentile(some, [2.5, 97.5])))


def hard_or_easy(outcomes: Numbers, right: Numbers) -> float:
    """ROC area for separating hard from easy questions. `outcomes` and `right`, the predicted accuracy: (questions, models)."""
    share = np.nanmean(outcomes, axis=1)
    clear = (share <= HARD) | (share >= EASY)
    return roc_area(share[clear] >= EASY, right.mean(axis=1)[clear])


def best_for(right: Numbers, costs: Numbers, weight: float) -> NDArray[np.int64]:
    """For each question, the model with the highest predicted accuracy less `weight` times its cost."""
    return np.asarray((right - weight * costs).argmax(axis=1), dtype=np.int64)


def curve(outcomes: Numbers, right: Numbers, costs: Numbers) -> list[tuple[float, float]]:
    """Mean cost and accuracy for many weights of the cost, the most expensive first."""
    rows = np.arange(len(outcomes))
    points = []
    for weight in np.concatenate([[0.0], np.geomspace(0.001, 3.0, 200)]):
        chosen = best_for(right, costs, float(weight))
        points.append((float(costs[chosen].mean()), float(outcomes[rows, chosen].mean())))
    return points


def accuracy_at(points: Sequence[tuple[float, float]], cost: float) -> float:
    """The best accuracy that a curve reaches at a mean cost of at most `cost`."""
    return max((accuracy for spent, accuracy in points if spent <= cost), default=0.0)


def by_name(columns: Sequence[str], values: Numbers) -> Mapping[str, Numbers]:
    """The columns of (questions, models) by model."""
    return {name: values[:, index] for index, name in enumerate(columns)}
