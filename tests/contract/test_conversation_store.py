"""Conversations in Milvus Lite, with the real encoder: what is stored is found by the next process, by turns and by meaning."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from router.cache.cache import Cache
from router.cache.settings import CacheLimits, MilvusSettings
from router.cache.stores.milvus import MilvusStore
from router.cache.stores.sync import StoreSync
from router.cache.verifier import Verifier
from router.core.cache_key import Eligibility, query_of
from router.core.lookup import CachePolicy, CacheQuery, ConversationThresholds, Found, Hit, Miss
from router.core.openai.request import parse
from router.core.text.conversation import MAX_CHARS
from router.core.types import Decision, Endpoint
from router.inference.encoder import Encoder
from tests.contract.test_cache import ANSWER, SYNC_SETTINGS, encoder, written  # noqa: F401 - a fixture
from tests.unit.builders import SMALL
from tests.waiting import until

POLICY = CachePolicy(0.75, 3600.0, (), verifier_threshold=0.9, conversations=ConversationThresholds(0.5, 0.9))
LONG = "The quick brown fox jumps over the lazy dog. " * 60
"""More than the encoder reads."""


def query(*texts: str) -> CacheQuery:
    """A conversation in which user and assistant take turns."""
    messages = [{"role": "assistant" if place % 2 else "user", "content": text} for place, text in enumerate(texts)]
    request, body = parse(Endpoint.CHAT, json.dumps({"model": "auto", "messages": messages}).encode(), {})
    made = query_of(request, body, Decision("default", SMALL, "no_match"), "s", Eligibility(), "v1", similar_conversations=True)
    assert isinstance(made, CacheQuery)
    return made


class Home:
    """Successive processes with one folder. Their verifier is sure of all."""

    def __init__(self, encoder: Encoder, file: Path) -> None:  # noqa: F811
        self._encoder, self._settings, self._open = encoder, MilvusSettings(file=file), list[Cache]()

    async def restart(self) -> Cache:
        """The cache of a new process."""

        async def score(asked: str, stored: str) -> float:
            return 1.0

        await self.close()
        verifier, store_sync = Verifier(score), StoreSync(MilvusStore(self._settings, "v1"), SYNC_SETTINGS)
        limits = CacheLimits(lookup_timeout_s=5.0)
        encode: Any = self._encoder.encode
        cache = Cache(limits, encode, verifier, store_sync, verify_conversations=verifier.conversations)
        await store_sync.open(lambda key: None, 60)
        self._open.append(cache)
        return cache

    async def close(self) -> None:
        """End the process."""
        for cache in self._open:
            assert cache.store_sync
            await cache.store_sync.close()
        self._open.clear()


@pytest.fixture
async def home(encoder: Encoder, tmp_path: Path) -> AsyncIterator[Home]:  # noqa: F811
    """A folder of its own."""
    made = Home(encoder, tmp_path / "cache.db")
    yield made
    await made.close()


async def look_up(cache: Cache, asked: CacheQuery, policy: CachePolicy = POLICY, *, stores: bool = False) -> Found:
    """What is found, and store an answer after a miss."""
    found, pending = await cache.look_up(asked, policy)
    cache.complete(pending, ANSWER if stores and isinstance(found, Miss) else None)
    assert isinstance(found, Hit | Miss)
    return found


@pytest.mark.parametrize(
    "stored",
    [
        ("How do I read a CSV file in R?", "Use read.csv.", "and in Python?"),
        (LONG, "I see.", "How many foxes jump?"),
        ("\u65e5" * (MAX_CHARS - 60), "Hm.", "What does it mean?"),
        ("\U0001f600" * (MAX_CHARS - 60), "Hm.", "What does it mean?"),
    ],
    ids=["short", "longer than the encoder reads", "three bytes a character", "four bytes a character"],
)
async def test_a_conversation_is_found_after_a_restart(home: Home, stored: tuple[str, ...]) -> None:
    """By its turns, and by its meaning when an earlier turn was worded otherwise."""
    cache = await home.restart()
    assert await look_up(cache, query(*stored), stores=True) == Miss("empty")
    await until(lambda: written(cache))
    cache = await home.restart()
    await until(lambda: len(cache) == 1)
    exact = await look_up(cache, query(*stored))
    assert isinstance(exact, Hit)
    assert (exact.tier, exact.answer) == ("exact", ANSWER)
    reworded = await look_up(cache, query(stored[0], f"Well. {stored[1]}", *stored[2:]))
    assert isinstance(reworded, Hit)
    assert (reworded.tier, reworded.verified) == ("semantic", 1.0)
    assert isinstance(await look_up(cache, query("Which colour has the sky?")), Miss)


async def test_a_conversation_that_was_stored_is_not_found_by_rules_that_do_not_compare(home: Home) -> None:
    """The text in the store is that of the whole conversation, and a message that looks like it is another question."""
    cache = await home.restart()
    asked = query("a", "b", "c")
    await look_up(cache, asked, stores=True)
    (entry,) = cache.entries
    assert entry.text == "user: a\nassistant: b\nuser: c"
    forged = query(entry.text)
    assert await look_up(cache, forged, replace(POLICY, similarity_threshold=0.5)) == Miss("unclear_turns")
