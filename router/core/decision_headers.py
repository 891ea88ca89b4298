"""The headers that carry a decision, and the words that headers and records share."""

from __future__ import annotations

from router.core.headers import (
    CATEGORY_HEADER,
    CLUSTER_HEADER,
    CONFIDENCE_HEADER,
    DECISION_HEADER,
    MODEL_HEADER,
    PATH_HEADER,
    REASON_HEADER,
    REASONING_HEADER,
)
from router.core.types import Classification, Decision, Missing, Readings, ReasoningWord


def decision_headers(decision: Decision, readings: Readings) -> dict[str, str]:
    """The request headers that carry a decision. The first selects the cluster; Envoy copies the others to the response."""
    category, confidence = category_of(readings)
    return {
        CLUSTER_HEADER: decision.model.cluster,
        CATEGORY_HEADER: category,
        CONFIDENCE_HEADER: f"{confidence:.4f}",
        DECISION_HEADER: decision.name,
        MODEL_HEADER: decision.model.name,
        REASONING_HEADER: reasoning_word(decision),
        REASON_HEADER: decision.reason,
        PATH_HEADER: "upstream",
    }


def category_of(readings: Readings) -> tuple[str, float]:
    """Label and confidence of the intent: `none` when no rule asked for it, `unknown` when it could not be measured."""
    match readings.get("intent"):
        case Classification(label, confidence):
            return label, confidence
        case Missing():
            return "unknown", 0.0
        case _:
            return "none", 0.0


def reasoning_word(decision: Decision | None) -> ReasoningWord:
    """Whether the decision switches the model's reasoning on or off, or leaves it."""
    if decision is None or decision.reasoning is None:
        return "unchanged"
    return "on" if decision.reasoning.enabled else "off"
