"""The choice of a model by what each costs and by its chance of a right answer."""

from __future__ import annotations

from dataclasses import dataclass

from router.core.models import Model
from router.core.types import Scores

OUTCOMES = "outcomes"
"""The signal that tells each model's chance of a right answer."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that a choice weighs."""

    model: Model
    chance: float
    """Of a right answer, 0 to 1."""
    worth: float
    """The chance, less what the price takes from it; the highest wins."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Choose among models by what each costs and by its chance of a right answer."""

    models: tuple[Model, ...]
    price_weight: float
    """How much chance is given up for price: at 0.1, the dearest of the models has to be expected to be right 10 points more
    often than a free one; 0 takes the best, whatever it costs."""

    def among(self, scores: Scores) -> Model:
        """The model with the highest worth; ties to the cheaper."""
        return max(self.weigh(scores), key=lambda candidate: (candidate.worth, -candidate.model.price)).model

    def weigh(self, scores: Scores) -> list[Candidate]:
        """Every model with its chance, less its share of the highest price times `price_weight`."""
        dearest = max(model.price for model in self.models) or 1.0
        weighed = []
        for model in self.models:
            chance = scores.values.get(model.answers_like, 0.0)
            weighed.append(Candidate(model, chance, chance - self.price_weight * (model.price / dearest)))
        return weighed
