"""How sure the cache has to be before it serves: the operator's bound on wrong hits, looked up in a table that was measured."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from router.config.reader import Section
from router.core.lookup import CachePolicy
from router.errors import ConfigError, Problem
from router.files import read_text

CALIBRATION = Path(__file__).parents[1] / "models" / "calibration.json"
"""Of the shipped models. Made by `semantic-router calibrate cache`."""
FALSE_HIT_RATE = 0.01
"""The bound that holds unless the operator names one."""
_SIMILARITY_BESIDE_VERIFIER, _SIMILARITY_ALONE = 0.75, 0.80


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What one bar was measured to do."""

    bar: float
    false_hit_rate_at_most: float
    """The upper 95% bound of the share of should-miss pairs that are served."""
    recall: float
    """Share of pairs with the same answer that are served."""


@dataclass(frozen=True, slots=True)
class CalibrationTable:
    """Beside a verifier the bound chooses its least probability, and the similarity only says which candidates it sees.

    Without one the bound chooses the similarity itself.
    """

    has_verifier: bool = False
    file: Path = CALIBRATION
    guards: tuple[str, ...] = ()
    """That the table was measured with."""
    points: tuple[OperatingPoint, ...] = ()
    """By rising bar."""

    @property
    def similarity(self) -> float:
        """The default of `similarity_threshold`: a verifier wants to see candidates, guards alone have to be careful."""
        return _SIMILARITY_BESIDE_VERIFIER if self.has_verifier else _SIMILARITY_ALONE

    @property
    def at_least(self) -> float:
        """The verifier's bar when no bound is named; 0 when there is none."""
        if not self.has_verifier:
            return 0.0
        point = self.point(FALSE_HIT_RATE)
        return point.bar if point else 1.0

    @property
    def default_budget(self) -> float | None:
        """The bound that `at_least` keeps."""
        return FALSE_HIT_RATE if self.has_verifier else None

    def point(self, budget: float) -> OperatingPoint | None:
        """The lowest bar that keeps a bound; None when none does."""
        return next((point for point in self.points if point.false_hit_rate_at_most <= budget), None)

    def read(self, section: Section, default: CachePolicy, guards: tuple[str, ...]) -> tuple[float, float, float | None]:
        """Similarity, the verifier's bar, and the bound that they keep: None when nothing is promised."""
        similarity = section.number("similarity_threshold", default.threshold, 0.5, 1)
        is_calibrated = set(guards) >= set(self.guards)  # more of them only keep more back
        if not section.has("max_false_hit_rate"):
            keeps_default = is_calibrated and (self.has_verifier or not section.has("similarity_threshold"))
            return similarity, default.at_least, default.false_hit_budget if keeps_default else None
        budget = section.number("max_false_hit_rate", FALSE_HIT_RATE, 0.0005, 0.5)
        if not self.has_verifier and section.has("similarity_threshold"):
            section.problem(
                "similarity_threshold", "stands beside max_false_hit_rate, which chooses the threshold; remove one of them"
            )
        if self.points and not is_calibrated:
            section.problem(
                "max_false_hit_rate",
                f"was calibrated with the guards {', '.join(self.guards)}; leave 'guards' out, or make a table of your own with "
                "`semantic-router calibrate cache`",
            )
        point = self.point(budget)
        if point is None and self.points:
            least = min(point.false_hit_rate_at_most for point in self.points)
            section.problem(
                "max_false_hit_rate", f"cannot be promised below {least:g}; name at least that, or set 'semantic' to false"
            )
        bar = point.bar if point else 1.0
        return (similarity, bar, budget) if self.has_verifier else (bar, 0.0, budget)


def read_bars(section: Section, *, has_verifier: bool, is_caching: bool) -> CalibrationTable:
    """The table that the key `calibration` names, or the shipped one. A cache that is off needs none."""
    file = Path(section.notes.file).parent / section.text("calibration", str(CALIBRATION))
    if not is_caching:
        return CalibrationTable(has_verifier, file)
    try:
        return read_table(file, has_verifier=has_verifier)
    except ConfigError as error:
        section.problem("calibration", error.problems[0].message)
        return CalibrationTable(has_verifier, file)


def read_table(file: Path, *, has_verifier: bool) -> CalibrationTable:
    """The part of a table for a cache with or without verifier. Raises `ConfigError` when it is no such table."""
    try:
        table = json.loads(read_text(file))["with_verifier" if has_verifier else "no_verifier"]
        points = tuple(OperatingPoint(*map(float, point)) for point in table["points"])
        return CalibrationTable(has_verifier, file, tuple(map(str, table["guards"])), points)
    except (OSError, ValueError, KeyError, TypeError):
        message = f"{file} is no table that `semantic-router calibrate cache` made for these models"
        raise ConfigError([Problem(str(file), 0, "", message)]) from None
