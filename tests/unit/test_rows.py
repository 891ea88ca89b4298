"""Rows of a store that others write to: our rows are read as we wrote them, and any other row is skipped."""

from __future__ import annotations

import json
import random
import zlib
from base64 import b85encode
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from router.cache.entries import Entry, EntryFilter, Invalidation
from router.cache.soundness import fault_of
from router.cache.stores.rows import (
    MAX_STORED_BYTES,
    entry_of,
    entry_row,
    invalidation_document,
    invalidation_of,
    packed,
    unpacked,
)

NOW_MS = 1_800_000_000_000
DAY_MS = 86_400_000
VECTOR = np.full(384, 384**-0.5, np.float32)
ENTRY = Entry("e" * 32, "f" * 32, "a" * 32, "global", "faq", "org/model:7b", "Q?", b'{"choices": []}', NOW_MS, NOW_MS + 1, VECTOR)


def row_of(entry: Entry) -> dict[str, Any] | None:
    """The row of an entry, as it is stored."""
    return entry_row(entry, "timestamp", "embedding", 384, NOW_MS)


def read(row: dict[str, Any]) -> Entry | None:
    """The entry of a row, as it is read."""
    return entry_of(row, "timestamp", "embedding", NOW_MS)


def control(document: object, created: object = NOW_MS) -> dict[str, Any]:
    """A control row."""
    return {"id": "n", "created": created, "document": document if isinstance(document, str) else json.dumps(document)}


@pytest.mark.parametrize("vector", [VECTOR, None])
def test_an_entry_is_read_as_it_was_written(vector: Any) -> None:
    """This holds with its answer and vector, and without."""
    row = row_of(replace(ENTRY, vector=vector))
    assert row is not None
    entry = read(row)
    assert entry is not None
    assert replace(entry, vector=None) == replace(ENTRY, vector=None)
    assert (entry.vector is None) == (vector is None)


FAULTS: list[tuple[str, Any]] = [
    ("id", 'x" or id != "'),
    ("id", "e" * 33),
    ("key", ""),
    ("namespace", "A" * 32),
    ("scope", "s" * 65),
    ("decision", "d" * 257),
    ("decision", "näme"),
    ("model", 'm"'),
    ("text", ""),
    ("text", "x" * 16_385),
    ("text", "é" * 8_193),
    ("created_ms", -1),
    ("created_ms", 0),
    ("created_ms", NOW_MS + 2 * DAY_MS),
    ("created_ms", 2**70),
    ("expires_ms", NOW_MS),
    ("expires_ms", -(2**63)),
    ("expires_ms", 2**62),
    ("vector", np.full(384, np.nan, np.float32)),
    ("vector", np.full(384, np.inf, np.float32)),
    ("vector", np.zeros(384, np.float32)),
    ("vector", np.full(383, 383**-0.5, np.float32)),
    ("vector", VECTOR.reshape(2, 192)),
]


@pytest.mark.parametrize(("name", "value"), FAULTS, ids=[f"{name}-{number}" for number, (name, _) in enumerate(FAULTS)])
def test_a_field_that_is_out_of_all_bounds_is_neither_written_nor_read(name: str, value: Any) -> None:
    """The field is named."""
    entry = replace(ENTRY, **{name: value})
    fault = fault_of(entry, NOW_MS)
    assert fault is not None
    assert fault[0] == name or (name, fault[0]) == ("created_ms", "expires_ms")
    assert row_of(entry) is None
    column = {"text": "question", "created_ms": "timestamp", "expires_ms": "expires", "vector": "embedding"}
    row = row_of(ENTRY)
    assert row is not None
    assert read({**row, column.get(name, name): value}) is None


def test_what_a_store_cannot_take_is_not_written() -> None:
    """Examples are half a surrogate pair, and an answer that is too long when compressed."""
    assert row_of(replace(ENTRY, text="half \ud800 a pair")) is None
    assert row_of(replace(ENTRY, answer=np.random.default_rng(1).bytes(MAX_STORED_BYTES))) is None


def test_a_malformed_answer_is_empty_and_a_small_one_cannot_grow_without_bound() -> None:
    """Whoever can write to the store can write 64 KiB that unpack to a gigabyte."""
    assert unpacked(packed(b"answer")) == b"answer"
    for text in ("", "x", "\u2028", packed(b"answer")[:-3], b85encode(b"no zlib").decode(), 'a"b'):
        assert unpacked(text) == b""
    bomb = b85encode(zlib.compress(bytes(17_000_000), 9)).decode()
    assert len(bomb) < MAX_STORED_BYTES
    assert unpacked(bomb) == b""


@pytest.mark.parametrize(
    "invalidation",
    [
        Invalidation("n", NOW_MS, EntryFilter(ids=("a", "b"))),
        Invalidation("n", NOW_MS, EntryFilter(decision="faq", scope="s", before_ms=NOW_MS + 1)),
        Invalidation("n", NOW_MS, rejected="a" * 32),
    ],
)
def test_an_invalidation_is_read_as_it_was_written(invalidation: Invalidation) -> None:
    """It names entries to drop, or a rejected pair."""
    assert invalidation_of(control(invalidation_document(invalidation)), NOW_MS) == invalidation


def test_an_invalidation_without_a_moment_means_what_was_there_when_it_was_written() -> None:
    """Later entries are not affected."""
    read_back = invalidation_of(control({"filter": {}}), NOW_MS)
    assert read_back is not None
    assert read_back.entry_filter == EntryFilter(before_ms=NOW_MS + 1)


GARBAGE: list[Any] = [
    "", "{", "null", "5", "[]", '"x"', "[" * 60_000, '{"a":' * 10_000, "NaN", "{}", "\x00",
    {"filter": None}, {"filter": 5}, {"filter": []}, {"filter": {"ids": 5}}, {"filter": {"ids": [5]}},
    {"filter": {"ids": "abc"}}, {"filter": {"before_ms": "x"}}, {"filter": {"before_ms": 1e400}},
    {"filter": {"before_ms": 2**70}}, {"filter": {"before_ms": True}}, {"filter": {"before_ms": -5}},
    {"filter": {"before_ms": NOW_MS + DAY_MS // 24}},
    {"filter": {"scope": ["x"]}}, {"filter": {"decision": {}}}, {"rejected": 5}, {"rejected": "x"}, {"rejected": ""},
    {"rejected": ["a", "b"]}, {"pair": ["a", "b"], "filter": None},
]  # fmt: skip


@pytest.mark.parametrize("document", GARBAGE, ids=range(len(GARBAGE)))
def test_an_invalidation_that_makes_no_sense_is_skipped(document: Any) -> None:
    """This holds for any content."""
    assert invalidation_of(control(document), NOW_MS) is None


@pytest.mark.parametrize("created", [None, "x", -1, 2**63 - 1, NOW_MS + DAY_MS // 24, float("nan"), float("inf"), [], {}])
def test_an_invalidation_of_an_impossible_time_is_skipped(created: Any) -> None:
    """One from the far future would forbid everything until then."""
    assert invalidation_of(control({"filter": {}}, created), NOW_MS) is None


def test_reading_never_raises_whatever_a_row_holds() -> None:
    """Every field is missing or of another type in turn, and a thousand rows have several such fields."""
    generator = random.Random(1)
    good = row_of(ENTRY)
    assert good is not None
    values: list[Any] = [
        None, "", "x" * 70_000, "\ud800", -1, 0, 2**63, 2**200, 1.5, float("nan"), float("inf"), True, [], {}, [1, "x"], b"\xff",
        np.array([]), [None] * 384, [float("nan")] * 384, [1e308] * 384, "[" * 5000, object(),
    ]  # fmt: skip
    control_row = control({"filter": {"ids": ["a"]}, "rejected": "a" * 32})
    for _ in range(10_000):
        row, invalidation = dict(good), dict(control_row)
        for target in (row, invalidation):
            for name in generator.sample(sorted(target), generator.randint(1, 3)):
                if generator.random() < 0.2:
                    del target[name]
                else:
                    target[name] = generator.choice(values)
        entry = read(row)
        assert entry is None or fault_of(entry, NOW_MS) is None
        invalidation_of(invalidation, NOW_MS)
