"""Checks the fields of entries that come from a file, or from a store that others write to."""

from __future__ import annotations

import re

import numpy as np

from router.cache.entries import Entry
from router.cache.settings import DIMENSION

MAX_TEXT_BYTES = 16_384
"""Length of the column in Milvus: four bytes for each of the at most 4,000 characters that can be configured."""
_MAX_ANSWER_BYTES = 16 * 1024 * 1024
_DAY_MS = 86_400_000
_MAX_TTL_MS = 3651 * _DAY_MS
"""The longest lifetime that can be configured, ten years, and a day."""
_HEX = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"[\w.:/@+ -]{0,256}", re.ASCII)
_SCOPE = re.compile(r"[\w.:/@+ -]{0,64}", re.ASCII)
_PATTERNS = {
    "id": (_HEX, "32 hex digits"),
    "key": (_HEX, "32 hex digits"),
    "namespace": (_HEX, "32 hex digits"),
    "scope": (_SCOPE, "at most 64 letters, digits, blanks and ._:/@+-"),
    "decision": (_NAME, "at most 256 letters, digits, blanks and ._:/@+-"),
    "model": (_NAME, "at most 256 letters, digits, blanks and ._:/@+-"),
}


def fault_of(entry: Entry, now_ms: int) -> tuple[str, str] | None:
    """The first invalid field and what it must be; None when every field has the right type and is within its bounds."""
    for name, (pattern, must) in _PATTERNS.items():
        value = getattr(entry, name)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            return name, must
    if not isinstance(entry.text, str) or not 0 < len(entry.text.encode("utf-8", "surrogatepass")) <= MAX_TEXT_BYTES:
        return "text", f"of 1 to {MAX_TEXT_BYTES} bytes"
    if len(entry.answer) > _MAX_ANSWER_BYTES:
        return "answer", f"of at most {_MAX_ANSWER_BYTES} bytes"
    if not is_moment(entry.created_ms, now_ms) or not entry.created_ms:
        return "created_ms", "milliseconds since 1970, and not in the future"
    if not isinstance(entry.expires_ms, int) or not entry.created_ms < entry.expires_ms <= entry.created_ms + _MAX_TTL_MS:
        return "expires_ms", "after created_ms, and at most ten years after it"
    if entry.vector is not None and not is_unit(entry.vector):
        return "vector", f"{DIMENSION} finite numbers of length 1 together"
    return None


def is_unit(vector: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> bool:
    """Whether a vector has the shape (DIMENSION,) and about unit length; false when it holds NaN or infinity."""
    with np.errstate(all="ignore"):
        return vector.shape == (DIMENSION,) and bool(0.9 < float(vector @ vector) < 1.1)


def is_moment(value: object, now_ms: int, slack_ms: int = _DAY_MS) -> bool:
    """Whether a value is a past Unix time in milliseconds. The clock that gave it may be `slack_ms` ahead."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= now_ms + slack_ms
