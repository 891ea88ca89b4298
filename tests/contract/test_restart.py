"""Rolling restarts with real child processes: what is replaced, in which order, and what stays if the new program fails."""

from __future__ import annotations

import asyncio
import fcntl
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from router.cli.adminport import AdminPort
from router.cli.restart import restart as ask_for_restart
from router.errors import BackendError, ConfigError, Problem
from router.files import Files
from router.runtime.program import Program, refuse_moves
from router.runtime.restart import Restart
from router.runtime.supervisor import Supervisor, Worker
from router.runtime.workers import AggregatedAdmin, restart_number
from tests.contract.test_workers import Start, end_of, is_alive, lives, program, start
from tests.waiting import until

__all__ = ["start"]


@pytest.fixture
async def started(start: Start, tmp_path: Path) -> Callable[..., Awaitable[Supervisor]]:
    """A supervisor whose workers are all up. Its next program is `new`, with this many workers."""

    async def started(how: str = "", count: int = 2, new_count: int | None = None, stop_s: float = 10) -> Supervisor:
        supervisor = start(how, count=count, stop_s=stop_s)
        supervisor.next = lambda running: program(tmp_path, "new", new_count or count)  # type: ignore[attr-defined]
        await until(lambda: len(supervisor.workers) == count and all(worker.is_up for worker in supervisor.workers))
        return supervisor

    return started


async def carried_out(supervisor: Supervisor) -> Restart:
    """The restart once it has ended."""
    restart: Restart = supervisor.restarts.request()  # type: ignore[attr-defined]
    await until(lambda: restart.state not in ("waiting", "running"))
    return restart


def running(supervisor: Supervisor) -> dict[int, str]:
    """The programs of the running workers, by place."""
    return {worker.index: worker.program.read.texts["how"] for worker in supervisor.workers if worker.is_up}


@pytest.mark.parametrize(("count", "new_count"), [(1, 1), (2, 2), (1, 3), (3, 1)])
async def test_every_worker_is_replaced_and_the_number_that_serves_never_falls(
    started: Callable[..., Awaitable[Supervisor]], monkeypatch: pytest.MonkeyPatch, count: int, new_count: int
) -> None:
    """Each new worker is up before the next one leaves. At the end they are in their places, as many as the file says."""
    supervisor = await started(count=count, new_count=new_count)
    serving: list[int] = []
    retire = supervisor.retire

    async def noted(worker: object, signum: signal.Signals = signal.SIGTERM) -> None:
        serving.append(sum(each.is_up for each in supervisor.workers if each is not worker))
        await retire(worker, signum)  # type: ignore[arg-type]

    monkeypatch.setattr(supervisor, "retire", noted)
    restart = await carried_out(supervisor)
    assert (restart.state, restart.problems) == ("done", [])
    assert running(supervisor) == dict.fromkeys(range(new_count), "new")
    assert min(serving) >= min(count, new_count)


async def test_a_configuration_that_cannot_be_read_changes_nothing(started: Callable[..., Awaitable[Supervisor]]) -> None:
    """Each problem is reported with file and line, and no process is started."""
    supervisor = await started()
    before = [worker.pid for worker in supervisor.workers]

    def bad(running: Program) -> Program:
        raise ConfigError([Problem("config.yaml", line, "rules", "is bad") for line in (3, 4)])

    supervisor.next = bad  # type: ignore[attr-defined]
    restart = await carried_out(supervisor)
    assert restart.state == "refused"
    assert restart.problems[:2] == ["config.yaml:3: rules: is bad", "config.yaml:4: rules: is bad"]
    assert [worker.pid for worker in supervisor.workers] == before
    assert running(supervisor) == {0: "", 1: ""}


async def test_a_configuration_with_which_no_worker_starts_changes_nothing(
    started: Callable[..., Awaitable[Supervisor]], tmp_path: Path
) -> None:
    """The spare worker tries it first."""
    supervisor = await started()
    before = [worker.pid for worker in supervisor.workers]
    supervisor.next = lambda running: program(tmp_path, "misconfigured")  # type: ignore[attr-defined]
    restart = await carried_out(supervisor)
    assert restart.state == "failed"
    assert "worker 2 does not start: config.yaml:7: server.address: taken for 2" in restart.problems[0]
    assert [worker.pid for worker in supervisor.workers] == before


async def test_a_failure_half_way_restores_the_old_workers(started: Callable[..., Awaitable[Supervisor]], tmp_path: Path) -> None:
    """Workers with two configurations never stay side by side."""
    supervisor = await started()
    supervisor.next = lambda running: program(tmp_path, "1 crashes")  # type: ignore[attr-defined]
    restart = await carried_out(supervisor)
    assert restart.state == "failed"
    assert "worker 1 does not start" in restart.problems[0]
    assert running(supervisor) == {0: "", 1: ""}
    assert supervisor.program.read.texts["how"] == ""


@pytest.mark.parametrize("is_asked_again", [True, False])
async def test_while_no_place_can_be_filled_the_spare_worker_serves(
    started: Callable[..., Awaitable[Supervisor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_asked_again: bool
) -> None:
    """Another program may take the port of the worker that left. The supervisor retries until the port is free."""
    supervisor = await started(count=1)
    retire = supervisor.retire

    async def taken(worker: Worker, signum: signal.Signals = signal.SIGTERM) -> None:
        await retire(worker, signum)
        (tmp_path / "around").write_text("0 cannot start")

    monkeypatch.setattr(supervisor, "retire", taken)
    restart = await carried_out(supervisor)
    assert restart.state == "failed"
    assert "not every worker is back" in restart.problems[0]
    assert running(supervisor) == {1: "new"}
    if is_asked_again:
        monkeypatch.undo()
        (tmp_path / "around").unlink()
        assert (await carried_out(supervisor)).state == "done"
        assert running(supervisor) == {0: "new"}
    else:
        monkeypatch.setattr(supervisor, "retire", retire)
        (tmp_path / "around").unlink()
        await until(lambda: running(supervisor) == {0: ""})


async def test_a_spare_that_envoy_does_not_know_serves_nobody(
    started: Callable[..., Awaitable[Supervisor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker alone is then not replaced, and the result says why."""
    monkeypatch.setattr("router.runtime.restart._UNASKED_S", 0.2)
    supervisor = await started(count=1)
    before = supervisor.workers[0].pid
    (tmp_path / "around").write_text("1 unasked")
    restart = await carried_out(supervisor)
    assert restart.state == "failed"
    assert "add its port" in restart.problems[0]
    assert supervisor.workers[0].pid == before


async def test_several_workers_are_replaced_without_a_spare_that_envoy_knows(
    started: Callable[..., Awaitable[Supervisor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others serve meanwhile."""
    monkeypatch.setattr("router.runtime.restart._UNASKED_S", 0.2)
    supervisor = await started()
    (tmp_path / "around").write_text("2 unasked")
    assert (await carried_out(supervisor)).state == "done"
    assert running(supervisor) == {0: "new", 1: "new"}


async def test_without_an_envoy_nothing_waits_for_one(started: Callable[..., Awaitable[Supervisor]], tmp_path: Path) -> None:
    """Nobody asks the running workers, so nobody will ask the new ones."""
    supervisor = await started("unasked", count=1)
    supervisor.next = lambda running: program(tmp_path, "new unasked", 1)  # type: ignore[attr-defined]
    assert (await carried_out(supervisor)).state == "done"


async def test_restarts_requested_during_a_restart_become_one_restart_after_it(
    started: Callable[..., Awaitable[Supervisor]], tmp_path: Path
) -> None:
    """It uses the configuration at that time, which is what was asked for last."""
    supervisor = await started(count=1)
    restarts = supervisor.restarts  # type: ignore[attr-defined]
    first = restarts.request()
    await until(lambda: first.state == "running" and len(first.steps) > 1)
    supervisor.next = lambda running: program(tmp_path, "newer", 1)  # type: ignore[attr-defined]
    second, third = restarts.request(), restarts.request()
    assert second is third
    await until(lambda: second.state == "done")
    assert first.state == "done"
    assert running(supervisor) == {0: "newer"}


async def test_told_to_stop_during_a_restart_it_leaves_no_process_behind(
    started: Callable[..., Awaitable[Supervisor]], tmp_path: Path
) -> None:
    """This covers old, new and spare workers."""
    supervisor = await started()
    restart = supervisor.restarts.request()  # type: ignore[attr-defined]
    await until(lambda: "worker 0 starts" in restart.steps)
    supervisor.stop(signal.SIGTERM)
    assert await end_of(supervisor) == 0
    assert not any(is_alive(int(path.name.split(".")[1])) for path in tmp_path.glob("[0-9].*"))


async def test_a_worker_that_hangs_in_its_drain_is_killed_and_the_restart_goes_on(
    started: Callable[..., Awaitable[Supervisor]], tmp_path: Path
) -> None:
    """It is killed after its time limit."""
    supervisor = await started("deaf", stop_s=0.2)
    (old,) = lives(tmp_path, 0)
    assert (await carried_out(supervisor)).state == "done"
    assert not is_alive(old)
    assert running(supervisor) == {0: "new", 1: "new"}


async def test_the_command_says_what_happened(
    started: Callable[..., Awaitable[Supervisor]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The status is 0 only if the new configuration serves. The command works over TCP and over a unix socket."""
    supervisor = await started(count=1)
    front = AggregatedAdmin(supervisor.workers, supervisor.restarts)  # type: ignore[attr-defined]
    await front.runner.setup()
    from router.admin.server import listen

    await listen(front.runner, f"unix:{tmp_path}/admin.sock")
    await listen(front.runner, "127.0.0.1:0")
    try:
        assert await asyncio.to_thread(ask_for_restart, AdminPort(f"unix:{tmp_path}/admin.sock")) == 0
        assert "all workers run the new configuration" in capsys.readouterr().out
        supervisor.next = lambda running: program(tmp_path, "misconfigured", 1)  # type: ignore[attr-defined]
        port = front.runner.addresses[1][1]
        assert await asyncio.to_thread(ask_for_restart, AdminPort(f"127.0.0.1:{port}")) == 1
        assert "taken for 1" in capsys.readouterr().err
    finally:
        await front.runner.cleanup()
    with pytest.raises(ConfigError, match="nothing answers"):
        await asyncio.to_thread(ask_for_restart, AdminPort(f"127.0.0.1:{port}"))


def test_an_address_cannot_be_changed_by_a_restart() -> None:
    """Envoy would not find the router there."""
    one = Program(("x",), 1, 1, ("127.0.0.1:50051", "127.0.0.1:8802"), Files())
    other = Program(("x",), 1, 1, ("127.0.0.1:50061", ""), Files())
    with pytest.raises(ConfigError) as raised:
        refuse_moves(Path("config.yaml"), one, other)
    assert [problem.path for problem in raised.value.problems] == ["server.address", "admin.address"]
    refuse_moves(Path("config.yaml"), one, one)


async def test_a_milvus_lite_that_the_worker_before_still_holds_is_taken_over_when_it_leaves(tmp_path: Path) -> None:
    """Its file belongs to one process. Until then the new worker caches in memory, and writes its entries afterwards."""
    from router.cache.cache import Cache
    from router.cache.settings import CacheLimits, MilvusSettings, SyncSettings
    from router.cache.stores.milvus import MilvusStore
    from router.cache.stores.sync import StoreSync
    from router.cache.verifier import Verifier

    async def no_vector(text: str) -> object:
        raise BackendError("not_asked")

    folder = tmp_path / "cache.db"
    folder.mkdir()
    store_sync = StoreSync(MilvusStore(MilvusSettings(file=folder), "v1"), SyncSettings())
    Cache(CacheLimits(), no_vector, Verifier(), store_sync)  # type: ignore[arg-type]
    keys: list[bytes] = []
    with (folder / "LOCK").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        await store_sync.open(keys.append, 60)
        assert not store_sync.state.is_up
        assert store_sync.refusal is None
    await until(lambda: store_sync.state.is_up)
    assert len(keys) == 1
    await store_sync.close()


@pytest.mark.parametrize(("text", "number"), [("3", 3), ("", None), ("x", None), ("-1", None), ("²", None), ("9" * 5000, None)])
def test_a_number_that_no_restart_has(text: str, number: int | None) -> None:
    """Such a request asks for the latest restart."""
    assert restart_number(text) == number
