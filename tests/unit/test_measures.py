"""The measures agree with values worked out by hand, or with the papers that define them."""

from __future__ import annotations

import numpy as np
import pytest

from router.evaluation import measures
from router.evaluation.intent import _sign_test
from router.evaluation.measures import bootstrap, calibration_error, macro_f1, share


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_of_a_share_is_wilsons(hits: int, total: int, low: float, high: float) -> None:
    """The values are those of Newcombe (1998), method 3, table I."""
    estimate = share(hits, total)
    assert (round(estimate.low, 4), round(estimate.high, 4)) == (low, high)
    assert estimate.value == hits / total


def test_a_share_of_nothing_is_not_known() -> None:
    """The interval is from none to all."""
    assert (share(0, 0).low, share(0, 0).high) == (0.0, 1.0)


def test_macro_f1_counts_every_label_alike_and_leaves_out_those_that_do_not_occur() -> None:
    """Label 0 gives 2*2/(3+2), label 1 gives 2*1/(1+2), and label 2 never occurs."""
    truth, guess = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    assert macro_f1(truth, guess, 3) == pytest.approx((4 / 5 + 2 / 3) / 2)


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    """Six of ten at 0.95 are right, and six of ten at 0.55: (0.35 + 0.05) / 2."""
    is_right = np.array([True] * 6 + [False] * 4 + [True] * 6 + [False] * 4)
    confidence = np.array([0.95] * 10 + [0.55] * 10)
    assert calibration_error(is_right, confidence) == pytest.approx(0.2)


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth of the resamples of a report, which fixes the second digit of an interval."""
    monkeypatch.setattr(measures, "_RESAMPLES", 200)


@pytest.mark.usefixtures("few_resamples")
def test_a_perfectly_calibrated_model_shows_the_error_of_chance() -> None:
    """With few questions, any model looks some points off."""
    chance = np.random.default_rng(5)
    sure = chance.uniform(0.5, 1, 2000)
    truth = (chance.random(2000) > sure).astype(np.int64)
    figures = bootstrap(truth, np.stack([sure, 1 - sure], axis=1))
    by_chance = figures["calibration_error_by_chance"]
    assert by_chance.low <= figures["calibration_error"].value <= by_chance.high * 1.2
    assert 0.01 < by_chance.value < 0.05


@pytest.mark.usefixtures("few_resamples")
def test_the_same_seed_gives_the_same_intervals_and_they_hold_the_value() -> None:
    """A report that changed from run to run could not be compared."""
    chance = np.random.default_rng(1)
    probabilities = chance.dirichlet([1.0, 1.0, 1.0], 200)
    truth = chance.integers(0, 3, 200)
    first, second = bootstrap(truth, probabilities), bootstrap(truth, probabilities)
    assert first == second
    assert set(first) == {"accuracy", "macro_f1", "calibration_error", "calibration_error_by_chance"}
    assert first["macro_f1"].low < first["macro_f1"].value < first["macro_f1"].high


@pytest.mark.parametrize(("first", "second", "p"), [(8, 1, 0.0390625), (5, 5, 1.0), (0, 6, 0.03125), (0, 0, 1.0)])
def test_the_probability_of_an_uneven_split_is_that_of_fair_coins(first: int, second: int, p: float) -> None:
    """The value is twice the tail of as many fair coin tosses."""
    assert _sign_test(first, second) == pytest.approx(p)
