"""Measures the encoder on prompts: category, complexity, cacheability, personal data, and whether candidates are found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's own name for it

from router.evaluation.measures import Estimate, roc_area, share
from router.evaluation.spans import span_figures
from router.inference.bundle import Bundle
from router.inference.encoder import Encoder
from router.inference.pool import InferencePool
from router.inference.spans import joined
from router.inference.tokens import WindowTokenizer
from router.signals.pii.signal import PiiSignal
from router.training.examples import CLASSES, LABELS, Example
from router.training.export import run
from router.training.prompts import Group

_CROWD = 10_000
"""Other texts among which a partner has to be found."""
_NEAREST = 5
"""As `MAX_CANDIDATES` in `cache/tiers.py`."""
_FLOORS = (0.45, 0.50, 0.60, 0.70)
_LET_THROUGH = 0.05


def logistic(logits: Tensor, truth: Tensor) -> tuple[float, float]:
    """Scale and shift that calibrate logits (n,) to the labels (n,), by maximum likelihood (Platt)."""
    scale, shift = torch.ones((), requires_grad=True), torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([scale, shift], max_iter=50)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.binary_cross_entropy_with_logits(logits * scale + shift, truth.to(logits.dtype))
        value.backward()
        return value

    optimizer.step(loss)
    return round(float(scale.detach()), 4), round(float(shift.detach()), 4)


def strictest(probabilities: NDArray[np.float32], classes: NDArray[np.bool_], max_let_through: float) -> float:
    """The highest threshold for all classes at which at most this share of the prompts with a class has no class found."""
    worst = probabilities[classes.any(1)].max(1)
    return round(float(np.quantile(worst, max_let_through)), 3)


def prompt_figures(
    path: Path, examples: Sequence[Example], reader: WindowTokenizer, thresholds: Mapping[str, float]
) -> dict[str, Estimate]:
    """The figures of the hand-written prompts."""
    levelled = [example for example in examples if example.source == "complexity"]
    found = run(path, [example.text for example in levelled], reader)
    truth = np.array([example.level for example in levelled])
    level, count = found["complexity"].argmax(1), len(levelled)
    demanding = found["complexity"][:, 2:].sum(1).astype(np.float64)
    categories = np.array([LABELS.index(example.label) for example in levelled])
    area = roc_area(truth >= 2, demanding)
    figures = {
        "prompts_category_accuracy": share(int((found["intent"].argmax(1) == categories).sum()), count),
        "complexity_exact": share(int((level == truth).sum()), count),
        "complexity_off_by_more_than_one": share(int((abs(level - truth) > 1).sum()), count),
        "complexity_roc_area_3_4_from_1_2": Estimate(area, area, area),
    }
    classed = [example for example in examples if example.classes]
    some = run(path, [example.text for example in classed], reader)["cacheability"]
    classes = np.array([example.classes for example in classed]) > 0
    worst, storable = some.max(1), ~classes.any(1)
    limits = np.array([thresholds[name] for name in CLASSES])
    is_kept: NDArray[np.bool_] = np.all(some < limits, axis=1)
    at_five = np.quantile(worst[~storable], _LET_THROUGH)
    figures |= {
        "storable_kept": share(int(is_kept[storable].sum()), int(storable.sum())),
        "not_storable_let_through": share(int(is_kept[~storable].sum()), int((~storable).sum())),
        "storable_kept_at_5_percent_let_through": share(int((worst[storable] < at_five).sum()), int(storable.sum())),
    }
    for place, name in enumerate(CLASSES):
        area = roc_area(classes[:, place], some[:, place].astype(np.float64))
        figures[f"{name}_roc_area"] = Estimate(area, area, area)
    return figures | _harmful_figures(path, examples, reader)


def _harmful_figures(path: Path, examples: Sequence[Example], reader: WindowTokenizer) -> dict[str, Estimate]:
    """Recall of harmful requests and of jailbreaks at the threshold that alarms 1% of the harmless prompts beside them."""
    own = [example for example in examples if example.source == "safety"]
    attack = np.array([example.attack for example in own])
    scores = run(path, [example.text for example in own], reader)["attack"][:, 1:].max(1)
    limit = np.quantile(scores[attack == 0], 0.99)
    return {
        f"{name}_found_at_1_percent_false_alarms": share(
            int((scores[attack == place] > limit).sum()), int((attack == place).sum())
        )
        for place, name in ((1, "jailbreaks"), (2, "harmful"))
    }


def span_estimates(path: Path, source: str, examples: Sequence[Example]) -> dict[str, Estimate]:
    """How well personal data is found, by exact ends and kind."""
    bundle, pairs = Bundle.load(path.parent), []
    signal = PiiSignal(Encoder(bundle, InferencePool(1, 1)), bundle)
    for example in examples:
        found = {(span.start, span.end, span.kind) for span in signal.run(example.text).spans}
        pairs.append((set(example.spans or ()), joined(example.text, found)))
    figures = span_figures(pairs)
    low, high = (min(figures.precision.low, figures.recall.low), max(figures.precision.high, figures.recall.high))
    return {
        f"pii_f1_{source}": Estimate(figures.f1, low, high),
        f"pii_precision_{source}": figures.precision,
        f"pii_recall_{source}": figures.recall,
    }


def candidates_found(path: Path, groups: Sequence[Group], others: Sequence[str], reader: WindowTokenizer) -> dict[str, Estimate]:
    """The share of prompts whose anchor is among the five nearest, above a floor, of all anchors and 10,000 other texts."""
    anchors = run(path, [group.same[0].text for group in groups], reader)["vector"]
    crowd = run(path, list(dict.fromkeys(others))[:: max(1, len(others) // _CROWD)][:_CROWD], reader)["vector"]
    asked = [(line.text, place) for place, group in enumerate(groups) for line in group.same[1:]]
    vectors = run(path, [text for text, _ in asked], reader)["vector"]
    stored = np.concatenate([anchors, crowd])
    hits = dict.fromkeys(_FLOORS, 0)
    for vector, (_, place) in zip(vectors, asked, strict=True):
        near = stored @ vector
        is_near = int((near > near[place]).sum()) < _NEAREST
        for floor in _FLOORS:
            hits[floor] += bool(is_near and near[place] >= floor)
    return {f"partner_among_five_nearest_above_{floor:.2f}": share(count, len(asked)) for floor, count in hits.items()}
