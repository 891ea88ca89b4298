"""What the keeper does with a store that takes some things and not others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from router.cache.base import Changes, Entry, Notice, Selection
from router.cache.keeper import Keeper
from router.cache.settings import Pace, Sizes
from router.cache.tiers import Cache
from router.cache.verifier import Verifier
from router.errors import BackendError


class Picky:
    """A store that is there, and refuses one entry."""

    is_shared = False

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.notices: list[Notice] = []

    async def open(self) -> bytes:
        """A key."""
        return b"k"

    async def load(self, now_ms: int) -> AsyncIterator[Sequence[Entry]]:
        """Nothing."""
        return
        yield []

    async def changes(self, since_ms: int) -> Changes:
        """None."""
        return Changes([], [])

    async def add(self, entries: Sequence[Entry]) -> None:
        """All but one."""
        if any(entry.text == "poison" for entry in entries):
            raise BackendError("unavailable")
        self.taken += [entry.text for entry in entries]

    async def remove(self, selection: Selection) -> None:
        """Whatever it is."""

    async def publish(self, notice: Notice) -> None:
        """Keep it."""
        self.notices.append(notice)

    async def sweep(self, now_ms: int) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""


def entry(text: str) -> Entry:
    """One to keep."""
    return Entry(text, text, "p", "s", "d", "m", text, b"{}", 0, 2**62)


async def no_encoder(text: str) -> Any:
    """Not asked here."""
    raise AssertionError(text)


async def test_an_entry_that_the_store_cannot_take_is_given_up_and_the_rest_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """After three attempts; an invalidation behind it is not lost."""
    monkeypatch.setattr("router.cache.keeper._FIRST_PAUSE_S", 0.01)
    store = Picky()
    keeper = Keeper(store, Pace(batch=1, follow_s=0.01))
    cache = Cache(Sizes(), no_encoder, Verifier(), keeper)
    await keeper.open(lambda key: None, 5)
    for text in ("before", "poison", "after"):
        keeper.add(entry(text))
    cache.invalidate(Selection(decision="x"))
    async with asyncio.timeout(10):
        while keeper.state.waiting or not store.notices:
            await asyncio.sleep(0.01)
    assert store.taken == ["before", "after"]
    assert keeper.state.dropped == 1
    await keeper.close()
