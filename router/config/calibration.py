"""Chooses the cache's thresholds: looks up the operator's `max_false_hit_rate` in a measured table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from router.config.reader import Section
from router.core.lookup import CachePolicy
from router.errors import ConfigError, Problem
from router.files import read_text

CALIBRATION = Path(__file__).parents[1] / "models" / "calibration.json"
"""The table for the shipped models, made by `semantic-router calibrate cache`."""
FALSE_HIT_RATE = 0.01
"""The default of `max_false_hit_rate`."""
_SIMILARITY_BESIDE_VERIFIER, _SIMILARITY_ALONE = 0.75, 0.80
SIMILARITY_OF_CONVERSATIONS = 0.5
"""The default of `similarity_threshold` between conversations. Of 189 held-back pairs that want one answer, 99% reach it and 84%
reach 0.75; what was told in one message is the least similar."""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """The measurements for one threshold."""

    threshold: float
    """Of the verifier's probability; without a verifier, of the similarity."""
    max_false_hit_rate: float
    """The upper 95% bound of the share of non-matching pairs that are served."""
    recall: float
    """Share of matching pairs that are served."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The thresholds of a candidate."""

    similarity: float
    verifier: float
    max_false_hit_rate: float | None
    """The upper bound of the false-hit rate that they keep. None if they promise none."""


@dataclass(frozen=True, slots=True)
class CalibrationTable:
    """The measured thresholds with their false-hit rates.

    With a verifier, the bound sets the verifier's threshold, and the similarity only selects the candidates that it reads.
    Without one, the bound sets the similarity's threshold.
    """

    has_verifier: bool = False
    file: Path = CALIBRATION
    checks: tuple[str, ...] = ()
    """Lexical checks that the table was measured with."""
    points: tuple[OperatingPoint, ...] = ()
    """By rising threshold."""
    conversation_points: tuple[OperatingPoint, ...] = ()
    """The same of pairs of conversations whose earlier turns differ, measured without lexical checks; empty when not measured."""

    @property
    def similarity(self) -> float:
        """The default of `similarity_threshold`: low with a verifier, which reads the candidates, and high without one."""
        return _SIMILARITY_BESIDE_VERIFIER if self.has_verifier else _SIMILARITY_ALONE

    @property
    def verifier_threshold(self) -> float:
        """The verifier's default threshold; 0 without a verifier."""
        if not self.has_verifier:
            return 0.0
        point = self.point(FALSE_HIT_RATE)
        return point.threshold if point else 1.0

    @property
    def default_rate(self) -> float | None:
        """The bound that `verifier_threshold` keeps."""
        return FALSE_HIT_RATE if self.has_verifier else None

    def point(self, max_false_hit_rate: float) -> OperatingPoint | None:
        """The lowest threshold that keeps a bound; None when none does."""
        return _lowest(self.points, max_false_hit_rate)

    def conversation_point(self, max_false_hit_rate: float) -> OperatingPoint | None:
        """The same for conversations."""
        return _lowest(self.conversation_points, max_false_hit_rate)

    def thresholds(
        self, section: Section, similarity: float | None, rate: float | None, default: CachePolicy, checks: tuple[str, ...]
    ) -> Thresholds:
        """The thresholds of a policy.

        Args:
            section: where problems are noted.
            similarity: `similarity_threshold`; None when it is not written.
            rate: `max_false_hit_rate`; None when it is not written.
            default: the policy that applies where nothing is written.
            checks: the policy's lexical checks.
        """
        is_calibrated = set(checks) >= set(self.checks)  # more checks only veto more
        nearest = default.similarity_threshold if similarity is None else similarity
        if rate is None:
            keeps_default = is_calibrated and (self.has_verifier or similarity is None)
            return Thresholds(nearest, default.verifier_threshold, default.max_false_hit_rate if keeps_default else None)
        if not self.has_verifier and similarity is not None:
            message = "stands beside max_false_hit_rate, which sets the threshold; remove one of them"
            section.problem("similarity_threshold", message)
        if self.points and not is_calibrated:
            section.problem(
                "max_false_hit_rate",
                f"was calibrated with the lexical checks {', '.join(self.checks)}; leave 'lexical_checks' out, or make a table "
                "of your own with `semantic-router calibrate cache`",
            )
        point = self.point(rate)
        if point is None and self.points:
            least = min(point.max_false_hit_rate for point in self.points)
            section.problem(
                "max_false_hit_rate", f"cannot be promised below {least:g}; name at least that, or set 'exact_only' to true"
            )
        threshold = point.threshold if point else 1.0
        return Thresholds(nearest, threshold, rate) if self.has_verifier else Thresholds(threshold, 0.0, rate)


def _lowest(points: Sequence[OperatingPoint], max_false_hit_rate: float) -> OperatingPoint | None:
    return next((point for point in points if point.max_false_hit_rate <= max_false_hit_rate), None)


def read_calibration(section: Section, file: Path, *, has_verifier: bool, is_caching: bool) -> CalibrationTable:
    """Read the table in a file. A cache that is off needs none."""
    if not is_caching:
        return CalibrationTable(has_verifier, file)
    try:
        return read_table(file, has_verifier=has_verifier)
    except ConfigError as error:
        section.problem("calibration", error.problems[0].message)
        return CalibrationTable(has_verifier, file)


def read_table(file: Path, *, has_verifier: bool) -> CalibrationTable:
    """Read the part of a table for a cache with or without verifier. Raises `ConfigError` if the file is not such a table."""
    try:
        document = json.loads(read_text(file))
        table = document["with_verifier" if has_verifier else "no_verifier"]
        told = document.get("conversations", {"points": ()}) if has_verifier else {"points": ()}
        points, conversation_points = (
            tuple(OperatingPoint(*map(float, point)) for point in part["points"]) for part in (table, told)
        )
        return CalibrationTable(has_verifier, file, tuple(map(str, table["checks"])), points, conversation_points)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        message = f"{file} is no table that `semantic-router calibrate cache` made for these models"
        raise ConfigError([Problem(str(file), 0, "", message)]) from None
