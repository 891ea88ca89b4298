"""Entries and invalidations as rows of a store that others write to as well. Reading never raises: it gives None."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from router.cache.entries import Entry, EntryFilter, Invalidation
from router.cache.soundness import fault_of, is_moment

MAX_STORED_BYTES = 65_535
"""Milvus' limit for a VARCHAR; an answer is compressed and must fit, and so must an invalidation."""
_MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""Unpacked: 64 KiB can hold 64 MiB of zeros."""
_SLACK_MS = 1_200_000
"""Twice what another replica's clock may be ahead: an invalidation of a time to come would forbid everything until then."""
Row = Mapping[str, Any]
"""As pymilvus gives and takes it: values of any type, by column."""
_DIGEST = re.compile(r"[0-9a-f]{32}")


def entry_of(row: Row, timestamp_field: str, vector_field: str, now_ms: int) -> Entry | None:
    """An entry, or None when no router has written the row."""
    try:
        vector = row.get(vector_field) if row.get("has_vector", True) else None
        with np.errstate(all="ignore"):
            numbers = np.asarray(vector, np.float32) if vector is not None else None
        entry = Entry(
            row["id"],
            row["key"],
            row["namespace"],
            row["scope"],
            row["decision"],
            row["model"],
            row["question"],
            unpacked(row["answer"]) if row.get("answer") else b"",
            int(row[timestamp_field]),
            int(row["expires"]),
            numbers,
        )
        return None if fault_of(entry, now_ms) else entry
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def entry_row(entry: Entry, timestamp_field: str, vector_field: str, dimension: int, now_ms: int) -> Row | None:
    """A row, or None for what the store cannot take: an answer that is too long, or text that is no UTF-8."""
    answer = packed(entry.answer)
    if len(answer) > MAX_STORED_BYTES or not _is_utf8(entry.text) or fault_of(entry, now_ms):
        return None
    return {
        "id": entry.id,
        "key": entry.key,
        "namespace": entry.namespace,
        "scope": entry.scope,
        "decision": entry.decision,
        "model": entry.model,
        "question": entry.text,
        "answer": answer,
        timestamp_field: entry.created_ms,
        "expires": entry.expires_ms,
        "has_vector": entry.vector is not None,
        vector_field: entry.vector if entry.vector is not None else np.zeros(dimension, np.float32),
    }


def invalidation_of(row: Row, now_ms: int) -> Invalidation | None:
    """An invalidation, or None when no router has written the row."""
    try:
        created_ms, document = int(row["created"]), json.loads(row["document"])
        if not isinstance(document, dict) or not is_moment(created_ms, now_ms, _SLACK_MS):
            return None
        rejected, entry_filter = document.get("rejected"), _filter_of(document.get("filter"), created_ms, now_ms)
        if rejected is not None and not (isinstance(rejected, str) and _DIGEST.fullmatch(rejected)):
            return None
        return Invalidation(str(row["id"]), created_ms, entry_filter, rejected) if entry_filter or rejected else None
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
        return None


def _filter_of(found: object, created_ms: int, now_ms: int) -> EntryFilter | None:
    """A filter as it stands in a document; without a moment it means what was there when it was written.

    Raises ValueError for what is no filter.
    """
    if found is None:
        return None
    if not isinstance(found, dict):
        raise ValueError
    ids, before_ms = found.get("ids"), found.get("before_ms")
    if before_ms is None and ids is None:
        before_ms = created_ms + 1
    decision, model, scope = (found.get(name) for name in ("decision", "model", "scope"))
    if not (before_ms is None or is_moment(before_ms, now_ms, _SLACK_MS)) or not all(
        name is None or isinstance(name, str) for name in (decision, model, scope)
    ):
        raise ValueError
    if ids is not None and not (isinstance(ids, list) and all(isinstance(one, str) for one in ids)):
        raise ValueError
    return EntryFilter(tuple(ids) if ids is not None else None, decision, model, scope, before_ms)


def invalidation_document(invalidation: Invalidation) -> dict[str, object]:
    """What `invalidation_of` reads."""
    return {
        "filter": asdict(invalidation.entry_filter) if invalidation.entry_filter else None,
        "rejected": invalidation.rejected,
    }


def packed(answer: bytes) -> str:
    """An answer as a VARCHAR holds it."""
    return base64.b85encode(zlib.compress(answer, 6)).decode()


def unpacked(text: str) -> bytes:
    """An answer; empty when the text is none, or the answer is longer than any may be."""
    try:
        reader = zlib.decompressobj()
        answer = reader.decompress(base64.b85decode(text), _MAX_ANSWER_BYTES)
        return answer if reader.eof else b""
    except (ValueError, zlib.error):
        return b""


def _is_utf8(text: str) -> bool:
    """Half a surrogate pair, which JSON can hold, is not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
