"""How well a choice between models pays, from recorded outcomes. Plain arithmetic on arrays."""

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
"""A small and a large model each. Recorded outcomes: .44 and .70, .44 and .63, .42 and .64 of MMLU-Pro answered rightly."""
PRICES = {
    "gemini-1.5-pro-002": 3.50, "Meta-Llama-3_1-70B-Instruct": 0.90, "Qwen1.5-72B-Chat": 0.90, "Mixtral-8x7B-Instruct-v0.1": 0.60,
    "gemini-1.5-flash-002": 0.35, "Meta-Llama-3_1-8B-Instruct": 0.20, "Phi-3-mini-4k-instruct": 0.10,
}  # fmt: skip
"""Seven of the recorded models, with what a million input tokens cost in US dollars when the answers were recorded (2024)."""
HARD, EASY = 0.25, 0.75
"""A question is hard when at most so many of the models got it right, easy when at least so many did; the others are left out."""
_RESAMPLES = 300


def gap_recovered(small: Numbers, large: Numbers, gain: Numbers) -> float:
    """APGR of RouteLLM: the mean share of the gap between the two models that is won, over all shares of large calls.

    `small` and `large` are 1 where the model is right; the questions with the largest `gain` go to the large one first.
    0.5 is chance, 1 would be to win all at once.
    """
    won = np.concatenate([[0.0], np.cumsum((large - small)[np.argsort(-gain, kind="stable")])])
    total = float((large - small).sum())
    return float(won.mean() / total) if total else 0.5


def gap_recovered_with_interval(small: Numbers, large: Numbers, gain: Numbers, seed: int = 0) -> Estimate:
    """The same with its 95% interval, by resampling the questions."""
    chance = np.random.default_rng(seed)
    drawn = [chance.integers(0, len(gain), len(gain)) for _ in range(_RESAMPLES)]
    some = [gap_recovered(small[rows], large[rows], gain[rows]) for rows in drawn]
    return Estimate(gap_recovered(small, large, gain), *map(float, np.percentile(some, [2.5, 97.5])))


def hard_or_easy(outcomes: Numbers, right: Numbers) -> float:
    """ROC area of telling hard questions from easy ones. `outcomes` and `right`, the chances told, are (questions, models)."""
    share = np.nanmean(outcomes, axis=1)
    clear = (share <= HARD) | (share >= EASY)
    return roc_area(share[clear] >= EASY, right.mean(axis=1)[clear])


def best_for(right: Numbers, prices: Numbers, weight: float) -> NDArray[np.int64]:
    """For each question the model with the most expected right answers, less `weight` for each unit of price."""
    return np.asarray((right - weight * prices).argmax(axis=1), dtype=np.int64)


def curve(outcomes: Numbers, right: Numbers, prices: Numbers) -> list[tuple[float, float]]:
    """Mean price and accuracy for many weights of the price, dearest first."""
    rows = np.arange(len(outcomes))
    points = []
    for weight in np.concatenate([[0.0], np.geomspace(0.001, 3.0, 200)]):
        chosen = best_for(right, prices, float(weight))
        points.append((float(prices[chosen].mean()), float(outcomes[rows, chosen].mean())))
    return points


def accuracy_at(points: Sequence[tuple[float, float]], price: float) -> float:
    """The best accuracy that a curve reaches for at most a mean price."""
    return max((accuracy for cost, accuracy in points if cost <= price), default=0.0)


def by_name(columns: Sequence[str], values: Numbers) -> Mapping[str, Numbers]:
    """The columns of (questions, models) by model."""
    return {name: values[:, index] for index, name in enumerate(columns)}
