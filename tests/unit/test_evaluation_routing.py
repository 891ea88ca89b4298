"""The measures of model selection agree with cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from router.evaluation.measures import recall_at_precision, roc_area
from router.evaluation.routing import accuracy_at, best_for, curve, gap_recovered, hard_or_easy


def test_the_gap_recovered_is_one_half_by_chance_and_more_when_the_gain_is_known() -> None:
    """The large model is better at two of four questions. If these go first, 0, 1/2, 1, 1, 1 of the gap is won."""
    small, large = np.array([0.0, 0, 1, 0]), np.array([1.0, 1, 1, 0])
    assert gap_recovered(small, large, large - small) == pytest.approx((0 + 0.5 + 1 + 1 + 1) / 5)
    assert gap_recovered(small, large, small - large) == pytest.approx((0 + 0 + 0 + 0.5 + 1) / 5)
    chance = np.random.default_rng(0)
    many = chance.integers(0, 2, 20_000).astype(float)
    assert gap_recovered(many * 0, many, chance.random(20_000)) == pytest.approx(0.5, abs=0.01)


def test_models_are_chosen_by_predicted_accuracy_less_cost() -> None:
    """A heavier cost weight moves the choice to the cheap model."""
    right, prices = np.array([[0.5, 0.7], [0.6, 0.61]]), np.array([0.0, 1.0])
    assert best_for(right, prices, 0.0).tolist() == [1, 1]
    assert best_for(right, prices, 0.1).tolist() == [1, 0]
    assert best_for(right, prices, 1.0).tolist() == [0, 0]
    points = curve(np.array([[0.0, 1.0], [1.0, 1.0]]), right, prices)
    assert points[0] == (1.0, 1.0)
    assert accuracy_at(points, 0.5) == 1.0
    assert accuracy_at(points, 0.0) == 0.5


def test_hard_and_easy_are_told_by_the_models_that_were_right() -> None:
    """Questions between the two groups, and answers that were not recorded, are left out."""
    outcomes = np.array([[1.0, 1, 1, np.nan], [0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]])
    right = np.array([[0.9] * 4, [0.1] * 4, [0.95] * 4, [0.8] * 4])
    assert hard_or_easy(outcomes, right) == 1.0
    assert hard_or_easy(outcomes, 1 - right) == 0.0


def test_the_roc_area_counts_ties_half() -> None:
    """Three of four pairs are in order and one is a tie; the value was worked out by hand."""
    truth = np.array([True, True, False, False])
    assert roc_area(truth, np.array([0.9, 0.5, 0.5, 0.1])) == pytest.approx((2 + 1.5) / 4)
    assert roc_area(truth, np.array([1.0, 1, 1, 1])) == 0.5


def test_recall_at_a_precision_takes_the_lowest_threshold_that_keeps_it() -> None:
    """No threshold can separate equal scores."""
    truth = np.array([True, True, False, True, False])
    assert recall_at_precision(truth, np.array([0.9, 0.8, 0.7, 0.6, 0.5]), 0.75) == 1.0
    assert recall_at_precision(truth, np.array([0.9, 0.8, 0.7, 0.6, 0.5]), 0.9) == pytest.approx(2 / 3)
    assert recall_at_precision(truth, np.array([0.9, 0.9, 0.9, 0.6, 0.5]), 0.9) == 0.0
