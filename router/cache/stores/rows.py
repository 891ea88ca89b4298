"""Converts entries and invalidations to rows of a store, and back. Others may write to the store, so a bad row reads as None."""

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
"""The limit of Milvus for a VARCHAR. A compressed answer must fit, and so must an invalidation."""
_MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""Bound on an unpacked answer, because 64 KiB can unpack to 64 MiB of zeros."""
_SLACK_MS = 1_200_000
"""Twice the allowed lead of another replica's clock. An invalidation with a later time is ignored, because it would forbid all
entries until then."""
Row = Mapping[str, Any]
"""A row of pymilvus: values of any type, by column."""
_DIGEST = re.compile(r"[0-9a-f]{32}")


def entry_of(row: Row, timestamp_field: str, vector_field: str, now_ms: int) -> Entry | None:
    """The entry of a row; None when no router wrote the row."""
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
    """The row of an entry; None when the store cannot take it: the answer is too long, or the text is not UTF-8."""
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
    """The invalidation of a row; None when no router wrote the row."""
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
    """The filter in a document. Without a moment, it covers the entries that existed when it was written.

    Raises ValueError when it is not a filter.
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
    """The document of an invalidation, as `invalidation_of` reads it."""
    return {
        "filter": asdict(invalidation.entry_filter) if invalidation.entry_filter else None,
        "rejected": invalidation.rejected,
    }


def packed(answer: bytes) -> str:
    """An answer in the form for a VARCHAR."""
    return base64.b85encode(zlib.compress(answer, 6)).decode()


def unpacked(text: str) -> bytes:
    """The answer in a text of `packed`; empty when the text is invalid or the answer too long."""
    try:
        reader = zlib.decompressobj()
        answer = reader.decompress(base64.b85decode(text), _MAX_ANSWER_BYTES)
        return answer if reader.eof else b""
    except (ValueError, zlib.error):
        return b""


def _is_utf8(text: str) -> bool:
    """Whether a text can be UTF-8. Text from JSON may hold half a surrogate pair, which cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
