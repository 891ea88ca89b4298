"""The selection of a model among several: what every selector does, and the one by predicted accuracy and cost."""

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
    """A model that a selection weighs."""

    model: Model
    accuracy: float
    """Predicted accuracy: the probability of a right answer, 0 to 1."""
    score: float
    """By which candidates are compared, in a unit of the selector's own; the highest score wins."""


class Selector(Protocol):
    """How a rule selects one of its models. A class that inherits from it gives each a score."""

    models: tuple[Model, ...]
    """The candidates, as the operator listed them."""
    why: ClassVar[str]
    """Why the model with the highest score wins, for `explain`."""

    def settings(self) -> Mapping[str, float]:
        """The operator's settings by their keys, for `explain`."""
        ...

    def weigh(self, scores: Scores) -> list[Candidate]:
        """Every model with its score. `scores` has accuracies by `Model.quality_profile`; a model without one counts as 0."""
        ...

    def among(self, scores: Scores) -> Model:
        """The model with the highest score; of equal ones the cheaper."""
        return max(self.weigh(scores), key=lambda candidate: (candidate.score, -candidate.model.cost)).model


@dataclass(frozen=True, slots=True)
class Selection(Selector):
    """Select among models by predicted accuracy and cost."""

    models: tuple[Model, ...]
    cost_weight: float
    """How much accuracy is given up for cost: at 0.1, the most expensive model must be right 10 points more often than a free
    one; 0 takes the best model, whatever it costs."""

    why = "best score: predicted accuracy less weighted cost"

    def settings(self) -> Mapping[str, float]:
        """See `Selector`."""
        return {"cost_weight": self.cost_weight}

    def weigh(self, scores: Scores) -> list[Candidate]:
        """Every model with its score: predicted accuracy minus `cost_weight` times its share of the highest cost."""
        dearest = max(model.cost for model in self.models) or 1.0
        weighed = []
        for model in self.models:
            accuracy = scores.values.get(model.quality_profile, 0.0)
            weighed.append(Candidate(model, accuracy, accuracy - self.cost_weight * (model.cost / dearest)))
        return weighed
