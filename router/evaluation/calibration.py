"""`semantic-router calibrate cache FILE`: makes the table that gives the cache's thresholds for a `max_false_hit_rate`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from router.cache.checks import CHECKS_ALONE, CHECKS_WITH_VERIFIER
from router.errors import ConfigError, Problem
from router.evaluation.cache import Judged, judge
from router.evaluation.measures import clopper_pearson, share
from router.inference.bundle import MODEL, Bundle, digest, sha256_of

_MIN_SIMILARITY = 0.5  # the lowest `similarity_threshold` allowed; a higher one never serves more
_MAX_RATES = (0.005, 0.01, 0.02, 0.05)
_MIN_PAIRS = 300  # with fewer pairs, the upper bound exceeds 1% even without a single wrong hit
_POINTS = 120


def calibrate(
    path: Path,
    out: Path,
    encoder: Bundle,
    verifier: Bundle | None,
    guards: Sequence[str] | None,
    conversations: Path | None = None,
) -> Iterator[str]:
    """Write the table and report on it, line by line. `guards` names the lexical checks; None means the defaults.

    The table is made from all pairs. The report checks it by halves: thresholds chosen on one half of the pairs are measured on
    the other half, and no question is in both. `conversations` is a file with pairs of conversations; without it, the table has
    no part for them.

    Raises:
        ConfigError: a file does not hold pairs, or too few of them need two answers.
    """
    with_verifier = tuple(CHECKS_WITH_VERIFIER if guards is None else guards)
    alone = tuple(CHECKS_ALONE if guards is None else guards)
    document: dict[str, object] = {
        "encoder_sha256": encoder.sha256[MODEL],
        "verifier_sha256": verifier.sha256[MODEL] if verifier else None,
        "data": path.name,
        "data_sha256": sha256_of(path),
    }
    kinds = {"no_verifier": (None, alone)} | ({"with_verifier": (verifier, with_verifier)} if verifier else {})
    for kind, (second, chosen) in kinds.items():
        pairs = judge(path, encoder, second, chosen)
        different = _count_different(path, pairs, "pairs")
        points = table(pairs, by_verifier=second is not None)
        document |= {"different_pairs": different, "same_pairs": len(pairs) - different}
        document[kind] = {"checks": list(chosen), "points": _rounded(points)}
        yield f"{kind.replace('_', ' ')}: {len(pairs)} pairs, {different} of them need two answers"
        yield from _check(pairs, by_verifier=second is not None)
    if conversations:
        part, lines = _of_conversations(conversations, encoder, verifier)
        document["conversations"] = part
        yield from lines
    out.write_text(_as_json(document), encoding="utf-8")
    yield f"wrote {out}"


def _of_conversations(path: Path, encoder: Bundle, verifier: Bundle | None) -> tuple[dict[str, object], Iterator[str]]:
    """The part for conversations whose earlier turns differ, and the report on it. Others are judged as questions."""
    if verifier is None:
        raise ConfigError(
            [Problem("--conversations", 0, "", "could do nothing: without a verifier, no conversations are compared")]
        )
    pairs = [pair for pair in judge(path, encoder, verifier, ()) if pair.is_conversation]
    different = _count_different(path, pairs, "pairs of conversations whose earlier turns differ and")
    part: dict[str, object] = {
        "data": path.name,
        "data_sha256": sha256_of(path),
        "different_pairs": different,
        "same_pairs": len(pairs) - different,
        "points": _rounded(table(pairs, by_verifier=True)),
    }
    first = f"conversations: {len(pairs)} pairs whose earlier turns differ, {different} of them need two answers"
    return part, chain([first], _check(pairs, by_verifier=True))


def _count_different(path: Path, pairs: Sequence[Judged], what: str) -> int:
    """How many pairs need two answers. Raises `ConfigError` when they are too few."""
    different = sum(not pair.is_same for pair in pairs)
    if different < _MIN_PAIRS:
        message = f"holds {different} {what} that need two answers; a bound of the false-hit rate needs at least {_MIN_PAIRS}"
        raise ConfigError([Problem(str(path), 0, "", message)])
    return different


def _rounded(points: Sequence[tuple[float, float, float]]) -> list[list[float]]:
    return [[round(number, 6) for number in point] for point in points]


def table(pairs: Sequence[Judged], *, by_verifier: bool) -> list[tuple[float, float, float]]:
    """Rising thresholds, each with the upper 95% bound of the false-hit rate and with the recall."""
    same, different = [pair for pair in pairs if pair.is_same], [pair for pair in pairs if not pair.is_same]
    points = []
    for threshold in _thresholds(pairs, by_verifier=by_verifier):
        false, right = (sum(_is_served(pair, threshold, by_verifier=by_verifier) for pair in some) for some in (different, same))
        points.append((threshold, clopper_pearson(false, len(different)), right / max(1, len(same))))
    return points


def _thresholds(pairs: Sequence[Judged], *, by_verifier: bool) -> list[float]:
    """The thresholds to try: hundredths of similarity, or quantiles of the probability, denser at high probabilities."""
    if not by_verifier:
        return [step / 100 for step in range(70, 100)]
    scores = [pair.probability for pair in pairs if pair.probability is not None and not pair.check]
    places = 1 - np.geomspace(0.6, 0.0005, _POINTS)
    return sorted({round(float(threshold), 4) for threshold in np.quantile(scores, places)} | {1.0})


def _is_served(pair: Judged, threshold: float, *, by_verifier: bool) -> bool:
    return pair.is_served(_MIN_SIMILARITY, threshold) if by_verifier else pair.is_served(threshold, 0)


def _check(pairs: Sequence[Judged], *, by_verifier: bool) -> Iterator[str]:
    """The false-hit rate of thresholds on the half on which they were not chosen, for both halves together."""
    halves = _halves(pairs)
    yield "  bound    measured on the other half                     recall"
    for max_rate in _MAX_RATES:
        false = right = different = same = 0
        for chosen, held_back in (halves, halves[::-1]):
            points = table(chosen, by_verifier=by_verifier)
            threshold = next((threshold for threshold, rate, _ in points if rate <= max_rate), None)
            for pair in held_back:
                served = threshold is not None and _is_served(pair, threshold, by_verifier=by_verifier)
                false, different = false + (served and not pair.is_same), different + (not pair.is_same)
                right, same = right + (served and pair.is_same), same + pair.is_same
        yield f"  {max_rate:5.3f}    {share(false, different)}      {right / max(1, same):.4f}"


def _halves(pairs: Sequence[Judged]) -> tuple[list[Judged], list[Judged]]:
    """Two halves that share no question: pairs that share a text stay together."""
    root: dict[str, str] = {}

    def find(text: str) -> str:
        while root.setdefault(text, text) != text:
            root[text] = root[root[text]]
            text = root[text]
        return text

    for pair in pairs:
        root[find(pair.asked)] = find(pair.stored)
    first = [pair for pair in pairs if digest(find(pair.asked))[0] % 2]
    return first, [pair for pair in pairs if not digest(find(pair.asked))[0] % 2]


def _as_json(document: dict[str, object]) -> str:
    """JSON with one point per line."""
    return re.sub(r"\[\s+([\d.e-]+),\s+([\d.e-]+),\s+([\d.e-]+)\s+\]", r"[\1, \2, \3]", json.dumps(document, indent=1)) + "\n"
