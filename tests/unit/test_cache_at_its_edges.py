"""What the cache must not lose, mix up or give away: entries that leave, near leaders, parts that are no text, replayed hits."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from router.cache.flights import Flights
from router.cache.index import VectorIndex
from router.cache.settings import POLICIES
from router.cache.wording import difference
from router.core.cache_key import Eligibility, Ineligible
from router.core.cache_policy import ScopePlan
from router.core.events import Continue, Lookup, Reply, RequestBody, ResponseHeaders, Route
from router.core.exchange import Exchange
from router.core.exchange_record import Usage
from router.core.lookup import CacheQuery, Miss, Share
from router.core.models import Reasoning, SystemPrompt
from router.core.types import Decision
from tests.unit.builders import FAMILIES, LARGE, chat_body, request_headers, snapshot
from tests.unit.test_cache_key import BASE, TEXT, ask, namespace, user
from tests.unit.test_exchange_cache import HIT, PLAN, POLICY, WHOLE, answer_with, found
from tests.unit.test_exchange_cache import ask as ask_exchange
from tests.unit.test_flights import EAST, NORTH, query
from tests.unit.test_memory import NOW_MS, entry, memory_of, unit


@pytest.mark.parametrize(("policy", "evicted"), [("fifo", "a"), ("lru", "b"), ("lfu", "b")])
def test_which_entry_makes_room_depends_on_use_where_the_operator_says_so(policy: str, evicted: str) -> None:
    """`a` is the oldest and the only one that was served; a use of what is not held changes nothing."""
    memory, gone = memory_of("a", "b", "c", max_entries=3, eviction_policy=policy)
    memory.use("id-x")
    memory.use("id-a")
    memory.admit(entry("d"), NOW_MS)
    assert gone == [f"id-{evicted}"]


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_forgotten_does_not_make_room_a_second_time(policy: str) -> None:
    """The next to leave is one that is held."""
    memory, gone = memory_of("a", "b", "c", max_entries=2, eviction_policy=policy)
    memory.forget("id-b")
    memory.admit(entry("d"), NOW_MS)
    memory.admit(entry("e"), NOW_MS)
    assert gone == ["id-a", "id-c"]
    assert [one.text for one in memory.entries] == ["d", "e"]


def test_a_question_is_held_again_after_its_entry_was_forgotten() -> None:
    """Under its key stands the new entry, though it is older; a forgotten one does not take the key of another with it."""
    memory, _ = memory_of("a", "b")
    memory.forget("id-a")
    memory.admit(entry("a", id="again", created_ms=400), NOW_MS)
    memory.forget("id-b")
    kept = memory.find_key("key-a")
    assert kept is not None
    assert kept.id == "again"
    assert memory.find_key("key-b") is None


def test_the_nearest_of_all_namespaces_come_first_and_no_namespace_gives_more_than_its_share() -> None:
    """An invalidation by text looks everywhere; one crowded namespace does not hide the others."""
    near = {"p": ("a", 0.9), "q": ("b", 0.95), "r": ("c", 0.5)}
    memory, _ = memory_of()
    for place, (name, similarity) in near.items():
        for number in range(3):
            share = similarity - number / 100
            vector = (share * unit(0) + (1 - share * share) ** 0.5 * unit(9)).astype(np.float32)
            memory.admit(entry(f"{name}{number}", namespace=place, vector=vector), NOW_MS)
    assert list(memory.nearest_anywhere(unit(0), 3, 1)) == ["id-b0", "id-a0", "id-c0"]
    found_two = memory.nearest_anywhere(unit(0), 3, 2)
    assert list(found_two) == ["id-b0", "id-b1", "id-a0"]
    assert list(found_two.values()) == pytest.approx([0.95, 0.94, 0.9], abs=0.01)


def test_a_namespace_that_outgrows_its_scan_loses_no_vector() -> None:
    """From 1025 vectors on a graph finds them, those from before included, the nearest first and by the same similarities."""
    random = np.random.default_rng(7)
    vectors = random.standard_normal((1026, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = VectorIndex(8)
    for number, vector in enumerate(vectors):
        index.add("p", number, vector)
    assert index.sizes == {"p": 1026}
    for number in (0, 1023, 1024, 1025):
        hits = index.search("p", vectors[number], 3)
        assert hits[0] == (number, pytest.approx(1.0, abs=0.02))
        assert [similarity for _, similarity in hits] == sorted((one for _, one in hits), reverse=True)
        assert all(similarity == pytest.approx(float(vectors[one] @ vectors[number]), abs=0.02) for one, similarity in hits)
    index.remove("p", 0)
    assert index.search("p", vectors[0], 1)[0][0] != 0


async def test_a_leader_that_is_complete_leaves_the_others_of_its_namespace() -> None:
    """They are found as before; after the last one the namespace is empty, and a new question may lead in it."""
    flights = Flights()
    first, second = flights.register_leader(query("a"), NORTH), flights.register_leader(query("b"), NORTH)
    assert first is not None
    assert second is not None
    flights.complete(first, None)
    assert flights.nearest("p", NORTH, 5, 0.5) == [second]
    flights.complete(second, None)
    assert flights.nearest("p", NORTH, 5, 0.5) == []
    third = flights.register_leader(query("c"), EAST)
    assert flights.nearest("p", EAST, 5, 0.5) == [third]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_audio", "input_audio": {"data": "UklGRg", "format": "wav"}},
        {"type": "file", "file": {"file_id": "f"}},
        {"type": "input_text", "text": "What is a monad?"},
        {"type": "refusal", "refusal": "No."},
        {"type": "refusal", "text": "No."},
    ],
    ids=json.dumps,
)
def test_a_part_that_is_no_text_is_no_question(part: dict[str, Any]) -> None:
    """Alone and beside a text, in the question and in an earlier turn: a sound or a file is not in the key."""
    for parts in ([part], [TEXT, part]):
        assert ask(user(parts)) == Ineligible("not_text")
        assert ask({"messages": [{"role": "user", "content": parts}, *BASE["messages"]]}) == Ineligible("not_text")


@pytest.mark.parametrize("role", ["user", "assistant"])
def test_one_earlier_turn_makes_a_conversation(role: str) -> None:
    """A greeting of the assistant's is one as well."""
    changes = {"messages": [{"role": role, "content": "Hello."}, BASE["messages"][-1]]}
    assert ask(changes, eligibility=Eligibility(allows_multi_turn=False)) == Ineligible("multi_turn")
    assert isinstance(ask(changes), CacheQuery)


@pytest.mark.parametrize("wants_usage", [True, False])
def test_a_hit_that_is_streamed_is_a_stream_like_any_other(wants_usage: bool) -> None:
    """New id, time of now, usage only where it was asked for; no proxy may keep it, and Envoy's log knows it."""
    exchange, _ = ask_exchange(body=chat_body("What is a monad?", stream=True, stream_options={"include_usage": wants_usage}))
    reply = found(exchange, HIT)
    assert isinstance(reply, Reply)
    chunks = [json.loads(line[6:]) for line in reply.body.decode().split("\n\n") if line and line != "data: [DONE]"]
    assert {(chunk["id"], chunk["created"], chunk["object"]) for chunk in chunks} == {("chatcmpl-n", 7, "chat.completion.chunk")}
    assert [chunk["usage"] for chunk in chunks if chunk.get("usage")] == ([WHOLE["usage"]] if wants_usage else [])
    assert all(("usage" in chunk) is wants_usage for chunk in chunks)
    assert (reply.headers["cache-control"], reply.details) == ("no-cache", "sr_cache_hit")


def test_a_hit_says_how_sure_the_verifier_was_and_what_it_is() -> None:
    """JSON in this case; a hit by its key was not verified, and says nothing of it."""
    reply = found(ask_exchange()[0], replace(HIT, verified=0.98765))
    assert isinstance(reply, Reply)
    assert (reply.headers["content-type"], reply.headers["x-vsr-cache-verified"]) == ("application/json", "0.9877")
    assert "cache-control" not in reply.headers
    other = found(ask_exchange()[0], HIT)
    assert isinstance(other, Reply)
    assert "x-vsr-cache-verified" not in other.headers


@pytest.mark.parametrize(
    ("asked", "stored", "expected"),
    [
        ("I saw metal in Rome. Rust was on it", "I saw metal in Rome. rust was on it", "none"),
        ("I saw Rust in Rome", "I saw rust in Rome", "unread"),
        ("Does it cost £ 5 there?", "Does it cost £5 there?", "none"),
        ("Does it cost $ 5 there?", "Does it cost $5 there?", "none"),
        ("Is 5 % enough in Rome?", "Is 5% enough in Rome?", "none"),
        ("is salt & pepper hot in Rome", "is salt and pepper hot in Rome", "none"),
    ],
)
def test_capitals_and_blanks_that_a_sentence_asks_for_make_no_difference(asked: str, stored: str, expected: str) -> None:
    """A capital where a sentence begins is no name, whichever sentence of the text it is; amid one it may be."""
    assert difference(asked, stored) == difference(stored, asked) == expected


@pytest.mark.parametrize(("one", "other"), [("Xaver", "aver"), ("annX", "ann"), ("Bearer a-", "Bearer a")])
def test_no_letter_of_a_name_is_taken_for_white_space(one: str, other: str) -> None:
    """Two users whose names differ at an end share nothing."""
    scope = ScopePlan("x-user", b"key")
    assert scope.of({"x-user": one}) != scope.of({"x-user": other})


@pytest.mark.parametrize("is_shadow", [False, True])
def test_the_record_of_a_hit_says_which_entry_it_was_and_how_sure_the_verifier_was(is_shadow: bool) -> None:
    """Also of one that is only compared: the operator judges the cache by these before it serves anything."""
    exchange, _ = ask_exchange(replace(PLAN, policies={"default": replace(POLICY, shadow=is_shadow)}))
    found(exchange, replace(HIT, verified=0.98))
    outcome = exchange.record(exchange.ending)
    assert outcome.cache == ("shadow" if is_shadow else "hit")
    assert (outcome.cache_entry, outcome.cache_verified, outcome.cache_similarity) == (HIT.entry_id, 0.98, 0.93)


def test_an_upgrade_of_the_router_keeps_stored_answers_in_reach() -> None:
    """The store outlives a release: what namespaces, keys and scopes are made of stays the same to the byte."""
    decision = Decision("math", LARGE, "matched", Reasoning(enabled=True, effort="high"), SystemPrompt("Think.", "insert"))
    expected: dict[Share, tuple[str, str]] = {
        "decision": ("ab7c50243ad2046358170e2698305b51", "ea24002ba68dd922cf97b8fbafb216b9"),
        "model": ("ef1a0c7551d26d007b89e041107fd567", "3ad58fb22f8b32ae8b578ff2d13b43bb"),
        "all": ("0f8eb0d5c4bb4dbb0ef21be0ce850cc2", "f6faf5e9f51182968ec9378a14a3f984"),
    }
    for share, digests in expected.items():
        asked = ask(user("What is a monad? é \U0001f600", name="André"), decision, family=FAMILIES["gpt-oss"], share=share)
        assert isinstance(asked, CacheQuery)
        assert (asked.namespace, asked.key) == digests
    in_parts = ask(user([{"type": "text", "text": "What is"}, {"type": "text", "text": "a monad?"}]), share="decision")
    assert isinstance(in_parts, CacheQuery)
    assert (in_parts.text, in_parts.namespace) == ("What is\na monad?", "539ecfe61a6efcc2358a4884154518e6")
    assert ScopePlan("authorization", b"key").of({"authorization": "Bearer a"}) == "2edecbb8e06b6cdb6f59a3420f5474b5"


def test_half_a_character_is_no_error() -> None:
    """JSON can hold one half of a surrogate pair: in the question it is hidden text, before it each is another namespace."""
    assert ask(user("What is \ud83d?")) == Ineligible("invisible_text")
    namespaces = {
        namespace({"messages": [{"role": "system", "content": half}, BASE["messages"][1]]}) for half in ("\ud83d", "\ud83e")
    }
    assert len(namespaces) == 2


def test_a_text_of_exactly_the_longest_length_is_a_question() -> None:
    """The limit belongs to what is allowed."""
    assert isinstance(ask(user("x" * 20), eligibility=Eligibility(max_text_chars=20)), CacheQuery)
    assert ask(user("x" * 21), eligibility=Eligibility(max_text_chars=20)) == Ineligible("too_long")


@pytest.mark.parametrize(("asked_s", "ttl_s"), [("60", 60.0), ("999999999", 100.0), ("", POLICY.ttl_s)])
def test_the_lifetime_that_a_client_asks_for_reaches_the_lookup_within_the_operators_bound(asked_s: str, ttl_s: float) -> None:
    """What is stored for this question lives that long."""
    _, action = ask_exchange(replace(PLAN, max_ttl_s=100.0), x_vsr_cache_ttl=asked_s)
    assert isinstance(action, Lookup)
    assert action.cache_policy.ttl_s == ttl_s


def test_an_answer_that_is_read_for_its_usage_alone_is_not_stored() -> None:
    """The client forbids to store it; that the operator counts tokens does not change that."""
    exchange = Exchange(replace(snapshot(records_usage=True), cache=PLAN))
    exchange.receive(request_headers(authorization="Bearer a", cache_control="no-store"))
    exchange.receive(RequestBody(chat_body("What is a monad?")))
    route = found(exchange, Miss("empty"))
    assert isinstance(route, Route)
    assert not route.is_last
    answer_with(exchange, json.dumps(WHOLE).encode())
    assert exchange.answer() is None
    outcome = exchange.record(exchange.ending)
    assert (outcome.usage, outcome.stored) == (Usage(1, 2), "")


@pytest.mark.parametrize(
    ("headers", "is_end", "why", "status"), [({":status": "200"}, True, "empty", 200), ({}, False, "not_ok", 0)]
)
def test_an_answer_without_a_body_or_a_status_is_not_stored(headers: dict[str, str], is_end: bool, why: str, status: int) -> None:
    """The record says why; a status that nobody sent is 0."""
    exchange, _ = ask_exchange()
    found(exchange, Miss("empty"))
    action = exchange.receive(ResponseHeaders(headers, is_end=is_end))
    assert isinstance(action, Continue)
    assert action.is_last
    assert exchange.answer() is None
    outcome = exchange.record(exchange.ending)
    assert (outcome.stored, outcome.http_status) == (why, status)
