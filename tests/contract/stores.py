"""What every store has to do. A new store inherits `StoreContract`, says how it is made, and has these tests.

Stores that outlive the process keep what they hold between the tests of a class, so a test looks at entries of its own.
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
from router.errors import BackendError, ConfigError

ANSWER = b'{"choices": []}'


def now_ms() -> int:
    """Unix time."""
    return int(time.time() * 1000)


def direction(number: int) -> np.ndarray:
    """One of 384 vectors at right angles."""
    return np.eye(1, 384, number, dtype=np.float32)[0]


def entry(text: str = "t", **others: object) -> Entry:
    """A new one, in a namespace of its own."""
    key, namespace, created_ms = uuid.uuid4().hex, uuid.uuid4().hex, now_ms()
    made = Entry(uuid.uuid4().hex, key, namespace, "s", "d", "m", text, ANSWER, created_ms, created_ms + 600_000, direction(0))
    return replace(made, **others)  # type: ignore[arg-type]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for it: a server shows what was written a moment later."""
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.05)


async def ids_of(store: Store) -> set[str]:
    """Of all that a router would load now."""
    return {one.id async for page in store.load(now_ms()) for one in page}


async def published(store: Store, since_ms: int) -> dict[str, Invalidation]:
    """By id."""
    return {one.id: one for one in (await store.changes(since_ms)).invalidations}


class StoreContract:
    """Inherit it, and give the fixture `make`: it makes a store of the same place at each call, not yet open."""

    @pytest.fixture
    async def store(self, make: Callable[[str], Store]) -> AsyncIterator[Store]:
        """Open."""
        store = make("v1")
        await store.open()
        yield store
        await store.close()

    async def test_what_is_added_is_there_for_the_next_process(self, store: Store, make: Callable[[str], Store]) -> None:
        """With its answer and all that it was made of, whatever its text holds; the key that hides scopes is the same."""
        added = [entry(text) for text in ('"; drop', "a\\", "\n\t\u2028", "日本語 \U0001f600", "%_'")]
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
        """A write that is tried again makes no second one."""
        one = entry()
        await store.add([one])
        await store.add([replace(one, answer=b'{"choices": [1]}')])

        async def is_replaced() -> bool:
            return await store.answer(one.id) == b'{"choices": [1]}'

        await until(is_replaced)
        assert await store.answer("0" * 32) is None

    async def test_neighbours_are_of_one_namespace_and_the_nearest_comes_first(self, store: Store) -> None:
        """With similarities, and with what is served; what has no vector or has expired is none."""
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
        """Until it expires."""
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
    async def test_what_a_filter_means_is_removed_and_nothing_else(self, store: Store, names: tuple[str, ...]) -> None:
        """By every condition that narrows it, and by several together."""
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

    async def test_a_filter_that_could_leave_its_quotes_is_refused(self, store: Store) -> None:
        """An operator's words are text too."""
        with pytest.raises(BackendError, match=REFUSED):
            await store.remove(EntryFilter(decision='x" or id != "'))

    async def test_invalidations_reach_whoever_asks_for_changes(self, store: Store) -> None:
        """Each as it was published; since 0 all of them, at a start."""
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
        """From a moment on; since 0 there are none, for they are loaded."""
        old, new = entry(created_ms=now_ms() - 60_000), entry()
        await store.add([old, new])

        async def is_among_them() -> bool:
            return new.id in {one.id for one in (await store.changes(now_ms() - 30_000)).entries}

        await until(is_among_them)
        assert old.id not in {one.id for one in (await store.changes(now_ms() - 30_000)).entries}
        assert (await store.changes(0)).entries == []

    async def test_what_has_expired_is_swept_and_never_loaded(self, store: Store) -> None:
        """What has not stays."""
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
        """Its vectors mean something else."""
        await store.close()
        other = make("v2")
        with pytest.raises(ConfigError, match="v1"):
            await other.open()
        await other.close()
        await store.open()

    async def test_a_store_that_is_closed_says_so(self, store: Store) -> None:
        """A request that is under way when the connection is made anew is a miss, and no cancellation."""
        await store.close()
        with pytest.raises(BackendError, match="closed"):
            await store.answer("0" * 32)
        await store.open()


async def _holds(store: Store, ids: object) -> bool:
    return set(ids) <= await ids_of(store)  # type: ignore[call-overload]
