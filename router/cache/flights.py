"""Request coalescing: of equal questions under way, the first is the leader, and the followers wait for its answer.

Knows no store. The caller decides which questions are equal; this module finds leaders with similar questions.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from router.cache.entries import Entry
from router.cache.index import Vector
from router.core.lookup import CacheQuery


@dataclass(eq=False, slots=True)
class Leader:
    """A request that was sent to a model. Followers wait for its answer."""

    query: CacheQuery
    vector: Vector | None
    answer: asyncio.Future[Entry | None]
    """The entry with the answer; None when the answer must not be stored."""

    async def await_answer(self, wait_s: float) -> Entry | None:
        """The entry with the leader's answer; None when there is none.

        Raises:
            TimeoutError: the leader takes longer than `wait_s`.
        """
        async with asyncio.timeout(wait_s):
            return await asyncio.shield(self.answer)


class Flights:
    """The leaders of one process. Only the event loop touches it."""

    def __init__(self) -> None:
        self._by_key: dict[str, Leader] = {}
        self._by_namespace: dict[str, list[Leader]] = {}

    def register_leader(self, query: CacheQuery, vector: Vector | None) -> Leader | None:
        """Make a query the leader; None when its key has a leader already."""
        if query.key in self._by_key:
            return None
        leader = Leader(query, vector, asyncio.get_running_loop().create_future())
        self._by_key[query.key] = leader
        self._by_namespace.setdefault(query.namespace, []).append(leader)
        return leader

    def leader_of(self, key: str) -> Leader | None:
        """The leader of the queries with this key, if there is one."""
        return self._by_key.get(key)

    def nearest(self, namespace: str, vector: Vector, count: int, threshold: float) -> list[Leader]:
        """Up to `count` leaders of a namespace whose similarity reaches `threshold`, the nearest first."""
        leaders = self._by_namespace.get(namespace)
        if not leaders:
            return []
        near = [
            (float(vector @ leader.vector), number, leader) for number, leader in enumerate(leaders) if leader.vector is not None
        ]
        return [leader for similarity, _, leader in sorted(near, reverse=True)[:count] if similarity >= threshold]

    def complete(self, leader: Leader, entry: Entry | None) -> None:
        """Give the leader's answer to its followers. The next equal query becomes a new leader."""
        del self._by_key[leader.query.key]
        leaders = self._by_namespace[leader.query.namespace]
        leaders.remove(leader)
        if not leaders:
            del self._by_namespace[leader.query.namespace]
        leader.answer.set_result(entry)

    def __len__(self) -> int:
        return len(self._by_key)
