"""`semantic-router calibrate intent --from FILE`: chooses the threshold of the intent by real traffic."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from router.errors import ConfigError, Problem
from router.evaluation.intent import Classifier
from router.evaluation.leaks import without_trained_on
from router.evaluation.lines import UnfitError, read_cases
from router.evaluation.measures import share
from router.evaluation.texts import groups_of

_CANDIDATES = tuple(round(0.2 + step / 20, 2) for step in range(16))
_MIN_LABELLED = 50  # with fewer, the interval of an accuracy is wider than any choice between thresholds
_MIN_KNOWN = 50  # 45 right of 50 give a Wilson interval of .79 to .96
_WANTED = 'a JSON object with "text" and, where it is known, "label"'
_UNKNOWN = -1


def choose(path: Path, folder: Path, accuracy: float) -> Iterator[str]:
    """Report the effect of each threshold on the traffic in `path`, and recommend the lowest that reaches `accuracy`.

    With at least 50 labelled lines, only those decide. With fewer, the model's own confidence decides: the mean of calibrated
    probabilities is the expected accuracy.

    Raises:
        ConfigError: the file cannot be read, the model was trained on it, or no threshold reaches the accuracy.
    """
    model = Classifier.load(folder)
    lines = [line for line in read_cases(path, lambda line: _case(line, model.labels), _WANTED) if line[1][0].strip()]
    cases, warnings = without_trained_on(path, model.encoder, lines, lambda case: case[0])
    yield from warnings
    probabilities = model.probabilities([text for text, _ in cases])
    truth = np.array([label for _, label in cases], dtype=np.int64)
    labelled = truth != _UNKNOWN
    groups = np.array(groups_of([text for text, _ in cases]))
    confidence, guess = probabilities.max(axis=1), probabilities.argmax(axis=1)
    is_measured = int(labelled.sum()) >= _MIN_LABELLED
    labels = int(labelled.sum())
    how = f"{labels} labels decide" if is_measured else f"fewer than {_MIN_LABELLED} labels, so its own confidence decides"
    yield f"{model.name} on {path.name}: {len(cases)} texts, {how}"
    yield "  threshold   known                                     accuracy of known"
    chosen: tuple[float, float, int] | None = None
    for threshold in _CANDIDATES:
        known = confidence >= threshold
        if is_measured:
            asked = known & labelled
            estimate = share(int((guess == truth)[asked].sum()), int(asked.sum()))
            right, said = estimate.value, str(estimate)
        else:
            right = float(confidence[known].mean()) if known.any() else 0.0
            said = f"{right:.4f}  expected"
        yield f"  {threshold:9.2f}   {share(int(known.sum()), len(cases))}   {said}"
        if chosen is None and known.any() and right >= accuracy:
            chosen = threshold, right, len(set(groups[known & labelled] if is_measured else groups[known]))
    if chosen is None:
        message = f"no threshold makes a share of {accuracy:g} of known intents right; ask for less, or train a head of your own"
        raise ConfigError([Problem("--accuracy", 0, "", message)])
    _refuse_few(path, *chosen, of=len(set(groups[labelled] if is_measured else groups)))
    where = "signals:\n  intent:" if model.head is None else f"signals:\n  custom:\n    {model.name}:"
    indent = "    " if model.head is None else "      "
    yield f"\nin the router's configuration:\n\n{where}\n{indent}threshold: {chosen[0]:g}"


def _refuse_few(path: Path, threshold: float, right: float, count: int, *, of: int) -> None:
    """Raise `ConfigError` if too few texts support a threshold: of `of` texts, `count` are known with it."""
    if count >= _MIN_KNOWN:
        return
    interval = share(round(right * count), count)
    message = (
        f"at {threshold:g} only {count} of {of} different texts count as known. Their accuracy of {right:.2f} has a 95% interval "
        f"of {interval.low:.2f} to {interval.high:.2f}, so no threshold can be recommended. {_MIN_KNOWN} known texts are needed, "
        f"from about {-(-of * _MIN_KNOWN // count)} texts like these; the interval is then 0.17 wide"
    )
    raise ConfigError([Problem(str(path), 0, "", message)])


def _case(line: dict[str, object], labels: tuple[str, ...]) -> tuple[str, int]:
    label = line.get("label")
    if label is not None and label not in labels:
        raise UnfitError("label", f"'{label}' is none of {', '.join(labels)}")
    if not isinstance(line["text"], str):
        raise TypeError
    return line["text"], _UNKNOWN if label is None else labels.index(label)
