"""What a process holds: entries, answers and vectors leave together, and never exceed the limits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from router.cache.entries import Entry, EntryFilter
from router.cache.memory import Memory
from router.cache.settings import CacheLimits

NOW_MS = 1000.0


def unit(number: int) -> np.ndarray:
    """One of 384 unit vectors at right angles."""
    return np.eye(1, 384, number, dtype=np.float32)[0]


def entry(name: str, **others: Any) -> Entry:
    """An entry, with a name in every field that must differ."""
    made = Entry(f"id-{name}", f"key-{name}", "p", "alice", "faq", "small", name, b"answer", 500, 5000, unit(ord(name[0]) % 384))
    return replace(made, **others)


def memory_of(*names: str, is_only_copy: bool = True, **limits: Any) -> tuple[Memory, list[str]]:
    """A memory with these entries, and the ids that were evicted."""
    evicted: list[str] = []
    memory = Memory(CacheLimits(**limits), evicted.append, is_only_copy=is_only_copy)
    for name in names:
        memory.admit(entry(name), NOW_MS)
    return memory, evicted


def test_an_entry_is_found_by_id_by_key_and_by_similarity() -> None:
    """Its answer is held beside it."""
    memory, _ = memory_of("a", "b")
    slim = replace(entry("a"), answer=b"", vector=None)
    assert memory.find("id-a") == memory.find_key("key-a") == slim
    assert memory.nearest("p", unit(ord("a")), 1) == [(slim, pytest.approx(1.0, abs=0.01))]
    assert memory.answer("id-a") == b"answer"
    assert memory.nearest("other", unit(ord("a")), 1) == []


def test_what_is_forgotten_is_found_by_nothing() -> None:
    """Its number in the index is used again."""
    memory, evicted = memory_of("a", "b")
    assert memory.forget("id-a")
    assert not memory.forget("id-a")
    assert memory.find("id-a") is memory.find_key("key-a") is memory.answer("id-a") is None
    memory.admit(entry("c"), NOW_MS)
    assert [one.text for one, _ in memory.nearest("p", unit(ord("c")), 5)] == ["c", "b"]
    assert evicted == []
    memory.clear()
    assert (len(memory), memory.answers_bytes, memory.entries) == (0, 0, [])


@pytest.mark.parametrize(
    ("late", "is_held"),
    [
        (entry("a", expires_ms=1000), False),
        (entry("a", expires_ms=1001), True),
        (entry("a", id="gone"), False),
        (entry("a", decision="news", created_ms=600), False),
        (entry("a", decision="news", created_ms=700), True),
    ],
    ids=["expired", "not expired", "invalidated by id", "invalidated by decision", "created after it"],
)
def test_only_what_may_be_served_is_held(late: Entry, is_held: bool) -> None:
    """This holds however late an entry arrives."""
    memory, _ = memory_of()
    memory.tombstones.add("gone")
    memory.tombstones.add_filter(EntryFilter(decision="news"), 700)
    memory.admit(late, NOW_MS)
    assert (late.id in memory) is is_held


def test_of_two_entries_with_one_key_the_newer_stays() -> None:
    """The order of arrival does not matter. This is not an eviction."""
    memory, evicted = memory_of("a")
    memory.admit(entry("a", id="newer", created_ms=600), NOW_MS)
    memory.admit(entry("a", id="older", created_ms=400), NOW_MS)
    assert [one.id for one in memory.entries] == ["newer"]
    assert evicted == []


def test_evicted_ids_are_returned_and_do_not_come_back() -> None:
    """The store may show it for a moment longer."""
    memory, evicted = memory_of("a", "b", "c", max_entries=2)
    assert evicted == ["id-a"]
    memory.admit(entry("a"), NOW_MS)
    assert [one.text for one in memory.entries] == ["b", "c"]


@pytest.mark.parametrize("is_only_copy", [True, False])
def test_answers_that_do_not_fit_leave_with_their_entry_only_where_nobody_else_has_them(is_only_copy: bool) -> None:
    """With a store, the answers can be fetched again."""
    memory, evicted = memory_of("a", "b", is_only_copy=is_only_copy, max_memory_bytes=15)
    memory.use("id-a")
    memory.admit(entry("c"), NOW_MS)
    assert memory.answers_bytes == 12
    assert [memory.answer(f"id-{name}") for name in "abc"] == [b"answer", None, b"answer"]
    assert (len(memory), evicted) == ((2, ["id-b"]) if is_only_copy else (3, []))


def test_an_answer_that_is_fetched_twice_at_once_is_counted_once() -> None:
    """Two requests may fetch it from the store at once. When it leaves, the count must return to nothing."""
    memory, _ = memory_of("a", is_only_copy=False)
    memory.hold_answer("id-a", b"answer")
    assert memory.answers_bytes == 6
    memory.forget("id-a")
    assert memory.answers_bytes == 0


def test_entries_are_selected_by_filter_and_by_time() -> None:
    """Ids that are not held are left out."""
    memory, _ = memory_of("a", "b")
    assert memory.select(EntryFilter(ids=("id-b", "id-x", "id-b"))) == ["id-b"]
    assert memory.select(EntryFilter(ids=("id-b",), decision="news")) == []
    assert memory.select(EntryFilter(before_ms=501)) == ["id-a", "id-b"]
    assert memory.expired(4999) == []
    assert memory.expired(5000) == ["id-a", "id-b"]
    assert memory.newest_ms() == 500
