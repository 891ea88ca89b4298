"""Reads `similar_conversations`: the thresholds under which conversations that are worded differently may share an answer."""

from __future__ import annotations

from router.config.calibration import FALSE_HIT_RATE, SIMILARITY_OF_CONVERSATIONS, CalibrationTable
from router.config.reader import Section
from router.core.lookup import ConversationThresholds

KEY = "similar_conversations"
_SAID_BY = (KEY, "lexical_checks", "max_false_hit_rate")
"""The keys of which one is to blame where such conversations cannot be judged."""


def conversation_thresholds(
    section: Section,
    calibration: CalibrationTable,
    checks: tuple[str, ...],
    *,
    similarity: float | None,
    rate: float | None,
    idle: str,
) -> ConversationThresholds:
    """The thresholds of a policy whose `similar_conversations` is true.

    Args:
        section: where problems are noted, once for each section that says something about it.
        calibration: without points when the cache is off; then nothing is promised or refused.
        checks: the policy's lexical checks.
        similarity: `similarity_threshold`, of this section or else of `semantic_cache`; None when neither names it.
        rate: `max_false_hit_rate`, likewise.
        idle: another key, with its value, that leaves the key nothing to do; empty when none does.
    """
    promised = FALSE_HIT_RATE if rate is None else rate
    point = calibration.conversation_point(promised)
    said = next((key for key in _SAID_BY if section.has(key)), None)
    if said and calibration.points and (problem := _problem(calibration, checks, promised)):
        section.problem(said, problem if said == KEY else f"leaves {KEY} nothing to go by: it {problem}")
    if idle and section.has(KEY):
        section.problem(KEY, f"could do nothing: {idle}")
    nearest = SIMILARITY_OF_CONVERSATIONS if similarity is None else similarity
    return ConversationThresholds(nearest, point.threshold if point else 1.0)


def _problem(calibration: CalibrationTable, checks: tuple[str, ...], rate: float) -> str:
    """Why these conversations cannot be judged; empty when they can."""
    if not calibration.has_verifier:
        return "needs the verifier, which reads both conversations; set semantic_cache.verifier.enabled to true"
    if "unasked" in checks:
        return (
            "is not for strangers: a client may put any words into an assistant's turn, and so steer answers that others get; "
            "name a header that tells them apart (semantic_cache.scope), or, if all who share trust each other, list "
            "lexical_checks without unasked"
        )
    points = calibration.conversation_points
    if not points:
        return (
            f"cannot keep any bound: {calibration.file} was not measured on conversations; make a table with `semantic-router "
            "calibrate cache PAIRS --conversations CONVERSATIONS --out FILE`, and name it in semantic_cache.calibration"
        )
    least = min(point.max_false_hit_rate for point in points)
    if least > rate:
        return (
            f"cannot be promised at a max_false_hit_rate of {rate:g}; name at least {least:g}, or measure on more conversations"
        )
    return ""
