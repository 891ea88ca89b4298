"""`semantic-router eval intent FILE`: how well the intent is told, on texts that the model was not trained on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from router.errors import ConfigError, Problem
from router.evaluation.measures import bootstrap, share
from router.signals.bundle import DIGEST_BYTES, TRAINED_ON, Bundle, digest
from router.signals.onnx import Encoder

SCIENCES = ("biology", "chemistry", "computer science", "engineering", "health", "math", "physics", "psychology")
"""Where everyday talk does the most harm: it would wake a large model."""
_MOST_KNOWN = 0.01  # share of texts that may match by chance, such as "hello" in two data sets


def evaluate(path: Path, folder: Path, threshold: float | None = None) -> Iterator[str]:
    """The report on the labelled texts in `path`, line by line.

    Each line of the file is a JSON object with `text` and `label`.

    Raises:
        ConfigError: the file cannot be read as that, or the model was trained on it.
    """
    bundle = Bundle.load(folder)
    cases = _read(path, bundle.labels)
    _refuse_trained_on(path, bundle, [text for text, _ in cases])
    at_least = bundle.threshold if threshold is None else threshold
    encoder = Encoder(bundle, threads=1, max_waiting=1)
    probabilities = np.array([encoder.run(text).probabilities for text, _ in cases], dtype=np.float64)
    truth = np.array([label for _, label in cases], dtype=np.int64)
    guess, confidence = probabilities.argmax(1), probabilities.max(1)
    is_known = confidence >= at_least
    yield f"{bundle.name} {bundle.version} on {path.name}: {len(cases)} texts"
    for name, estimate in bootstrap(truth, probabilities).items():
        yield f"{name:18} {estimate}"
    known = int(is_known.sum())
    yield f"{'known':18} {share(known, len(cases))}  confidence at least {at_least:.2f}"
    yield f"{'accuracy of known':18} {share(int((guess == truth)[is_known].sum()), known)}"
    yield from _everyday(truth, guess, is_known, bundle.labels)
    yield ""
    yield from _confusion(truth, guess, bundle.labels)


def _everyday(truth: Any, guess: Any, is_known: Any, labels: Sequence[str]) -> Iterator[str]:
    if "other" not in labels:
        return
    everyday = truth == labels.index("other")
    sciences = np.isin(guess, [labels.index(name) for name in SCIENCES if name in labels])
    if everyday.any():
        taken = int((everyday & sciences & is_known).sum())
        yield f"{'other as science':18} {share(taken, int(everyday.sum()))}  of `other`, confidently in a science"


def _confusion(truth: Any, guess: Any, labels: Sequence[str]) -> Iterator[str]:
    yield "rows: what it is; columns: what it was taken for"
    yield " " * 18 + "".join(f"{label[:5]:>6}" for label in labels)
    for row, label in enumerate(labels):
        counts = [int(((truth == row) & (guess == column)).sum()) for column in range(len(labels))]
        if sum(counts):
            yield f"{label:18}" + "".join(f"{count or '.':>6}" for count in counts)


def _read(path: Path, labels: Sequence[str]) -> list[tuple[str, int]]:
    cases: list[tuple[str, int]] = []
    problems: list[Problem] = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            document = json.loads(line)
            text, label = str(document["text"]), str(document["label"])
        except (ValueError, KeyError, TypeError):
            problems.append(Problem(str(path), number, "", 'a JSON object with "text" and "label" was expected'))
            continue
        if label not in labels:
            problems.append(Problem(str(path), number, "label", f"'{label}' is none of {', '.join(labels)}"))
        elif text.strip():
            cases.append((text, labels.index(label)))
    if not cases and not problems:
        problems.append(Problem(str(path), 0, "", "holds no labelled text"))
    if problems:
        raise ConfigError(problems)
    return cases


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(str(path), 0, "", f"cannot be read: {error}")]) from None


def _refuse_trained_on(path: Path, bundle: Bundle, texts: Sequence[str]) -> None:
    file = bundle.folder / TRAINED_ON
    if not file.is_file():
        return
    stored = file.read_bytes()
    known = {stored[at : at + DIGEST_BYTES] for at in range(0, len(stored), DIGEST_BYTES)}
    matches = sum(digest(text) in known for text in texts if any(map(str.isalnum, text)))
    if matches > _MOST_KNOWN * len(texts):
        message = f"{matches} of {len(texts)} texts were trained on; figures on them would say nothing. Use texts held back"
        raise ConfigError([Problem(str(path), 0, "", message)])
