"""What every store must do. A new store inherits `StoreContract`, says how it is made, and has these tests.

Stores that outlive the process keep their entries between the tests of a class, so a test looks only at its own entries.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from router.cache.entries import Entry, EntryFilter, Invalidation
from router.cache.stores.base import REFUSED, Store
from router.core.text.conversation import MAX_CHARS, Turn, as_text
from router.errors import BackendError, ConfigError

ANSWER = b'{"choices": []}'


def now_ms() -> int:
    """Unix time."""
    return int(time.time() * 1000)


def direction(number: int) -> np.ndarray:
    """One of 384 unit vectors at right angles."""
    return np.eye(1, 384, number, dtype=np.float32)[0]


def entry(text: str = "t", **others: object) -> Entry:
    """A new entry in a namespace of its own."""
    key, namespace, created_ms = uuid.uuid4().hex, uuid.uuid4().hex, now_ms()
    made = Entry(uuid.uuid4().hex, key, namespace, "s", "d", "m", text, ANSWER, created_ms, created_ms + 600_000, direction(0))
    return replace(made, **others)  # type: ignore[arg-type]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for the condition: a server shows what was written a moment later."""
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.05)


async def ids_of(store: Store) -> set[str]:
    """The ids of all entries that a router would load now."""
    return {one.id async for page in store.load(now_ms()) for one in page}


async def published(store: Store, since_ms: int) -> dict[str, Invalidation]:
    """The published invalidations by id."""
    return {one.id: one for one in (await store.changes(since_ms)).invalidations}


class StoreContract:
    """Inherit it and provide the fixture `make`. Each call makes an unopened store of the same place."""

    @pytest.fixture
    async def store(self, make: Callable[[str], Store]) -> AsyncIterator[Store]:
        """An open store."""
        store = make("v1")
        await store.open()
        yield store
        await store.close()

    async def test_an_added_entry_is_there_for_the_next_process(self, store: Store, make: Callable[[str], Store]) -> None:
        """The entry keeps its answer and all its fields, whatever its text holds. The key that hides scopes stays the same.

        The longest text is a conversation of four bytes a character; a single message is shorter.
        """
        longest = as_text([Turn("user", "\U0001f600" * (MAX_CHARS - 20)), Turn("user", "\U0001f600\U0001f600")])
        assert len(longest) <= MAX_CHARS
        added = [entry(text) for text in ('"; drop', "a\\", "\n\t\u2028", "日本語 \U0001f600", "%_'", longest)]
        without_vector = entry("long", vector=None)
        await store.add([*added, without_vector])
        key = await store.open()
        again = make("v1")
        await store.close()
        assert await again.open() == key
        assert len(key) == 32
        wanted = {one.id: one for one in [*added, without_vector]}
        await until(lambda: _holds(again, wanted.keys()))
        loaded = {one.id: one async for page in again.load(now_ms()) for one in page}
        for one in wanted.values():
            found = loaded[one.id]
            assert replace(found, answer=b"", vector=None) == replace(one, answer=b"", vector=None)
            assert (found.vector is None) == (one.vector is None)
            assert await again.answer(one.id) == ANSWER
        await again.close()
        await store.open()

    async def test_an_entry_whose_id_is_stored_is_replaced(self, store: Store) -> None:
        """A retried write makes no second entry."""
        one = entry()
        await store.add([one])
        await store.add([replace(one, answer=b'{"choices": [1]}')])

        async def is_replaced() -> bool:
            return await store.answer(one.id) == b'{"choices": [1]}'

        await until(is_replaced)
        assert await store.answer("0" * 32) is None

    async def test_neighbours_are_of_one_namespace_and_the_nearest_comes_first(self, store: Store) -> None:
        """They come with similarity and with what is served. Entries without a vector, and expired ones, are not neighbours."""
        near, far = entry("near"), entry("far", vector=((direction(0) + direction(1)) / 2**0.5).astype(np.float32))
        far = replace(far, namespace=near.namespace)
        others = [
            entry("elsewhere"),
            entry("no vector", namespace=near.namespace, vector=None),
            entry("expired", namespace=near.namespace, created_ms=now_ms() - 2000, expires_ms=now_ms() - 1000),
        ]
        await store.add([far, near, *others])
        found: Sequence[tuple[Entry, float]] = []

        async def are_both_there() -> bool:
            nonlocal found
            found = await store.nearest(near.namespace, direction(0), 5, now_ms())
            return len(found) == 2

        await until(are_both_there)
        assert [one.id for one, _ in found] == [near.id, far.id]
        assert [similarity for _, similarity in found] == pytest.approx([1.0, 2**-0.5], abs=0.01)

    async def test_the_same_text_is_found_by_its_key(self, store: Store) -> None:
        """It is found until it expires."""
        one = entry()
        await store.add([one])

        async def is_found() -> bool:
            found = await store.find(one.key, now_ms())
            return found is not None and found.id == one.id

        await until(is_found)
        assert await store.find(one.key, one.expires_ms) is None
        assert await store.find("0" * 32, now_ms()) is None

    @pytest.mark.parametrize(
        "names", [("ids",), ("decision",), ("model",), ("scope",), ("decision", "before_ms"), ("ids", "scope")], ids="+".join
    )
    async def test_only_entries_that_a_filter_matches_are_removed(self, store: Store, names: tuple[str, ...]) -> None:
        """This holds for each condition alone, and for several together."""
        word = uuid.uuid4().hex[:8]
        gone = entry(decision=f"d {word}", model=f"m {word}", scope=f"s{word}", created_ms=now_ms() - 5000)
        stays = entry(created_ms=now_ms() - 5000)
        values = {
            "ids": (gone.id, "0" * 32), "decision": gone.decision, "model": gone.model, "scope": gone.scope,
            "before_ms": gone.created_ms + 1,
        }  # fmt: skip
        newer = entry(decision=gone.decision)
        await store.add([gone, stays, newer] if "before_ms" in names else [gone, stays])
        await until(lambda: _holds(store, {gone.id, stays.id}))
        await store.remove(EntryFilter(**{name: values[name] for name in names}))

        async def is_gone() -> bool:
            return gone.id not in await ids_of(store)

        await until(is_gone)
        assert stays.id in await ids_of(store)
        assert "before_ms" not in names or await store.answer(newer.id) == ANSWER

    async def test_a_filter_cannot_leave_its_quotes(self, store: Store) -> None:
        """An operator's words are text, too: a store that cannot take them as such refuses them, and removes nothing."""
        stays = entry()
        await store.add([stays])
        try:
            await store.remove(EntryFilter(decision='x" or id != "'))
        except BackendError as error:
            assert str(error) == REFUSED  # noqa: PT017 - both are right
        assert await store.answer(stays.id) == ANSWER

    async def test_invalidations_reach_whoever_asks_for_changes(self, store: Store) -> None:
        """Each arrives as it was published. A start asks for changes since 0 and gets all of them."""
        began_ms = now_ms()
        told = [
            Invalidation(uuid.uuid4().hex, began_ms, EntryFilter(decision="d", model="m", scope="s", before_ms=began_ms)),
            Invalidation(uuid.uuid4().hex, began_ms, EntryFilter(ids=("1" * 32, "2" * 32))),
            Invalidation(uuid.uuid4().hex, began_ms, rejected="f" * 32),
        ]
        for one in told:
            await store.publish(one)
        for since_ms in (began_ms, 0):
            found = await published(store, since_ms)
            assert [found.get(one.id) for one in told] == told
        assert not {one.id for one in told} & (await published(store, began_ms + 1)).keys()

    async def test_entries_of_others_are_among_the_changes(self, store: Store) -> None:
        """They come from the given moment on. Changes since 0 hold no entries, for these are loaded."""
        old, new = entry(created_ms=now_ms() - 60_000), entry()
        await store.add([old, new])

        async def is_among_them() -> bool:
            return new.id in {one.id for one in (await store.changes(now_ms() - 30_000)).entries}

        await until(is_among_them)
        assert old.id not in {one.id for one in (await store.changes(now_ms() - 30_000)).entries}
        assert (await store.changes(0)).entries == []

    async def test_what_has_expired_is_swept_and_never_loaded(self, store: Store) -> None:
        """Entries that have not expired stay."""
        gone, stays = entry(created_ms=now_ms() - 2000, expires_ms=now_ms() - 1000), entry()
        await store.add([gone, stays])
        await until(lambda: _holds(store, {stays.id}))
        assert gone.id not in await ids_of(store)
        await store.sweep(now_ms())

        async def is_swept() -> bool:
            return await store.answer(gone.id) is None

        await until(is_swept)
        assert await store.answer(stays.id) == ANSWER

    async def test_what_another_encoder_wrote_is_refused(self, store: Store, make: Callable[[str], Store]) -> None:
        """Its vectors have another meaning."""
        await store.close()
        other = make("v2")
        with pytest.raises(ConfigError, match="v1"):
            await other.open()
        await other.close()
        await store.open()

    async def test_a_store_that_is_closed_says_so(self, store: Store) -> None:
        """A request under way during a reconnect becomes a miss, and is not cancelled."""
        await store.close()
        with pytest.raises(BackendError, match="closed"):
            await store.answer("0" * 32)
        await store.open()


async def _holds(store: Store, ids: object) -> bool:
    return set(ids) <= await ids_of(store)  # type: ignore[call-overload]
