"""Headers of our own, and what is looked at in a request's before its body comes."""

from __future__ import annotations

from router.core.messages import RequestHeaders
from router.core.types import Classification, Decision, Missing, Readings
from router.errors import RequestError

CLUSTER_HEADER = "x-upstream-cluster"
"""The header that envoy.yaml's `cluster_header` routes name."""
PATH_HEADER = "x-vsr-response-path"
"""Who answered: see `Outcome.response_path`. Envoy presets `bypass`."""
_MOST_DIGITS = 19  # of a length: as many as any limit has, and few enough for `int`, which refuses more than 4,300


def decision_headers(decision: Decision, readings: Readings) -> dict[str, str]:
    """The request headers that carry a decision: the first picks the cluster, Envoy copies the rest to the response."""
    category, confidence = category_of(readings)
    return {
        CLUSTER_HEADER: decision.model.cluster,
        "x-vsr-selected-category": category,
        "x-vsr-selected-confidence": f"{confidence:.4f}",
        "x-vsr-selected-decision": decision.name,
        "x-vsr-selected-model": decision.model.name,
        "x-vsr-selected-reasoning": reasoning_word(decision),
        "x-vsr-decision-reason": decision.reason,
        PATH_HEADER: "upstream",
    }


def category_of(readings: Readings) -> tuple[str, float]:
    """The intent's label and confidence; `none` when no rule asked for it, `unknown` when it could not be measured."""
    match readings.get("intent"):
        case Classification(label, confidence):
            return label, confidence
        case Missing():
            return "unknown", 0.0
        case _:
            return "none", 0.0


def reasoning_word(decision: Decision | None) -> str:
    """What becomes of the model's thinking: `on`, `off` or `unchanged`."""
    if decision is None or decision.reasoning is None:
        return "unchanged"
    return "on" if decision.reasoning.enabled else "off"


def check_headers(event: RequestHeaders, max_body_bytes: int) -> None:
    """Refuse what cannot become a request. Raises `RequestError`: a compressed, an empty or a too large body."""
    encoding = event.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        message = "this 'content-encoding' is not supported; send the body uncompressed"
        raise RequestError(415, message, param="content-encoding", code="unsupported_encoding")
    if (length := number_of(event.headers.get("content-length", ""))) is not None:
        check_size(length, max_body_bytes)
    if event.is_end:
        raise RequestError(400, "the body is empty; a JSON object was expected", code="invalid_json")


def number_of(digits: str) -> int | None:
    """A header's value as a number; None for anything else. Of absurdly many digits the last ones do not matter."""
    if not (digits.isascii() and digits.isdecimal()):
        return None
    return int(digits.lstrip("0")[:_MOST_DIGITS] or "0")


def check_size(size_bytes: int, max_body_bytes: int) -> None:
    """Raises `RequestError` for a body above the limit."""
    if size_bytes > max_body_bytes:
        message = f"the body is larger than this router's limit of {max_body_bytes} bytes"
        raise RequestError(413, message, code="body_too_large")
