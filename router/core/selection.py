"""The selection of a model by predicted accuracy and cost."""

from __future__ import annotations

from dataclasses import dataclass

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
    """The predicted accuracy minus the weighted cost; the highest score wins."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Select among models by predicted accuracy and cost."""

    models: tuple[Model, ...]
    cost_weight: float
    """How much accuracy is given up for cost: at 0.1, the most expensive model must be right 10 points more often than a free
    one; 0 takes the best model, whatever it costs."""

    def among(self, scores: Scores) -> Model:
        """The model with the highest score; of equal scores the cheaper model."""
        return max(self.weigh(scores), key=lambda candidate: (candidate.score, -candidate.model.cost)).model

    def weigh(self, scores: Scores) -> list[Candidate]:
        """Every model with its score: predicted accuracy minus `cost_weight` times its share of the highest cost."""
        dearest = max(model.cost for model in self.models) or 1.0
        weighed = []
        for model in self.models:
            accuracy = scores.values.get(model.quality_profile, 0.0)
            weighed.append(Candidate(model, accuracy, accuracy - self.cost_weight * (model.cost / dearest)))
        return weighed
