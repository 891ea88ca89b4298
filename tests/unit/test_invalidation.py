"""What was invalidated stays away, and what was rejected is not paired: in bounded memory, and in constant time."""

from __future__ import annotations

import stat
import time
from dataclasses import replace
from pathlib import Path

import pytest

from router.cache import tombstones as tombstones_module
from router.cache.entries import Entry, EntryFilter, pieces_of
from router.cache.rejections import (
    Rejections,
    digest_of_pair,
    digest_of_question,
    parse_reference,
    reference_of,
)
from router.cache.tombstones import Tombstones

ENTRY = Entry("e" * 32, "k", "p", "alice", "faq", "small", "t", b"", 100, 2**62)


@pytest.mark.parametrize(
    ("entry_filter", "before_ms", "is_gone"),
    [
        (EntryFilter(), 101, True),
        (EntryFilter(), 100, False),
        (EntryFilter(decision="faq"), 101, True),
        (EntryFilter(decision="faq", model="small", scope="alice"), 101, True),
        (EntryFilter(decision="faq", scope="bob"), 101, False),
        (EntryFilter(model="large"), 101, False),
    ],
)
def test_what_was_invalidated_is_turned_away_when_it_arrives(entry_filter: EntryFilter, before_ms: int, is_gone: bool) -> None:
    """As far as the invalidation meant it."""
    tombstones = Tombstones()
    tombstones.add_filter(entry_filter, before_ms)
    assert tombstones.covers(ENTRY) is is_gone


def test_an_invalidation_is_news_once() -> None:
    """It is read again and again; an older one adds nothing to a newer."""
    tombstones = Tombstones()
    assert tombstones.add_filter(EntryFilter(scope="alice"), 101)
    assert not tombstones.add_filter(EntryFilter(scope="alice"), 101)
    assert not tombstones.add_filter(EntryFilter(scope="alice"), 50)
    assert tombstones.add_filter(EntryFilter(scope="alice"), 102)


def test_however_many_invalidations_there_were_none_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit in memory takes more than it meant, never less."""
    monkeypatch.setattr(tombstones_module, "_MAX_FILTERS", 10)
    tombstones = Tombstones()
    for number in range(100):
        tombstones.add_filter(EntryFilter(scope=f"customer {number}"), 101)
    assert all(tombstones.covers(replace(ENTRY, scope=f"customer {number}")) for number in range(100))
    assert not tombstones.covers(replace(ENTRY, created_ms=101))


def test_clients_cannot_make_invalidated_entries_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evictions, which every new question may cause, do not push them out."""
    monkeypatch.setattr(tombstones_module, "_MAX_EVICTED", 10)
    tombstones = Tombstones()
    tombstones.add(ENTRY.id)
    for number in range(100):
        tombstones.add_evicted(f"{number:032x}")
    assert tombstones.covers(ENTRY)
    assert tombstones.covers(replace(ENTRY, id=f"{99:032x}"))
    assert not tombstones.covers(replace(ENTRY, id=f"{0:032x}"))


def test_a_rejected_pair_is_forbidden_in_both_directions_and_nothing_else_is() -> None:
    """Nor is it possible to get round it by case, white space or a full stop."""
    rejections = Rejections()
    assert rejections.add(digest_of_pair("Who is the creditor?", "Who is the debtor?"))
    assert not rejections.add(digest_of_pair("Who is the debtor?", "Who is the creditor?"))
    assert rejections.forbids("Who is the creditor?", "Who is the debtor?")
    assert rejections.forbids("Who is the debtor?", "Who is the creditor?")
    assert rejections.forbids("who is  the creditor ", "Who is the debtor.")
    assert not rejections.forbids("Who is the creditor?", "Who's the creditor?")
    assert not rejections.forbids("Who is the debtor?", "Who is the owner?")


def test_a_rejected_question_is_paired_with_none() -> None:
    """When the other half of the pair is not known."""
    rejections = Rejections()
    rejections.add(digest_of_question("Who is the debtor?"))
    assert rejections.forbids("Who is the debtor?", "Who is the debitor?")
    assert rejections.forbids("Who is the debitor?", "Who is the debtor?")
    assert not rejections.forbids("Who is the creditor?", "Who is the owner?")
    assert not rejections.forbids("", "Who is the owner?")


def test_rejections_outlive_the_process_where_there_is_a_file(tmp_path: Path) -> None:
    """Only this user can read it; lines that make no sense are passed over; without text of a question."""
    file = tmp_path / "rejected_pairs"
    Rejections(file).add(digest_of_pair("one", "other"))
    file.write_bytes(file.read_bytes() + b"\xff\x00 garbage\n" + b"0" * 100_000)
    again = Rejections(file)
    assert again.forbids("other", "one")
    assert len(again) == 1
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert b"other" not in file.read_bytes()


def test_rejections_without_a_place_to_write_hold_as_long_as_the_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And the log says so."""
    rejections = Rejections(tmp_path / "missing" / "rejected_pairs")
    rejections.add(digest_of_pair("one", "other"))
    assert rejections.forbids("one", "other")
    assert "is forgotten when this process ends" in caplog.text


def test_a_reference_is_an_entry_and_a_pair() -> None:
    """What is neither names nothing."""
    assert reference_of("e" * 32, " same", "same ") == f"{'e' * 32}-{'0' * 32}"
    assert reference_of("e" * 32, "polish", "Polish") != f"{'e' * 32}-{'0' * 32}"
    reference = reference_of("e" * 32, "one", "other")
    assert parse_reference(reference) == ("e" * 32, digest_of_pair("one", "other"))
    assert parse_reference("e" * 32) == ("e" * 32, "")
    for wrong in ("", "e" * 31, "E" * 32, f"{'e' * 32}-", f"{reference}-", f"{reference}\n", "../" * 20):
        assert parse_reference(wrong) is None


def test_what_an_invalidation_names_is_cut_into_pieces_that_fit_a_column() -> None:
    """All of it, each id once, in order."""
    ids = tuple(f"{number:032x}" for number in range(100_000))
    pieces = list(pieces_of(EntryFilter(ids=ids, decision="faq")))
    assert tuple(entry_id for piece in pieces for entry_id in piece.ids or ()) == ids
    assert max(len(str(piece)) for piece in pieces) < 60_000
    assert {piece.decision for piece in pieces} == {"faq"}
    assert list(pieces_of(EntryFilter(scope="x"))) == [EntryFilter(scope="x")]
    assert list(pieces_of(EntryFilter(ids=()))) == [EntryFilter(ids=())]


def test_asking_takes_as_long_after_ten_thousand_invalidations_as_after_one() -> None:
    """An arriving entry is not held against each of them."""

    def time_of(count: int) -> float:
        tombstones = Tombstones()
        for number in range(count):
            tombstones.add_filter(EntryFilter(scope=f"customer {number}"), 101)
        best = 1e9
        for _ in range(20):
            began = time.perf_counter()
            for _ in range(100):
                tombstones.covers(ENTRY)
            best = min(best, time.perf_counter() - began)
        return best

    assert time_of(10_000) < 20 * time_of(1)
