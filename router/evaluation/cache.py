"""`semantic-router eval cache FILE`: measures on labelled pairs of questions how often cache hits are right and wrong."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from router.cache.checks import conflict, with_agreement
from router.cache.wording import UNREAD, difference
from router.errors import BackendError, ConfigError, Problem
from router.evaluation.leaks import refuse_trained_on
from router.evaluation.measures import clopper_pearson, recall_at_precision, roc_area, share
from router.inference.bundle import Bundle
from router.inference.cross_encoder import CrossEncoder
from router.inference.encoder import Encoder
from router.inference.pool import InferencePool

SIMILARITIES = (0.70, 0.75, 0.80, 0.85, 0.90, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99)
PROBABILITIES = (0.50, 0.60, 0.70, 0.75, 0.80, 0.85, 0.88, 0.90, 0.92, 0.93, 0.94, 0.95, 0.96, 0.97, 0.98)
_MAX_TAGS = 60


@dataclass(frozen=True, slots=True)
class Judged:
    """What the cache would decide about one pair."""

    asked: str
    stored: str
    is_same: bool
    """The label: whether one answer fits both."""
    tag: str
    similarity: float
    """Cosine similarity; -1 when one of the texts has no vector."""
    check: str
    """The lexical check that vetoes the pair, or `UNREAD`; empty when none does."""
    probability: float | None
    """The verifier's probability, raised where the texts agree. None without a verifier, or when the wording is the same."""

    def is_served(self, similarity: float, threshold: float) -> bool:
        """Whether the cache would serve the stored answer."""
        is_sure = self.probability is None or self.probability >= threshold
        return not self.check and self.similarity >= similarity and is_sure


class Judge:
    """Judges pairs as the cache does, with the models that it uses."""

    def __init__(self, encoder: Bundle, verifier: Bundle | None, checks: Sequence[str]) -> None:
        passes = InferencePool(1, 1)
        self._encoder = Encoder(encoder, passes)
        self._verifier = CrossEncoder(verifier, passes) if verifier else None
        self._checks = tuple(checks)
        self._vectors: dict[str, NDArray[np.float32] | None] = {}

    def judge(self, asked: str, stored: str, tag: str, *, is_same: bool) -> Judged:
        """Judge one pair. The verifier reads it even if a check vetoes, so that the verifier can be measured alone."""
        one, other = self._vector(asked), self._vector(stored)
        similarity = float(one @ other) if one is not None and other is not None else -1.0
        written = difference(asked, stored)
        check = conflict(asked, stored, self._checks) or (UNREAD if written == "unread" else "")
        probability = None if written == "none" else self._probability(asked, stored)
        return Judged(asked, stored, is_same, tag, similarity, check, probability)

    def _vector(self, text: str) -> NDArray[np.float32] | None:
        if text not in self._vectors:
            try:
                encoding = self._encoder.run(text)
                self._vectors[text] = None if encoding.is_truncated else encoding.vector
            except BackendError:
                self._vectors[text] = None
        return self._vectors[text]

    def _probability(self, asked: str, stored: str) -> float | None:
        if self._verifier is None:
            return None
        try:
            return with_agreement(self._verifier.run(asked, stored), asked, stored)
        except BackendError:
            return 0.0


def judge(path: Path, encoder: Bundle, verifier: Bundle | None, checks: Sequence[str]) -> list[Judged]:
    """Judge every pair of a file of JSON lines with `a` (asked), `b` (stored), `y` (1: one answer fits both) and optional `tag`.

    Raises:
        ConfigError: the file does not have this form; every bad line is named.
    """
    pairs = list(_read(path))
    judge_ = Judge(encoder, verifier, checks)
    return [judge_.judge(asked, stored, tag, is_same=is_same) for asked, stored, is_same, tag in pairs]


def evaluate(
    path: Path, encoder: Bundle, verifier: Bundle | None, checks: Sequence[str], similarity: float, threshold: float
) -> Iterator[str]:
    """The report on the pairs in `path`, line by line. Raises as `judge` does."""
    if verifier:
        refuse_trained_on(path, verifier, [f"{asked}\n{stored}" for asked, stored, _, _ in _read(path)])
    pairs = judge(path, encoder, verifier, checks)
    names = ", ".join(f"{bundle.name} {bundle.version}" for bundle in (encoder, verifier) if bundle)
    yield f"{names} on {path.name}: {len(pairs)} pairs, lexical checks {', '.join(checks) or 'none'}"
    yield f"at similarity {similarity:.2f}" + (f" and verifier {threshold:.3f}:" if verifier else ":")
    yield from _figures(pairs, similarity, threshold)
    yield from _alone(pairs)
    tags = sorted({pair.tag for pair in pairs})
    if 1 < len(tags) <= _MAX_TAGS:
        yield ""
        yield "by tag: pairs, hit rate, false-hit rate"
        for tag in tags:
            some = [pair for pair in pairs if pair.tag == tag]
            different = [pair for pair in some if not pair.is_same]
            served = sum(pair.is_served(similarity, threshold) for pair in some)
            false = sum(pair.is_served(similarity, threshold) for pair in different)
            rate = f"{false / len(different):.4f}" if different else "     -"
            yield f"  {tag[:64]:64} {len(some):6} {served / len(some):8.4f} {rate:>8}"
    yield ""
    yield "threshold   hit rate   recall   precision   false-hit rate (95% at most)   similarity alone: recall  false-hit rate"
    for tried in PROBABILITIES if verifier else SIMILARITIES:
        yield _row(pairs, similarity if verifier else tried, tried)
    yield ""
    yield "vetoes of pairs that would otherwise be served, by lexical check: right (different questions), wrong (same question)"
    for check in (*checks, UNREAD):
        vetoed = [p for p in pairs if p.check == check and p.similarity >= similarity and (p.probability or 1) >= threshold]
        wrong = sum(pair.is_same for pair in vetoed)
        yield f"  {check:17} {len(vetoed) - wrong:6} {wrong:6}"


def _figures(pairs: Sequence[Judged], similarity: float, threshold: float) -> Iterator[str]:
    served = [pair for pair in pairs if pair.is_served(similarity, threshold)]
    same, different = [pair for pair in pairs if pair.is_same], [pair for pair in pairs if not pair.is_same]
    right = sum(pair.is_same for pair in served)
    yield f"{'hit rate':18} {share(len(served), len(pairs))}"
    yield f"{'recall':18} {share(right, len(same))}  of pairs that one answer fits"
    yield f"{'precision':18} {share(right, len(served))}  of served answers"
    yield f"{'false-hit rate':18} {share(len(served) - right, len(different))}  of pairs that need two answers"


def _alone(pairs: Sequence[Judged]) -> Iterator[str]:
    """How well the similarity alone and the verifier alone rank pairs."""
    truth = np.array([pair.is_same for pair in pairs])
    if truth.all() or not truth.any():
        return
    by_similarity = np.array([pair.similarity for pair in pairs])
    by_verifier = np.array([1.0 if pair.probability is None else pair.probability for pair in pairs])
    ranked = {"similarity alone": by_similarity}
    if any(pair.probability is not None for pair in pairs):
        ranked["verifier alone"] = by_verifier
    for name, scores in ranked.items():
        recalls = "  ".join(f"recall {recall_at_precision(truth, scores, p):.4f} at {p:.0%} precision" for p in (0.90, 0.95))
        yield f"{name:18} ROC area {roc_area(truth, scores):.4f}  {recalls}"


def _row(pairs: Sequence[Judged], similarity: float, threshold: float) -> str:
    same, different = [pair for pair in pairs if pair.is_same], [pair for pair in pairs if not pair.is_same]
    right, false = (sum(pair.is_served(similarity, threshold) for pair in some) for some in (same, different))
    bare_right, bare_false = (sum(pair.similarity >= threshold for pair in some) for some in (same, different))
    precision = f"{right / (right + false):.4f}" if right + false else "     -"
    recall, bare_recall = (f"{count / len(same):.4f}" if same else "     -" for count in (right, bare_right))
    rate, bare_rate = (f"{count / len(different):.4f}" if different else "     -" for count in (false, bare_false))
    upper = f"({clopper_pearson(false, len(different)):.4f})" if different else ""
    hits = (right + false) / len(pairs)
    return f"{threshold:9.3f} {hits:10.4f} {recall:>8} {precision:>11} {rate:>16} {upper:>10} {bare_recall:>30} {bare_rate:>15}"


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
