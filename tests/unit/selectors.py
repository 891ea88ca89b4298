"""What every selector must do. A new one inherits `SelectorContract`, says how it is made, and is held to what the others are."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from router.core.models import Model
from router.core.selection import Selector
from router.core.types import Scores

Make = Callable[[tuple[Model, ...]], Selector]
CHEAP = Model("cheap", "cluster-cheap", "cheap", cost=0.2, quality_profile="cheap")
MIDDLE = Model("middle", "cluster-middle", "middle", cost=1.0, quality_profile="middle")
DEAR = Model("dear", "cluster-dear", "dear", cost=2.0, quality_profile="dear")
MODELS = (DEAR, CHEAP, MIDDLE)
ACCURACIES = [
    {"cheap": 0.2, "middle": 0.5, "dear": 0.9},
    {"cheap": 0.9, "middle": 0.5, "dear": 0.2},
    {"cheap": 0.0, "middle": 0.0, "dear": 0.0},
    {"cheap": 1.0, "middle": 1.0, "dear": 1.0},
    {"middle": 0.7},
    {},
]


class SelectorContract:
    """Inherit it, and give the fixture `make`: it makes a selector among the models that it is given."""

    @pytest.mark.parametrize("accuracies", ACCURACIES)
    def test_every_model_is_weighed_once_by_its_own_accuracy(self, make: Make, accuracies: dict[str, float]) -> None:
        """One whose accuracy is not predicted counts as never right."""
        weighed = {candidate.model: candidate.accuracy for candidate in make(MODELS).weigh(Scores(accuracies))}
        assert weighed == {model: accuracies.get(model.quality_profile, 0.0) for model in MODELS}

    @pytest.mark.parametrize("accuracies", ACCURACIES)
    def test_the_highest_score_wins(self, make: Make, accuracies: dict[str, float]) -> None:
        """So that `explain` ranks as the rules select."""
        selector, scores = make(MODELS), Scores(accuracies)
        score = {candidate.model: candidate.score for candidate in selector.weigh(scores)}
        assert score[selector.among(scores)] == max(score.values())

    @pytest.mark.parametrize("accuracy", [0.0, 0.5, 1.0])
    def test_of_models_that_are_equally_accurate_the_cheaper_wins(self, make: Make, accuracy: float) -> None:
        """In whatever order the operator lists them."""
        scores = Scores({model.quality_profile: accuracy for model in MODELS})
        assert make(MODELS).among(scores) == make(MODELS[::-1]).among(scores) == CHEAP

    def test_a_model_that_is_cheaper_and_more_accurate_wins(self, make: Make) -> None:
        """No settings make anybody pay more for less."""
        assert make(MODELS).among(Scores({"cheap": 0.9, "middle": 0.6, "dear": 0.3})) == CHEAP

    def test_models_that_cost_nothing_are_no_special_case(self, make: Make) -> None:
        """Nothing is divided by zero."""
        free = tuple(replace(model, cost=0.0) for model in MODELS)
        assert make(free).among(Scores({"cheap": 0.9, "middle": 0.6, "dear": 0.3})) == free[1]

    def test_explain_can_show_it(self, make: Make) -> None:
        """The settings by their keys, and why the winner wins."""
        selector = make(MODELS)
        assert selector.models == MODELS
        assert selector.why
        assert set(json.loads(json.dumps(dict(selector.settings())))).isdisjoint({"why", "candidates"})
