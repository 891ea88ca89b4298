"""The operator's operations on a cache, and the port that offers them."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from router.admin.server import AdminRoutes, AdminServer
from router.cache.cache import Cache
from router.cache.operations import CacheOperations
from router.cache.settings import CacheLimits
from router.cache.verifier import Verifier
from router.core.cache_policy import ScopePlan
from router.errors import RequestError
from router.inference.bundle import SHIPPED, Bundle
from router.inference.encoder import Encoder
from router.inference.pool import InferencePool
from tests.contract.test_cache import CAPITAL, store

WHOLE = json.dumps(
    {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Paris."}, "finish_reason": "stop"}]}
).encode()


WRONG: list[tuple[str, Any]] = [
    ("id", "x"), ("id", 5), ("key", ""), ("namespace", "p"), ("scope", "s" * 1000), ("scope", None), ("decision", "d" * 257),
    ("model", 'x" or id != "'), ("text", ""), ("text", "x" * 100_000), ("text", 5), ("created_ms", -1), ("created_ms", 2**63),
    ("created_ms", 1.5), ("created_ms", True), ("expires_ms", "soon"), ("expires_ms", 2**70), ("answer", ""), ("answer", "%"),
    ("answer", None), ("answer", base64.b64encode(b"[" * 50_000).decode()), ("answer", base64.b64encode(b"{}").decode()),
]  # fmt: skip


@pytest.fixture(scope="module")
def encoder() -> Iterator[Encoder]:
    """The shipped encoder."""
    passes = InferencePool(1, 100)
    yield Encoder(Bundle.load(SHIPPED), passes)
    passes.close()


@pytest.fixture
async def control(encoder: Encoder) -> CacheOperations:
    """Operations on a cache in memory that holds two answers."""
    cache = Cache(CacheLimits(lookup_timeout_s=2), encoder.encode, Verifier(), None)
    await store(cache, answer=WHOLE)
    await store(cache, "How do I reset my password?", decision="faq", answer=WHOLE)
    return CacheOperations(cache, "v1")


async def do(control: CacheOperations, name: str, **document: Any) -> dict[str, Any]:
    """Run one operation."""
    return dict(await control.operations[name](document))


async def test_search_finds_by_words_and_by_meaning(control: CacheOperations) -> None:
    """The nearest comes first."""
    by_word = (await do(control, "search", text="password"))["entries"]
    assert by_word[0]["text"] == "How do I reset my password?"
    by_meaning = (await do(control, "search", text="I forgot my login credentials", limit=1))["entries"]
    assert by_meaning[0]["text"] == "How do I reset my password?"
    assert by_meaning[0]["similarity"] > 0.3
    assert [entry["decision"] for entry in (await do(control, "search", decision="faq"))["entries"]] == ["faq"]


async def test_an_entry_is_shown_with_its_answer(control: CacheOperations) -> None:
    """An unknown id shows nothing."""
    (entry,) = (await do(control, "search", decision="default"))["entries"]
    (shown,) = (await do(control, "get", id=entry["id"]))["entries"]
    assert shown["answer"]["choices"][0]["message"]["content"] == "Paris."
    assert (await do(control, "get", id="0"))["entries"] == []


async def test_an_invalidation_counts_entries_and_can_be_a_dry_run(control: CacheOperations) -> None:
    """The filter may name some entries, or all."""
    assert (await do(control, "invalidate", decision="faq", dry_run=True))["count"] == 1
    assert (await do(control, "invalidate", decision="faq"))["count"] == 1
    assert await do(control, "invalidate", decision="faq") == {"count": 0, "store": "none"}
    assert (await do(control, "invalidate", all=True))["count"] == 1
    assert (await do(control, "stats"))["entries"] == 0


async def test_export_and_import_carry_everything_over(control: CacheOperations, encoder: Encoder) -> None:
    """The entries go page by page to another cache."""
    other = Cache(CacheLimits(lookup_timeout_s=2), encoder.encode, Verifier(), None)
    target, after = CacheOperations(other, "v1"), ""
    for count in (1, 1):
        page = await do(control, "export", after=after, limit=1)
        assert len(page["entries"]) == count
        assert (await do(target, "import", versions=page["versions"], entries=page["entries"]))["count"] == 1
        after = page["next"]
    assert {entry.text for entry in other.entries} == {CAPITAL, "How do I reset my password?"}
    again = await do(target, "import", versions="v1", entries=page["entries"])
    assert again == {"count": 0, "expired": 0, "known": 1, "refused": []}


async def test_a_customer_is_purged_by_the_headers_own_value(control: CacheOperations) -> None:
    """Only the router can compute the digest that hides it."""
    plan = ScopePlan("authorization", b"k" * 32)
    control.scope_header, control.scope_of = plan.header, lambda value: plan.of({plan.header: value})
    scope = plan.of({"authorization": "Bearer secret"})
    assert scope is not None
    await store(control._cache, "whose?", scope=scope)
    assert (await do(control, "invalidate", scope_value="Bearer other"))["count"] == 0
    assert (await do(control, "invalidate", scope_value="Bearer secret", dry_run=True))["count"] == 1
    assert (await do(control, "invalidate", scope_value="Bearer secret"))["count"] == 1
    assert (await do(control, "stats"))["scope_header"] == "authorization"


async def test_a_wrong_entry_is_left_out_of_an_import_and_the_others_are_taken(control: CacheOperations) -> None:
    """Each wrong field is named. Ids may occur twice, for entries get new ones."""
    (good,) = (await do(control, "export", limit=1))["entries"]
    now_ms = good["created_ms"]
    wrong: list[tuple[Any, str]] = [
        (5, ""),
        ({}, ""),
        (good | {"more": 1}, ""),
        *[(good | {name: value}, name) for name, value in WRONG],
        (good | {"created_ms": now_ms + 10 * 86_400_000}, "created_ms"),
        (good | {"expires_ms": now_ms + 2**50}, "expires_ms"),
        (good | {"expires_ms": now_ms - 1}, "expires_ms"),
    ]
    others = [good | {"key": f"{number:032x}"} for number in range(len(wrong))]
    entries = [entry for pair in zip((entry for entry, _ in wrong), others, strict=True) for entry in pair]
    answer = await do(control, "import", versions="v1", entries=entries)
    assert answer["count"] == len(others)
    assert [(one["index"], one["field"]) for one in answer["refused"]] == [
        (2 * number, field) for number, (_, field) in enumerate(wrong)
    ]
    assert all(one["must"] for one in answer["refused"])


async def test_expired_entries_are_left_out_of_an_import_and_counted(control: CacheOperations) -> None:
    """An old export may hold such entries."""
    (good,) = (await do(control, "export", limit=1))["entries"]
    old = good | {"key": "f" * 32, "created_ms": 1, "expires_ms": 2}
    assert await do(control, "import", versions="v1", entries=[old]) == {"count": 0, "expired": 1, "known": 0, "refused": []}


async def test_a_question_with_half_a_surrogate_pair_is_found_and_exported(control: CacheOperations) -> None:
    """JSON can hold it and UTF-8 cannot. The port answers all the same."""
    await store(control._cache, "half \ud800 a pair", answer=WHOLE)
    server = AdminServer("127.0.0.1:0", AdminRoutes(*[None] * 4, "1", control.operations))  # type: ignore[arg-type]
    port = await server.start()
    try:
        for operation in ("search", "export"):
            async with (
                aiohttp.ClientSession() as session,
                session.post(f"http://127.0.0.1:{port}/cache/{operation}", json={}) as response,
            ):
                assert response.status == 200
                texts = {entry["text"] for entry in json.loads(await response.read())["entries"]}
                assert "half \ud800 a pair" in texts
    finally:
        await server.stop()


@pytest.mark.parametrize(
    ("name", "document", "said"),
    [
        ("invalidate", {}, "say which entries"),
        ("invalidate", {"all": "yes"}, "say which entries"),
        ("invalidate", {"ids": "x"}, "'ids' must be a list"),
        ("invalidate", {"desicion": "x"}, "unknown field 'desicion'"),
        ("invalidate", {"before_ms": -1}, "'before_ms' must be a whole number"),
        ("invalidate", {"decision": 'x" or id != "'}, "a name may have letters"),
        ("get", {}, "'id' must be a string"),
        ("search", {"limit": 0}, "'limit' must be a whole number from 1"),
        ("reject", {"id": 5}, "'id' must be a string"),
        ("export", {"limit": 10**6}, "'limit' must be"),
        ("import", {"versions": "v2", "entries": []}, "these entries come from v2"),
        ("import", {"versions": "v1", "entries": {}}, "'entries' must be a list"),
        ("import", {"versions": "v1", "entries": [0] * 1001}, "'entries' must be a list of at most 1000"),
        ("invalidate", {"ids": ["x"]}, "an id has 32 hex digits"),
        ("invalidate", {"ids": ["e" * 32, "x" * 70_000]}, "an id has 32 hex digits"),
        ("invalidate", {"scope": "alice"}, "must be 32 hex digits, as `cache get` shows it"),
        ("invalidate", {"scope": "a" * 32, "scope_value": "x"}, "'scope_value' must be alone"),
        ("invalidate", {"scope_value": "x"}, "all clients share answers"),
        ("invalidate", {"scope_value": 5}, "all clients share answers"),
        ("invalidate", {"all": True, "dry_run": "yes"}, "'dry_run' must be true or false"),
        ("invalidate", {"all": True, "dry_run": 1}, "'dry_run' must be true or false"),
        ("stats", {"x": 1}, "unknown field"),
    ],
)
async def test_a_malformed_operation_is_refused_with_the_field(
    control: CacheOperations, name: str, document: dict[str, Any], said: str
) -> None:
    """An empty invalidation must never mean everything."""
    with pytest.raises(RequestError) as caught:
        await control.operations[name](document)
    assert said in caught.value.message
    assert (await do(control, "stats"))["entries"] == 2


class TestPort:
    @pytest.fixture
    async def port(self, request: pytest.FixtureRequest, control: CacheOperations) -> AsyncIterator[int]:
        """An admin port with or without the cache's operations."""
        routes = AdminRoutes(*[None] * 4, "1", getattr(request, "param", None) or control.operations)  # type: ignore[arg-type]
        server = AdminServer("127.0.0.1:0", routes)
        yield await server.start()
        await server.stop()

    async def post(self, port: int, path: str, body: bytes = b"") -> tuple[int, dict[str, Any]]:
        """Send one request."""
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://127.0.0.1:{port}{path}", data=body, headers={"content-type": "application/json"}) as response,
        ):
            return response.status, await response.json()

    async def test_half_a_surrogate_pair_in_any_field_causes_no_fault(self, port: int, control: CacheOperations) -> None:
        """JSON can hold it where UTF-8 cannot. Nothing is found by it, or a 400 names the field."""
        scopes = ScopePlan("authorization", b"key")
        control.scope_header, control.scope_of = "authorization", lambda value: scopes.of({"authorization": value})
        status, document = await self.post(port, "/cache/invalidate", json.dumps({"scope_value": "Bearer \ud800"}).encode())
        assert (status, document["error"]["param"]) == (400, "scope_value")
        assert (await self.post(port, "/cache/invalidate", json.dumps({"scope_value": "Bearer \udcfc"}).encode()))[0] == 200
        exported = (await self.post(port, "/cache/export"))[1]["entries"][0]
        fields = {
            "get": ("id",),
            "search": ("text", "decision", "limit"),
            "invalidate": ("ids", "decision", "model", "scope", "scope_value", "before_ms", "all", "dry_run"),
            "reject": ("id",),
            "export": ("after", "limit"),
            "import": ("versions", "entries"),
            "stats": (),
        }
        assert fields.keys() == control.operations.keys()
        half = "\ud800"
        asked = [(name, {field: value}) for name in fields for field in (*fields[name], half) for value in (half, [half])]
        asked += [("import", {"versions": "v1", "entries": [{**exported, field: half}]}) for field in exported]
        for name, document in asked:
            status, answer = await self.post(port, f"/cache/{name}", json.dumps(document).encode())
            assert status < 500, (name, document, answer)

    async def test_operations_are_posted(self, port: int) -> None:
        """The request and the answer are documents."""
        status, document = await self.post(port, "/cache/search", b'{"text": "capital"}')
        assert (status, document["entries"][0]["text"]) == (200, CAPITAL)

    @pytest.mark.parametrize(
        ("path", "body", "status"), [("/cache/none", b"", 404), ("/cache/get", b"{", 400), ("/cache/get", b"[]", 400)]
    )
    async def test_what_cannot_be_done_is_an_error_in_json(self, port: int, path: str, body: bytes, status: int) -> None:
        """The error has a message."""
        answered, document = await self.post(port, path, body)
        assert answered == status
        assert document["error"]["message"]


async def test_a_port_without_a_cache_says_so() -> None:
    """The message says how to switch it on."""
    server = AdminServer("127.0.0.1:0", AdminRoutes(*[None] * 4, "1"))  # type: ignore[arg-type]
    port = await server.start()
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/cache/stats") as response:
        assert response.status == 404
        assert "semantic_cache.enabled" in (await response.json())["error"]["message"]
    await server.stop()
