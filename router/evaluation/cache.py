"""`semantic-router eval cache FILE`: measures on labelled pairs of questions how often cache hits are right and wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from router.cache.checks import conflict, with_agreement
from router.cache.conversations import Pair, objection_to, pair_of_texts
from router.cache.wording import UNREAD, difference
from router.core.lookup import ConversationThresholds
from router.errors import BackendError, ConfigError, Problem
from router.evaluation.leaks import refuse_trained_on
from router.evaluation.measures import clopper_pearson, recall_at_precision, roc_area, share
from router.evaluation.pairs import OTHER_NAMESPACE, LabelledPair, read_pairs
from router.inference.bundle import Bundle
from router.inference.cross_encoder import CrossEncoder
from router.inference.encoder import Encoder, Encoding
from router.inference.pool import InferencePool

SIMILARITIES = (0.70, 0.75, 0.80, 0.85, 0.90, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99)
PROBABILITIES = (0.50, 0.60, 0.70, 0.75, 0.80, 0.85, 0.88, 0.90, 0.92, 0.93, 0.94, 0.95, 0.96, 0.97, 0.98)
_MAX_TAGS = 60
_NO_PART = (
    "the calibration table has no threshold for them that keeps this bound: make one with `semantic-router calibrate cache PAIRS "
    "--conversations CONVERSATIONS --out FILE`, and name it with --calibration"
)


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
    """The lexical check that vetoes the pair, `UNREAD`, or what keeps two conversations apart; empty when nothing does."""
    probability: float | None
    """The verifier's probability, raised where two questions agree. None without a verifier, or when the wording is the same."""
    is_conversation: bool = False
    """The earlier turns differ, so that the thresholds of conversations decide."""

    def is_served(self, similarity: float, threshold: float) -> bool:
        """Whether the cache would serve the stored answer."""
        is_sure = self.probability is None or self.probability >= threshold
        return not self.check and self.similarity >= similarity and is_sure


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The thresholds of questions and of conversations."""

    similarity: float
    verifier: float
    conversations: ConversationThresholds | None = None

    def serve(self, pair: Judged) -> bool:
        """Whether the cache would serve the stored answer."""
        if not pair.is_conversation:
            return pair.is_served(self.similarity, self.verifier)
        own = self.conversations
        return own is not None and pair.is_served(own.similarity, own.verifier)

    def at(self, tried: float, *, by_verifier: bool) -> Thresholds:
        """The same with one threshold for all: of the verifier, or without one of the similarity."""
        if not by_verifier:
            return replace(self, similarity=tried)
        own = self.conversations
        return replace(self, verifier=tried, conversations=replace(own, verifier=tried) if own else None)


class Judge:
    """Judges pairs as the cache does, with the models that it uses."""

    def __init__(self, encoder: Bundle, verifier: Bundle | None, checks: Sequence[str]) -> None:
        passes = InferencePool(1, 1)
        self._encoder = Encoder(encoder, passes)
        self._verifier = CrossEncoder(verifier, passes) if verifier else None
        self._checks = tuple(checks)
        self._encodings: dict[str, Encoding | None] = {}

    def judge(self, pair: LabelledPair) -> Judged:
        """Judge one pair. The verifier reads it even if a check vetoes, so that the verifier can be measured alone."""
        compared = Pair(pair.asked, pair.stored, is_whole=False)
        if pair.is_of_conversations:
            compared = pair_of_texts(pair.asked, pair.stored)
        similarity = self._similarity(compared)
        check, probability = self._judge_conversations(pair) if compared.is_whole else self._judge_questions(compared)
        is_conversation = compared.is_whole and pair.apart != OTHER_NAMESPACE
        return Judged(
            pair.asked, pair.stored, pair.is_same, pair.tag, similarity, pair.apart or check, probability, is_conversation
        )

    def _judge_questions(self, pair: Pair) -> tuple[str, float | None]:
        written = difference(pair.asked, pair.stored)
        check = conflict(pair.asked, pair.stored, self._checks) or (UNREAD if written == "unread" else "")
        probability = None if written == "none" else self._probability(pair.asked, pair.stored)
        return check, None if probability is None else with_agreement(probability, pair.asked, pair.stored)

    def _judge_conversations(self, pair: LabelledPair) -> tuple[str, float | None]:
        """As `Verifier.conversations`."""
        check = objection_to(pair.asked, pair.stored) if self._verifier else "verifier"
        return check, self._probability(pair.asked, pair.stored)

    def _similarity(self, pair: Pair) -> float:
        one, other = self._encode(pair.asked), self._encode(pair.stored)
        if one is None or other is None:
            return -1.0
        is_read = pair.is_whole or not (one.is_truncated or other.is_truncated)
        return float(one.vector @ other.vector) if is_read else -1.0

    def _encode(self, text: str) -> Encoding | None:
        if text not in self._encodings:
            try:
                self._encodings[text] = self._encoder.run(text)
            except BackendError:
                self._encodings[text] = None
        return self._encodings[text]

    def _probability(self, asked: str, stored: str) -> float | None:
        """None without a verifier; 0 when it cannot read the pair."""
        if self._verifier is None:
            return None
        try:
            return self._verifier.run(asked, stored)
        except BackendError:
            return 0.0


def judge(path: Path, encoder: Bundle, verifier: Bundle | None, checks: Sequence[str]) -> list[Judged]:
    """Judge every pair of a file; see `read_pairs`, also for what is raised."""
    judge_ = Judge(encoder, verifier, checks)
    return [judge_.judge(pair) for pair in read_pairs(path)]


def evaluate(
    path: Path, encoder: Bundle, verifier: Bundle | None, checks: Sequence[str], thresholds: Thresholds
) -> Iterator[str]:
    """The report on the pairs in `path`, line by line.

    Raises:
        ConfigError: as `read_pairs` does, or the model was trained on the pairs, or there are no thresholds for conversations.
    """
    if verifier:
        refuse_trained_on(path, verifier, [f"{pair.asked}\n{pair.stored}" for pair in read_pairs(path)])
    pairs = judge(path, encoder, verifier, checks)
    own = thresholds.conversations
    if own is None and any(pair.is_conversation for pair in pairs):
        raise ConfigError([Problem(str(path), 0, "", f"holds conversations whose earlier turns differ; {_NO_PART}")])
    names = ", ".join(f"{bundle.name} {bundle.version}" for bundle in (encoder, verifier) if bundle)
    yield f"{names} on {path.name}: {len(pairs)} pairs, lexical checks {', '.join(checks) or 'none'}"
    at = f"at similarity {thresholds.similarity:.2f}" + (f" and verifier {thresholds.verifier:.3f}" if verifier else "")
    if own and any(pair.is_conversation for pair in pairs):
        at += f", conversations at similarity {own.similarity:.2f} and verifier {own.verifier:.3f}"
    yield f"{at}:"
    yield from _figures(pairs, thresholds)
    yield from _alone(pairs)
    tags = sorted({pair.tag for pair in pairs})
    if 1 < len(tags) <= _MAX_TAGS:
        yield ""
        yield "by tag: pairs, hit rate, false-hit rate"
        for tag in tags:
            some = [pair for pair in pairs if pair.tag == tag]
            different = [pair for pair in some if not pair.is_same]
            served, false = sum(map(thresholds.serve, some)), sum(map(thresholds.serve, different))
            rate = f"{false / len(different):.4f}" if different else "     -"
            yield f"  {tag[:64]:64} {len(some):6} {served / len(some):8.4f} {rate:>8}"
    yield ""
    yield "threshold   hit rate   recall   precision   false-hit rate (95% at most)   similarity alone: recall  false-hit rate"
    for tried in PROBABILITIES if verifier else SIMILARITIES:
        yield _row(pairs, thresholds.at(tried, by_verifier=verifier is not None), tried)
    yield ""
    yield "vetoes of pairs that would otherwise be served, by lexical check: right (different questions), wrong (same question)"
    for check in dict.fromkeys((*checks, UNREAD, *(pair.check for pair in pairs if pair.check))):
        vetoed = [pair for pair in pairs if pair.check == check and thresholds.serve(replace(pair, check=""))]
        wrong = sum(pair.is_same for pair in vetoed)
        yield f"  {check:17} {len(vetoed) - wrong:6} {wrong:6}"


def _figures(pairs: Sequence[Judged], thresholds: Thresholds) -> Iterator[str]:
    served = [pair for pair in pairs if thresholds.serve(pair)]
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


def _row(pairs: Sequence[Judged], thresholds: Thresholds, threshold: float) -> str:
    same, different = [pair for pair in pairs if pair.is_same], [pair for pair in pairs if not pair.is_same]
    right, false = (sum(map(thresholds.serve, some)) for some in (same, different))
    bare_right, bare_false = (sum(pair.similarity >= threshold for pair in some) for some in (same, different))
    precision = f"{right / (right + false):.4f}" if right + false else "     -"
    recall, bare_recall = (f"{count / len(same):.4f}" if same else "     -" for count in (right, bare_right))
    rate, bare_rate = (f"{count / len(different):.4f}" if different else "     -" for count in (false, bare_false))
    upper = f"({clopper_pearson(false, len(different)):.4f})" if different else ""
    hits = (right + false) / len(pairs)
    return f"{threshold:9.3f} {hits:10.4f} {recall:>8} {precision:>11} {rate:>16} {upper:>10} {bare_recall:>30} {bare_rate:>15}"
