"""What can happen to the store in Milvus: more rows than a page, rows that others wrote, a folder that others can read."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import stat
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymilvus.exceptions import MilvusException, ParamError

from router.cache.entries import Entry, EntryFilter, Invalidation
from router.cache.settings import MilvusSettings
from router.cache.stores.base import REFUSED
from router.cache.stores.milvus import MilvusStore
from router.cache.stores.sync import StoreSync
from router.core.lookup import Hit
from router.errors import BackendError, ConfigError
from router.inference.encoder import Encoder
from tests.contract.test_cache import (  # noqa: F401 - fixtures
    Site,
    ask,
    encoder,
    needs_server,
    server,
    settings_of,
    store,
    stored,
    until,
    written,
)

VECTOR = np.full(384, 384**-0.5, np.float32)
LATER_MS = 2**62


def entry(number: int, **others: Any) -> Entry:
    """One of many entries."""
    now_ms, name = int(time.time() * 1000), f"{number:032x}"
    return replace(Entry(name, name, "a" * 32, "s", "d", "m", f"q{number}", b"{}", now_ms, now_ms + 600_000, VECTOR), **others)


@pytest.fixture(params=["lite", pytest.param("server", marks=needs_server)])
async def milvus(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MilvusStore]:
    """An open store."""
    is_lite = request.param == "lite"
    settings = (
        MilvusSettings(file=tmp_path / "cache.db")
        if is_lite
        else settings_of(request.getfixturevalue("server"), consistency_level="Strong")
    )
    store_itself = MilvusStore(settings, "v1")
    await store_itself.open()
    yield store_itself
    await store_itself.close()


async def loaded(milvus: MilvusStore) -> set[str]:
    """The ids of all that it holds."""
    return {one.id async for page in milvus.load(0) for one in page}


async def assert_loaded(milvus: MilvusStore, expected: set[str]) -> None:
    """The store holds these entries and no others. A server shows what was written to another connection a moment later."""
    found: set[str] = set()
    deadline = time.monotonic() + 20
    while (found := await loaded(milvus)) != expected and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    assert found == expected


async def test_more_entries_than_a_page_are_all_read_after_a_restart(milvus: MilvusStore) -> None:
    """They were not written in id order. The invalidations fill more than a page too, with a rejection among them."""
    names = [uuid.uuid4().hex for _ in range(2500)]
    for at in range(0, 2500, 500):
        await milvus.add([entry(0, id=name) for name in names[at : at + 500]])
    now_ms = int(time.time() * 1000)
    rows = [milvus_row(uuid.uuid4().hex, "invalidation", now_ms, {"filter": {"scope": f"s{number}"}}) for number in range(1200)]
    await milvus._milvus.do("insert", milvus._control, data=rows)
    await milvus.publish(Invalidation("z" * 32, now_ms, rejected="f" * 32))
    await milvus.close()
    await milvus.open()
    await assert_loaded(milvus, set(names))
    invalidations = (await milvus.changes(0)).invalidations
    assert len(invalidations) == 1201
    assert [invalidation.rejected for invalidation in invalidations if invalidation.rejected] == ["f" * 32]


def milvus_row(row_id: str, kind: str, created: int, document: object) -> dict[str, Any]:
    """A row of the control collection."""
    text = document if isinstance(document, str) else json.dumps(document)
    return {"id": row_id, "kind": kind, "created": created, "document": text, "vector": [0.0, 1.0]}


IDS = ['x" or id != "', "a\\", "\n\r\t", "\u2028", "zz", "", "'", "\x01", "\U0001f600", "a" * 31 + '"']


async def test_rows_that_others_wrote_do_not_stop_a_router_from_following_what_is_new(stored: Site) -> None:  # noqa: F811
    """Another version of the router, or somebody with access, wrote them. The router starts, serves and sees invalidations all
    the same.
    """
    cache = await stored.open()
    store_sync = cache.store_sync
    assert store_sync is not None
    milvus = store_sync._store
    assert isinstance(milvus, MilvusStore)
    now_ms = int(time.time() * 1000)
    documents: list[Any] = ["", "[" * 60_000, "5", {"filter": {"ids": 5}}, {"filter": {"before_ms": 2**62}}, {"pair": [1]}]
    garbage = [milvus_row(f"{row_id}", "invalidation", now_ms, documents[number % 6]) for number, row_id in enumerate(IDS)]
    garbage += [milvus_row(f"f{number}", "invalidation", moment, {"filter": {}}) for number, moment in enumerate([2**62, -5])]
    await milvus._milvus.do("upsert", milvus._control, data=garbage)
    good = {**sound_row(milvus), "id": "0" * 32}
    bad = [good | {"id": row_id} for row_id in IDS]
    bad += [good | {"id": f"{number:032x}", **fields} for number, fields in enumerate(BAD_FIELDS, 1)]
    await milvus._milvus.do("upsert", milvus._name, data=[good, *bad])
    await store(cache, "ours")
    await until(lambda: written(cache))
    await stored.close(cache)
    again = await stored.open()
    await until(lambda: {one.text for one in again.entries} == {"ours", "good"})
    assert isinstance(await ask(again, "ours"), Hit)
    assert again.store_sync is not None
    await until(lambda: written(again))
    assert again.invalidate(EntryFilter()) == 2
    await until(lambda: written(again))
    assert again.store_sync.state.is_up
    assert again.store_sync._store.unreadable >= len(bad)  # type: ignore[attr-defined]


BAD_FIELDS: list[dict[str, Any]] = [
    {"key": 'x"'}, {"namespace": ""}, {"scope": "\U0001f600"}, {"decision": "\n"}, {"question": ""}, {"timestamp": -1},
    {"timestamp": LATER_MS}, {"expires": LATER_MS},
    {"embedding": np.zeros(384, np.float32)}, {"embedding": np.full(384, 1e30, np.float32)},
]  # fmt: skip


def sound_row(milvus: MilvusStore) -> dict[str, Any]:
    """A row as a router writes it."""
    row = milvus._row(entry(0, text="good"))
    assert row is not None
    return row


async def test_a_filter_that_could_leave_its_quotes_is_refused(milvus: MilvusStore) -> None:
    """An expression of Milvus has no other way to say it."""
    with pytest.raises(BackendError, match=REFUSED):
        await milvus.remove(EntryFilter(decision='x" or id != "'))


async def test_what_a_column_cannot_hold_is_refused_and_not_taken_for_a_store_that_is_away(milvus: MilvusStore) -> None:
    """`StoreSync` then skips it without connecting anew."""
    long = milvus_row("x" * 33, "invalidation", 0, {})
    with pytest.raises(BackendError, match=REFUSED):
        await milvus._milvus.do("upsert", milvus._control, data=[long])
    with pytest.raises(BackendError, match=REFUSED):
        await milvus._milvus.do("upsert", milvus._control, data=[milvus_row("x", "invalidation", 2**70, {})])
    await milvus.publish(Invalidation("n" * 32, int(time.time() * 1000), EntryFilter(scope="s")))
    assert [invalidation.id for invalidation in (await milvus.changes(0)).invalidations] == ["n" * 32]


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (MilvusException(2, "no connection, or the service is down"), "unavailable"),
        (MilvusException(101, "the collection is not loaded"), "unavailable"),
        (MilvusException(503, "a channel is not there"), "unavailable"),
        (MilvusException(1100, "the length of a varchar exceeds its maximum"), REFUSED),
        (ParamError(message="of pymilvus' own"), REFUSED),
    ],
)
async def test_a_write_is_refused_only_for_its_own_content(milvus: MilvusStore, error: Exception, word: str) -> None:
    """A refused write is skipped for good. A write that fails because the server leaves is retried."""

    async def fail(*_: object, **__: object) -> None:
        raise error

    milvus._milvus._client.upsert = fail  # type: ignore[union-attr, method-assign]
    with pytest.raises(BackendError, match=f"^{word}$"):
        await milvus.publish(Invalidation("n" * 32, 1, None))


async def test_an_invalidation_of_five_thousand_ids_reaches_the_store(stored: Site) -> None:  # noqa: F811
    """What is written behind it arrives too. After a restart all of it is still invalidated."""
    cache = await stored.open(max_entries=6000)
    store_sync: StoreSync | None = cache.store_sync
    assert store_sync is not None
    for number in range(5000):
        made = entry(number)
        cache.admit(made)
        store_sync.add(made)
    await until(lambda: written(cache), 60)
    assert cache.invalidate(EntryFilter(ids=tuple(f"{number:032x}" for number in range(5000)))) == 5000
    await store(cache, "behind it")
    await until(lambda: written(cache), 60)
    assert (store_sync.state.refused, store_sync.state.aside) == (0, 0)
    await stored.close(cache)
    again = await stored.open(max_entries=6000)
    await until(lambda: {one.text for one in again.entries} == {"behind it"})


async def test_dropping_the_collection_at_the_start_does_not_drop_it_whenever_the_connection_comes_back(
    milvus: MilvusStore,
) -> None:
    """With `drop_collection_on_startup`, what was written since the start stays."""
    await milvus.add([entry(1)])
    await assert_loaded(milvus, {entry(1).id})
    await milvus.close()
    dropping = MilvusStore(replace(milvus._settings, drops_at_start=True), "v1")
    await dropping.open()
    assert await loaded(dropping) == set()
    await dropping.add([entry(2)])
    await dropping.open()
    await assert_loaded(dropping, {entry(2).id})
    await dropping.close()
    await milvus.open()


async def test_a_request_under_way_when_the_connection_is_made_anew_is_a_miss_and_no_cancellation(milvus: MilvusStore) -> None:
    """gRPC cancels the call. The exchange that asked goes on."""
    asking = [asyncio.create_task(milvus.nearest("a" * 32, VECTOR, 5, 0)) for _ in range(20)]
    await asyncio.sleep(0)
    await milvus.close()
    ended = await asyncio.gather(*asking, return_exceptions=True)
    assert {type(one) for one in ended} <= {BackendError, list}, ended
    await milvus.open()


class TestLite:
    async def test_nobody_else_can_read_what_it_holds(self, tmp_path: Path) -> None:
        """The folder is the owner's alone, and there is no TCP port, for it holds the key of the scopes."""
        store_itself = MilvusStore(MilvusSettings(file=tmp_path / "new" / "cache.db"), "v1")
        await store_itself.open()
        assert stat.S_IMODE((tmp_path / "new" / "cache.db").stat().st_mode) == 0o700
        assert store_itself._milvus.uri.startswith("unix:")
        assert stat.S_IMODE(Path(store_itself._milvus.uri.removeprefix("unix:")).parent.stat().st_mode) == 0o700
        await store_itself.close()

    async def test_a_folder_that_others_could_read_is_closed_with_a_warning(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An earlier version may have made it."""
        folder = tmp_path / "cache.db"
        folder.mkdir(mode=0o755)
        folder.chmod(0o755)
        store_itself = MilvusStore(MilvusSettings(file=folder), "v1")
        await store_itself.open()
        await store_itself.close()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert "was open to other users" in caplog.text

    async def test_a_place_that_cannot_be_written_is_named_with_what_to_do(self, tmp_path: Path) -> None:
        """A configuration that is mounted read-only causes this."""
        (tmp_path / "file").write_text("")
        for folder in (tmp_path / "file" / "cache.db", Path("/proc/cache.db"), tmp_path / "file"):
            store_itself = MilvusStore(MilvusSettings(file=folder), "v1")
            with pytest.raises(
                ConfigError, match=r"cannot write .*: .*; set server\.state_path, or the variable STATE_DIRECTORY"
            ):
                await store_itself.open()

    async def test_a_disk_that_is_full_is_no_mistake_of_the_operators(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The router serves without its store, and tries again."""

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("router.cache.stores.lite.MilvusLite", full)
        with pytest.raises(BackendError, match=r"cannot be written: No space left"):
            await MilvusStore(MilvusSettings(file=tmp_path / "cache.db"), "v1").open()

    async def test_another_router_on_the_same_folder_is_reported(self, tmp_path: Path) -> None:
        """This happens while one router hands over to the next. The store retries, and nothing is refused."""
        one, other = (MilvusStore(MilvusSettings(file=tmp_path / "cache.db"), "v1") for _ in range(2))
        await one.open()
        with pytest.raises(BackendError, match="is in use by another router"):
            await other.open()
        await one.close()
        await other.open()
        await other.close()

    async def test_the_first_start_logs_no_warning(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """The router does not ask for what the store lacks, and pings no more often than the store allows."""
        with caplog.at_level(logging.WARNING):
            store_itself = MilvusStore(MilvusSettings(file=tmp_path / "cache.db"), "v1")
            await store_itself.open()
            await store_itself.close()
        assert [record.getMessage() for record in caplog.records] == []
        options = store_itself._milvus.options()["grpc_options"]
        assert options["grpc.keepalive_time_ms"] > 300_000  # gRPC's own minimum between pings without data


async def test_a_server_that_is_not_there_is_named_with_the_cause() -> None:
    """The message has host, port and the system's error, and does not wait for pymilvus."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        port = taken.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(BackendError, match=rf"^Milvus at 127\.0\.0\.1:{port} does not answer: Connection refused$"):
            await MilvusStore(MilvusSettings(host="127.0.0.1", port=port), "v1").open()
        assert time.monotonic() - began < 2
    with pytest.raises(BackendError, match=r"^Milvus at no\.such\.host\.invalid:19530 does not answer: \w+"):
        await MilvusStore(MilvusSettings(host="no.such.host.invalid"), "v1").open()


@needs_server
async def test_another_program_on_the_port_is_reported(encoder: Encoder, server: int) -> None:  # noqa: F811
    """The server listens, and is not Milvus."""
    asyncio_server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = asyncio_server.sockets[0].getsockname()[1]
    with pytest.raises(BackendError, match=rf"^Milvus at 127\.0\.0\.1:{port} does not work: "):
        await MilvusStore(MilvusSettings(host="127.0.0.1", port=port, timeout_s=3), "v1").open()
    asyncio_server.close()
