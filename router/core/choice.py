"""The choice of a model among several: what every selector does, and the one by predicted accuracy and cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

from router.core.models import Model
from router.core.types import Scores

QUALITY = "quality"
"""The signal that predicts each model's accuracy."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that a choice weighs."""

    model: Model
    chance: float
    """Predicted accuracy: the probability of a right answer, 0 to 1."""
    worth: float
    """By which candidates are compared, in a unit of the selector's own; the highest worth wins."""


class Selector(Protocol):
    """How a rule selects one of its models. A class that inherits from it says what each is worth."""

    models: tuple[Model, ...]
    """The candidates, as the operator listed them."""
    why: ClassVar[str]
    """Why the model with the highest worth wins, for `explain`."""

    def settings(self) -> Mapping[str, float]:
        """The operator's settings by their keys, for `explain`."""
        ...

    def weigh(self, scores: Scores) -> list[Candidate]:
        """Every model with its worth. `scores` has accuracies by `Model.quality_profile`; a model without one counts as 0."""
        ...

    def among(self, scores: Scores) -> Model:
        """The model with the highest worth; of equal ones the cheaper."""
        return max(self.weigh(scores), key=lambda candidate: (candidate.worth, -candidate.model.cost)).model


@dataclass(frozen=True, slots=True)
class Choice(Selector):
    """Choose among models by cost and by predicted accuracy."""

    models: tuple[Model, ...]
    cost_weight: float
    """How much accuracy is given up for price: at 0.1, the most expensive model must be right 10 points more often than a free
    one; 0 takes the best model, whatever it costs."""

    why = "its chance, less its share of the highest price, is worth most"

    def settings(self) -> Mapping[str, float]:
        """See `Selector`."""
        return {"cost_weight": self.cost_weight}

    def weigh(self, scores: Scores) -> list[Candidate]:
        """Every model with its worth: predicted accuracy minus `cost_weight` times its share of the highest price."""
        dearest = max(model.cost for model in self.models) or 1.0
        weighed = []
        for model in self.models:
            chance = scores.values.get(model.quality_profile, 0.0)
            weighed.append(Candidate(model, chance, chance - self.cost_weight * (model.cost / dearest)))
        return weighed
