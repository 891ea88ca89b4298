"""`semantic-router eval routing | jailbreak | pii FILE`: measures the encoder's other heads on labelled texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from router.errors import BackendError, ConfigError, Problem
from router.evaluation import routing
from router.evaluation.leaks import without_trained_on
from router.evaluation.lines import JsonLine, read_cases
from router.evaluation.measures import recall_at_precision, roc_area, share
from router.evaluation.spans import Place, span_figures
from router.inference.bundle import Bundle
from router.inference.encoder import Encoder
from router.inference.pool import InferencePool
from router.signals.jailbreak import HEAD as ATTACK
from router.signals.jailbreak import JailbreakSignal, threshold_of
from router.signals.pii.signal import HEAD as PERSONAL
from router.signals.pii.signal import PiiSignal
from router.signals.quality import HEAD as QUALITY

Truth = TypeVar("Truth")
"""The label of a text."""
Case = tuple[str, Truth]
_FEW = 0.02  # the false alarm rate at which the recall is reported


def evaluate_routing(path: Path, bundle: Bundle) -> Iterator[str]:
    """Measure the predicted accuracy. Lines: `text` and `outcomes`, which is 1 or 0 by model, or null where not known."""
    names = _labels(bundle, QUALITY)
    cases, warnings = _cases(path, bundle, _outcomes, 'a JSON object with "text" and "outcomes", such as {"llama-8b": 1}')
    yield from warnings
    encoder = Encoder(bundle, InferencePool(1, 1))
    outcomes = np.array([[known.get(name, np.nan) for name in names] for _, known in cases], dtype=np.float64)
    right = np.array([encoder.run(text).scores[QUALITY] for text, _ in cases], dtype=np.float64)
    yield f"{bundle.name} {bundle.version} on {path.name}: {len(cases)} texts"
    yield f"hard from easy     ROC area {routing.hard_or_easy(outcomes, right):.4f}"
    lengths = np.array([[-float(len(text))] for text, _ in cases])
    yield f"  by length alone  ROC area {routing.hard_or_easy(outcomes, lengths):.4f}"
    known, expected = routing.by_name(names, outcomes), routing.by_name(names, right)
    for small, large in routing.PAIRS:
        if small not in known or large not in known:
            continue
        rows = ~np.isnan(known[small]) & ~np.isnan(known[large])
        gain = (expected[large] - expected[small])[rows]
        estimate = routing.gap_recovered_with_interval(known[small][rows], known[large][rows], gain)
        yield f"APGR {small} -> {large}: {estimate}  0.5 is chance"
    yield from _curve(names, outcomes, right)


def _curve(names: tuple[str, ...], outcomes: NDArray[np.float64], right: NDArray[np.float64]) -> Iterator[str]:
    """Cost against accuracy for seven models, beside always asking one of them."""
    if not set(routing.COSTS) <= set(names):
        return
    columns = [names.index(name) for name in routing.COSTS]
    rows = ~np.isnan(outcomes[:, columns]).any(axis=1)
    some, expected, costs = outcomes[rows][:, columns], right[rows][:, columns], np.array(list(routing.COSTS.values()))
    yield ""
    yield "one model for all questions: cost, accuracy"
    for name, cost, accuracy in zip(routing.COSTS, costs, some.mean(axis=0), strict=True):
        yield f"  {name:30} {cost:5.2f} {accuracy:9.4f}"
    yield "selection among them: mean cost, accuracy"
    points = routing.curve(some, expected, costs)
    for max_cost in (0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.5, 3.5):
        yield f"  at max_cost {max_cost:22.2f} {routing.accuracy_at(points, max_cost):15.4f}"


def evaluate_jailbreak(path: Path, bundle: Bundle, threshold: float | None) -> Iterator[str]:
    """Measure how many attacks are found, and how many harmless texts are mistaken for one. Lines: `text` and `attack`."""
    attacks = _labels(bundle, ATTACK)
    cases, warnings = _cases(path, bundle, _attack, f'a JSON object with "text" and "attack", one of {", ".join(attacks)},')
    yield from warnings
    if unknown := sorted({label for _, label in cases} - set(attacks)):
        raise ConfigError([Problem(str(path), 0, "attack", f"{unknown[0]!r} is none of {', '.join(attacks)}")])
    threshold = threshold_of(bundle) if threshold is None else threshold
    signal = JailbreakSignal(Encoder(bundle, InferencePool(1, 1), max_windows=64), bundle)
    scores = np.array([_worst(signal, text) for text, _ in cases])
    labels = np.array([label for _, label in cases])
    yield f"{bundle.name} {bundle.version} on {path.name}: {len(cases)} texts, at {threshold:.2f}"
    for label in attacks:
        hits = scores[labels == label] >= threshold
        if len(hits):
            yield f"{label:12} {share(int(hits.sum()), len(hits))}  {'mistaken for attacks' if label == attacks[0] else 'found'}"
    truth = labels != attacks[0]
    if truth.any() and not truth.all():
        few = float(np.quantile(scores[~truth], 1 - _FEW))
        yield f"ROC area {roc_area(truth, scores):.4f}, recall {(scores[truth] > few).mean():.4f} at {_FEW:.0%} false alarms"
        yield f"recall {recall_at_precision(truth, scores, 0.95):.4f} at 95% precision"


def _worst(signal: JailbreakSignal, text: str) -> float:
    try:
        return float(signal.run(text).probabilities[1:].max())
    except BackendError:
        return 0.0


def evaluate_pii(path: Path, bundle: Bundle) -> Iterator[str]:
    """Measure how well personal data is found. Lines: `text` and `spans`, a list of [start, end, kind]."""
    cases, warnings = _cases(path, bundle, _spans, 'a JSON object with "text" and "spans", a list of [start, end, kind]')
    yield from warnings
    _labels(bundle, PERSONAL)
    signal = PiiSignal(Encoder(bundle, InferencePool(1, 1), max_windows=64), bundle)
    pairs: list[tuple[set[Place], set[Place]]] = []
    for text, truth in cases:
        try:
            found = {(span.start, span.end, span.kind) for span in signal.run(text).spans}
        except BackendError:
            found = set()
        pairs.append((truth, found))
    yield f"{bundle.name} {bundle.version} on {path.name}: {len(cases)} texts"
    kinds = ["", *sorted({kind for truth, _ in pairs for _, _, kind in truth})]
    for kind in kinds:
        some = [tuple({place for place in side if kind in ("", place[2])} for side in pair) for pair in pairs]
        figures = span_figures((truth, found) for truth, found in some)
        yield f"{kind or 'all kinds':20} F1 {figures.f1:.4f}   precision {figures.precision}   recall {figures.recall}"


def _labels(bundle: Bundle, head: str) -> tuple[str, ...]:
    """The labels of a head. Raises `ConfigError` if the model lacks it."""
    if labels := bundle.heads.get(head):
        return labels
    raise ConfigError([Problem(str(bundle.folder), 0, "", f"has no head '{head}', so there is nothing to measure")])


def _cases(
    path: Path, bundle: Bundle, read: Callable[[JsonLine], Case[Truth]], wanted: str
) -> tuple[list[Case[Truth]], list[str]]:
    return without_trained_on(path, bundle, read_cases(path, read, wanted), lambda case: case[0])


def _outcomes(line: JsonLine) -> tuple[str, dict[str, float]]:
    return str(line["text"]), {str(name): float(right) for name, right in line["outcomes"].items() if right is not None}


def _attack(line: JsonLine) -> tuple[str, str]:
    return str(line["text"]), str(line["attack"])


def _spans(line: JsonLine) -> tuple[str, set[Place]]:
    return str(line["text"]), {(int(start), int(end), str(kind)) for start, end, kind in line["spans"]}
