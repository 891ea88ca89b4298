"""The operators' operations on a cache, and the port that offers them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from router.admin.server import AdminRoutes, AdminServer
from router.cache.control import Control
from router.cache.settings import Sizes
from router.cache.tiers import Cache
from router.cache.verifier import Verifier
from router.errors import RequestError
from router.signals.bundle import SHIPPED, Bundle
from router.signals.onnx import Encoder
from router.signals.passes import Passes
from tests.contract.test_cache import CAPITAL, store

WHOLE = json.dumps(
    {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Paris."}, "finish_reason": "stop"}]}
).encode()


@pytest.fixture(scope="module")
def encoder() -> Iterator[Encoder]:
    """The shipped one."""
    passes = Passes(1, 100)
    yield Encoder(Bundle.load(SHIPPED), passes)
    passes.close()


@pytest.fixture
async def control(encoder: Encoder) -> Control:
    """Over a cache in memory that knows two answers."""
    cache = Cache(Sizes(lookup_s=2), encoder.encode, Verifier(), None)
    await store(cache, answer=WHOLE)
    await store(cache, "How do I reset my password?", decision="faq", answer=WHOLE)
    return Control(cache, "v1")


async def do(control: Control, name: str, **document: Any) -> dict[str, Any]:
    """One operation."""
    return dict(await control.operations[name](document))


async def test_search_finds_by_words_and_by_meaning(control: Control) -> None:
    """The nearest first."""
    by_word = (await do(control, "search", text="password"))["entries"]
    assert by_word[0]["text"] == "How do I reset my password?"
    by_meaning = (await do(control, "search", text="I forgot my login credentials", limit=1))["entries"]
    assert by_meaning[0]["text"] == "How do I reset my password?"
    assert by_meaning[0]["similarity"] > 0.3
    assert [entry["decision"] for entry in (await do(control, "search", decision="faq"))["entries"]] == ["faq"]


async def test_an_entry_is_shown_with_its_answer(control: Control) -> None:
    """And nothing by an id that is none."""
    (entry,) = (await do(control, "search", decision="default"))["entries"]
    (shown,) = (await do(control, "get", id=entry["id"]))["entries"]
    assert shown["answer"]["choices"][0]["message"]["content"] == "Paris."
    assert (await do(control, "get", id="0"))["entries"] == []


async def test_invalidation_counts_and_can_be_tried(control: Control) -> None:
    """By what is named, or all."""
    assert await do(control, "invalidate", decision="faq", dry_run=True) == {"count": 1}
    assert await do(control, "invalidate", decision="faq") == {"count": 1}
    assert await do(control, "invalidate", decision="faq") == {"count": 0}
    assert await do(control, "invalidate", all=True) == {"count": 1}
    assert (await do(control, "stats"))["entries"] == 0


async def test_export_and_import_carry_everything_over(control: Control, encoder: Encoder) -> None:
    """Page by page, to another cache."""
    other = Cache(Sizes(lookup_s=2), encoder.encode, Verifier(), None)
    target, after = Control(other, "v1"), ""
    for count in (1, 1):
        page = await do(control, "export", after=after, limit=1)
        assert len(page["entries"]) == count
        assert await do(target, "import", versions=page["versions"], entries=page["entries"]) == {"count": 1}
        after = page["next"]
    assert {entry.text for entry in other.entries} == {CAPITAL, "How do I reset my password?"}
    assert await do(target, "import", versions="v1", entries=page["entries"]) == {"count": 0}


@pytest.mark.parametrize(
    ("name", "document", "said"),
    [
        ("invalidate", {}, "say which entries"),
        ("invalidate", {"all": "yes"}, "say which entries"),
        ("invalidate", {"ids": "x"}, "'ids' must be a list"),
        ("invalidate", {"desicion": "x"}, "unknown field 'desicion'"),
        ("invalidate", {"before_ms": -1}, "'before_ms' must be a whole number"),
        ("invalidate", {"decision": 'x" or id != "'}, "names and ids are of letters"),
        ("get", {}, "'id' must be a string"),
        ("search", {"limit": 0}, "'limit' must be a whole number from 1"),
        ("report", {"id": 5}, "'id' must be a string"),
        ("export", {"limit": 10**6}, "'limit' must be"),
        ("import", {"versions": "v2", "entries": []}, "these entries are of v2"),
        ("import", {"versions": "v1", "entries": [{}]}, "'entries[0]' must be an object"),
        ("stats", {"x": 1}, "unknown field"),
    ],
)
async def test_a_mistake_is_named_and_nothing_is_done(control: Control, name: str, document: dict[str, Any], said: str) -> None:
    """An empty invalidation above all: it must not mean everything."""
    with pytest.raises(RequestError) as caught:
        await control.operations[name](document)
    assert said in caught.value.message
    assert (await do(control, "stats"))["entries"] == 2


class TestPort:
    @pytest.fixture
    async def port(self, request: pytest.FixtureRequest, control: Control) -> AsyncIterator[int]:
        """With the cache's operations, or without."""
        routes = AdminRoutes(*[None] * 4, "1", getattr(request, "param", None) or control.operations)  # type: ignore[arg-type]
        server = AdminServer("127.0.0.1:0", routes)
        yield await server.start()
        await server.stop()

    async def post(self, port: int, path: str, body: bytes = b"") -> tuple[int, dict[str, Any]]:
        """One request."""
        async with aiohttp.ClientSession() as session, session.post(f"http://127.0.0.1:{port}{path}", data=body) as response:
            return response.status, await response.json()

    async def test_operations_are_posted(self, port: int) -> None:
        """A document in, a document out."""
        status, document = await self.post(port, "/cache/search", b'{"text": "capital"}')
        assert (status, document["entries"][0]["text"]) == (200, CAPITAL)

    @pytest.mark.parametrize(
        ("path", "body", "status"), [("/cache/none", b"", 404), ("/cache/get", b"{", 400), ("/cache/get", b"[]", 400)]
    )
    async def test_what_cannot_be_done_is_an_error_in_json(self, port: int, path: str, body: bytes, status: int) -> None:
        """With a message."""
        answered, document = await self.post(port, path, body)
        assert answered == status
        assert document["error"]["message"]


async def test_a_port_without_a_cache_says_so() -> None:
    """And how to switch it on."""
    server = AdminServer("127.0.0.1:0", AdminRoutes(*[None] * 4, "1"))  # type: ignore[arg-type]
    port = await server.start()
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/cache/stats") as response:
        assert response.status == 404
        assert "semantic_cache.enabled" in (await response.json())["error"]["message"]
    await server.stop()
