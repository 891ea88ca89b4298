"""`semantic-router calibrate intent --from FILE`: the confidence from which an intent may count as known, by real traffic."""

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

_BARS = tuple(round(0.2 + step / 20, 2) for step in range(16))
_MIN_LABELLED = 50  # with fewer, the interval of an accuracy is wider than any choice between bars
_MIN_KNOWN = 50  # 45 right of 50 are a Wilson interval of .79 to .96
_WANTED = 'a JSON object with "text" and, where it is known, "label"'
_UNKNOWN = -1


def choose(path: Path, folder: Path, accuracy: float) -> Iterator[str]:
    """Every bar with what it does to the traffic in `path`, and the least one whose known intents are right so often.

    Lines without a label count by what the model expects of itself: the mean confidence of calibrated probabilities is the share
    that is right. As soon as 50 lines have labels, those alone decide.

    Raises:
        ConfigError: the file cannot be read, the model was trained on it, or no bar is sure enough.
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
    how = f"{labels} labels decide" if is_measured else f"under {_MIN_LABELLED} labels, so its own confidence decides"
    yield f"{model.name} on {path.name}: {len(cases)} texts, {how}"
    yield "  bar   known                                     right among the known"
    chosen: tuple[float, float, int] | None = None
    for bar in _BARS:
        known = confidence >= bar
        if is_measured:
            asked = known & labelled
            estimate = share(int((guess == truth)[asked].sum()), int(asked.sum()))
            right, said = estimate.value, str(estimate)
        else:
            right = float(confidence[known].mean()) if known.any() else 0.0
            said = f"{right:.4f}  expected"
        yield f"  {bar:.2f}  {share(int(known.sum()), len(cases))}   {said}"
        if chosen is None and known.any() and right >= accuracy:
            chosen = bar, right, len(set(groups[known & labelled] if is_measured else groups[known]))
    if chosen is None:
        message = f"at no bar are known intents right {accuracy:g} of the time; ask for less, or train a head on labels of yours"
        raise ConfigError([Problem("--accuracy", 0, "", message)])
    _refuse_few(path, *chosen, of=len(set(groups[labelled] if is_measured else groups)))
    where = "signals:\n  intent:" if model.head is None else f"signals:\n  custom:\n    {model.name}:"
    indent = "    " if model.head is None else "      "
    yield f"\nin the router's configuration:\n\n{where}\n{indent}threshold: {chosen[0]:g}"


def _refuse_few(path: Path, bar: float, right: float, count: int, *, of: int) -> None:
    """Raise `ConfigError` when a bar rests on too few texts to be recommended; `count` of `of` are known at it."""
    if count >= _MIN_KNOWN:
        return
    interval = share(round(right * count), count)
    message = (
        f"at {bar:g} only {count} of {of} different texts count as known: the share that is right, {right:.2f}, could as well be "
        f"{interval.low:.2f} or {interval.high:.2f} (95% interval), so no threshold can be recommended. It takes {_MIN_KNOWN} "
        f"known ones, about {-(-of * _MIN_KNOWN // count)} texts like these; the interval is 0.17 wide then"
    )
    raise ConfigError([Problem(str(path), 0, "", message)])


def _case(line: dict[str, object], labels: tuple[str, ...]) -> tuple[str, int]:
    label = line.get("label")
    if label is not None and label not in labels:
        raise UnfitError("label", f"'{label}' is none of {', '.join(labels)}")
    if not isinstance(line["text"], str):
        raise TypeError
    return line["text"], _UNKNOWN if label is None else labels.index(label)
