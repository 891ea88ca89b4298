"""Single flight by itself: who leads, whose question is similar enough, and what happens to those who wait."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from router.cache.entries import Entry
from router.cache.flights import Flights
from router.core.lookup import CacheQuery

NORTH, EAST = np.eye(2, 384, dtype=np.float32)
NORTH_EAST = ((NORTH + EAST) / 2**0.5).astype(np.float32)
ENTRY = Entry("e", "k", "p", "alice", "faq", "small", "t", b"answer", 0, 1)


def query(text: str, namespace: str = "p") -> CacheQuery:
    """A query whose key is its text."""
    return CacheQuery(text, namespace, f"{namespace}/{text}", "alice", "faq", "small")


async def test_the_first_of_equal_questions_leads_until_it_is_complete() -> None:
    """The next question after its end becomes a new leader."""
    flights = Flights()
    leader = flights.register_leader(query("a"), NORTH)
    assert leader is not None
    assert flights.register_leader(query("a"), EAST) is None
    assert flights.leader_of("p/a") is leader
    assert len(flights) == 1
    flights.complete(leader, None)
    assert flights.leader_of("p/a") is None
    assert flights.register_leader(query("a"), NORTH) is not None


async def test_leaders_that_are_near_enough_come_in_the_order_of_their_similarity() -> None:
    """They share a namespace, and no more come than were asked for. A leader without a vector is similar to none."""
    flights = Flights()
    for text, vector in (("a", NORTH_EAST), ("b", NORTH), ("c", EAST), ("d", None)):
        flights.register_leader(query(text), vector)
    flights.register_leader(query("elsewhere", "q"), NORTH)

    def near(count: int, threshold: float) -> list[str]:
        return [leader.query.text for leader in flights.nearest("p", NORTH, count, threshold)]

    assert near(3, 0.5) == ["b", "a"]
    assert near(1, 0.5) == ["b"]
    assert near(3, 0.9) == ["b"]
    assert near(3, 0.0) == ["b", "a", "c"]
    assert flights.nearest("nowhere", NORTH, 3, 0.0) == []


@pytest.mark.parametrize("entry", [ENTRY, None], ids=["an answer", "no answer"])
async def test_all_who_wait_get_what_the_leader_brought(entry: Entry | None) -> None:
    """All of them get it at once."""
    flights = Flights()
    leader = flights.register_leader(query("a"), NORTH)
    assert leader is not None
    waiting = [asyncio.create_task(leader.await_answer(60)) for _ in range(3)]
    await asyncio.sleep(0)
    flights.complete(leader, entry)
    assert await asyncio.gather(*waiting) == [entry] * 3
    assert await leader.await_answer(60) is entry


async def test_who_waits_too_long_or_leaves_disturbs_nobody() -> None:
    """The others still get the leader's answer."""
    flights = Flights()
    leader = flights.register_leader(query("a"), NORTH)
    assert leader is not None
    with pytest.raises(TimeoutError):
        await leader.await_answer(0)
    gone, stays = (asyncio.create_task(leader.await_answer(60)) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    flights.complete(leader, ENTRY)
    assert await stays is ENTRY
    assert gone.cancelled()
