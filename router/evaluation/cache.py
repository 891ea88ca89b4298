"""`semantic-router eval cache FILE`: how often a hit would be right, and how often wrong, on pairs of questions with labels."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from router.core.guards import GUARDS, conflict
from router.errors import BackendError, ConfigError, Problem
from router.evaluation.measures import clopper_pearson, share
from router.signals.bundle import Bundle
from router.signals.onnx import Encoder

THRESHOLDS = (0.70, 0.75, 0.80, 0.85, 0.90, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99)
_MOST_TAGS = 30


@dataclass(frozen=True, slots=True)
class Judged:
    """What the cache would make of one pair."""

    similarity: float
    guard: str
    """The guard that vetoes; empty when none does."""
    is_same: bool
    """The label: one answer fits both."""
    tag: str

    def is_served(self, threshold: float) -> bool:
        """Whether the stored answer of the one would be given to the other."""
        return not self.guard and self.similarity >= threshold


def judge(path: Path, bundle: Bundle, guards: Sequence[str]) -> list[Judged]:
    """Every pair of a file of JSON lines with `a` (asked), `b` (stored), `y` (1: one answer fits both) and perhaps `tag`.

    Raises:
        ConfigError: the file cannot be read as that; every bad line is named.
    """
    encoder = Encoder(bundle, threads=1, max_waiting=1)
    vectors: dict[str, np.ndarray | None] = {}

    def vector(text: str) -> np.ndarray | None:
        if text not in vectors:
            try:
                encoding = encoder.run(text)
                vectors[text] = None if encoding.is_truncated else encoding.vector
            except BackendError:
                vectors[text] = None
        return vectors[text]

    judged = []
    for asked, stored, is_same, tag in _read(path):
        one, other = vector(asked), vector(stored)
        similarity = float(one @ other) if one is not None and other is not None else -1.0
        judged.append(Judged(similarity, conflict(asked, stored, guards), is_same, tag))
    return judged


def evaluate(path: Path, folder: Path, threshold: float, guards: Sequence[str] = tuple(GUARDS)) -> Iterator[str]:
    """The report on the pairs in `path`, line by line. Raises as `judge` does."""
    bundle = Bundle.load(folder)
    pairs = judge(path, bundle, guards)
    yield f"{bundle.name} {bundle.version} on {path.name}: {len(pairs)} pairs, guards {', '.join(guards) or 'none'}"
    yield f"at similarity {threshold:.2f}:"
    yield from _figures(pairs, threshold)
    tags = sorted({pair.tag for pair in pairs})
    if 1 < len(tags) <= _MOST_TAGS:
        yield ""
        yield "by tag: pairs, hit rate, false-hit rate"
        for tag in tags:
            some = [pair for pair in pairs if pair.tag == tag]
            different = [pair for pair in some if not pair.is_same]
            served = sum(pair.is_served(threshold) for pair in some)
            false = sum(pair.is_served(threshold) for pair in different)
            rate = f"{false / len(different):.4f}" if different else "     -"
            yield f"  {tag[:48]:48} {len(some):6} {served / len(some):8.4f} {rate:>8}"
    yield ""
    yield "threshold   hit rate   recall   precision   false-hit rate (95% at most)   without guards: recall  false-hit rate"
    for level in THRESHOLDS:
        yield _row(pairs, level)
    yield ""
    yield "vetoes of pairs at or above it, by guard: right (different questions), wrong (the same question)"
    for guard in guards:
        vetoed = [pair for pair in pairs if pair.guard == guard and pair.similarity >= threshold]
        wrong = sum(pair.is_same for pair in vetoed)
        yield f"  {guard:12} {len(vetoed) - wrong:6} {wrong:6}"


def _figures(pairs: Sequence[Judged], threshold: float) -> Iterator[str]:
    served = [pair for pair in pairs if pair.is_served(threshold)]
    same, different = [pair for pair in pairs if pair.is_same], [pair for pair in pairs if not pair.is_same]
    right = sum(pair.is_same for pair in served)
    yield f"{'hit rate':18} {share(len(served), len(pairs))}"
    yield f"{'recall':18} {share(right, len(same))}  of pairs that one answer fits"
    yield f"{'precision':18} {share(right, len(served))}  of what is served"
    yield f"{'false-hit rate':18} {share(len(served) - right, len(different))}  of pairs that need two answers"


def _row(pairs: Sequence[Judged], threshold: float) -> str:
    same, different = [pair for pair in pairs if pair.is_same], [pair for pair in pairs if not pair.is_same]
    right, false = (sum(pair.is_served(threshold) for pair in some) for some in (same, different))
    bare_right, bare_false = (sum(pair.similarity >= threshold for pair in some) for some in (same, different))
    precision = f"{right / (right + false):.4f}" if right + false else "     -"
    recall, bare_recall = (f"{count / len(same):.4f}" if same else "     -" for count in (right, bare_right))
    rate, bare_rate = (f"{count / len(different):.4f}" if different else "     -" for count in (false, bare_false))
    most = f"({clopper_pearson(false, len(different)):.4f})" if different else ""
    hits = (right + false) / len(pairs)
    return f"{threshold:9.2f} {hits:10.4f} {recall:>8} {precision:>11} {rate:>16} {most:>10} {bare_recall:>30} {bare_rate:>15}"


def _read(path: Path) -> Iterator[tuple[str, str, bool, str]]:
    opener = gzip.open if path.suffix == ".gz" else open
    problems: list[Problem] = []
    count = 0
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    pair = json.loads(line)
                    yield str(pair["a"]), str(pair["b"]), {1: True, 0: False}[pair["y"]], str(pair.get("tag", ""))
                    count += 1
                except (ValueError, KeyError, TypeError):
                    problems.append(Problem(str(path), number, "", 'a JSON object with "a", "b" and "y" (0 or 1) was expected'))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(str(path), 0, "", f"cannot be read: {error}")]) from None
    if problems or not count:
        raise ConfigError(problems or [Problem(str(path), 0, "", "holds no pairs")])
