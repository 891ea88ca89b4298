"""The supervisor with real child processes: small ones that live and die as a worker can."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from router.files import Files
from router.runtime.program import Program
from router.runtime.restart import Restarts
from router.runtime.supervisor import CONFIG_STATUS, Supervisor, Worker
from router.runtime.workers import AggregatedAdmin, ask_about
from tests.e2e.stack import ROOT, wait_for
from tests.waiting import until

WORKER = """
import asyncio, json, os, pathlib, signal, sys
from router.runtime.supervisor import READY, report, taken_over, watch_parent

def given(name): return sys.argv[sys.argv.index(name) + 1]

signal.signal(signal.SIGHUP, signal.SIG_IGN)
folder = pathlib.Path(sys.argv[1])
index, path, parent = given("--worker"), given("--admin").removeprefix("unix:"), int(given("--parent-fd"))
# How this one behaves: as the test said when its supervisor read it, or as the test says now of the machine around it.
how = json.loads(taken_over(int(given("--files-fd"))))["texts"].get("how", "")
around = (folder / "around").read_text() if (folder / "around").exists() else ""
lives = len(list(folder.glob(f"{index}.*")))
(folder / f"{index}.{os.getpid()}").touch()
if around == f"{index} cannot start" or how == "misconfigured":
    report(int(given("--report-fd")), f"problem config.yaml:7: server.address: taken for {index}")
    sys.exit(2)
if how == "crash" or (how == "crash once" and lives == 0) or how == f"{index} crashes":
    sys.exit(7)
from aiohttp import web

async def main():
    ended = asyncio.get_running_loop().create_future()
    async def ready(request):
        about = {"worker": int(index), "pid": os.getpid(), "ready": True}
        about["health_asked_s"] = None if "unasked" in how or around == f"{index} unasked" else 0.1
        return web.json_response({"workers": [about]}, status=503 if how == f"{index} not ready" else 200)
    async def health(request):
        if how == "hung":
            await asyncio.sleep(60)
        return web.Response(text="ok")
    async def metrics(request): return web.Response(text="# TYPE llm_x counter\\nllm_x_total 1.0\\n")
    async def version(request): return web.json_response({"worker": int(index)})
    async def cache(request):
        if how == "cache off":
            return web.json_response({"error": {"message": "off"}}, status=404)
        entries = [{"id": "shared"}, {"id": f"of {index}"}]
        return web.json_response({"count": int(index) + 1, "entries": entries, "next": None, "hits": {}})
    app = web.Application()
    app.add_routes([web.post("/cache/{operation}", cache), web.get("/healthz", health)])
    app.add_routes([web.get("/readyz", ready), web.get("/metrics", metrics), web.get("/version", version)])
    runner = web.AppRunner(app)
    await runner.setup()
    pathlib.Path(path).unlink(missing_ok=True)
    await web.UnixSite(runner, path).start()
    watch_parent(parent, lambda: ended.set_result(0))
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, lambda: how == "deaf" or ended.done() or ended.set_result(0))
    (folder / f"up.{index}.{os.getpid()}").write_text(how)
    report(int(given("--report-fd")), READY)
    await ended

asyncio.run(main())
"""
Start = Callable[..., Supervisor]


def is_alive(pid: int) -> bool:
    """A zombie that nobody has waited for does not count."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def lives(folder: Path, index: int) -> list[int]:
    """The process ids of a worker's lives that reached listening."""
    return [int(path.name.split(".")[2]) for path in sorted(folder.glob(f"up.{index}.*"), key=lambda path: path.stat().st_mtime)]


def program(folder: Path, how: str = "", count: int = 2, stop_s: float = 10) -> Program:
    """The program of such workers."""
    path = folder / "worker.py"
    path.write_text(WORKER)
    return Program((sys.executable, str(path), str(folder)), count, stop_s, ("", ""), Files({"how": how}))


@pytest.fixture
async def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    """Make supervisors of two such workers, with short pauses."""
    monkeypatch.setattr("router.runtime.supervisor._FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr("router.runtime.supervisor._MAX_PAUSE_S", 0.1)
    running: list[tuple[Supervisor, asyncio.Task[int]]] = []

    def start(how: str = "", stop_s: float = 10, count: int = 2) -> Supervisor:
        supervisor = Supervisor(program(tmp_path, how, count, stop_s))
        restarts = Restarts(supervisor, lambda running: supervisor.next(running), ask_about)  # type: ignore[attr-defined]
        task = asyncio.create_task(supervisor.run(restarts.run))
        supervisor.restarts = restarts  # type: ignore[attr-defined]
        supervisor.task = task  # type: ignore[attr-defined]
        running.append((supervisor, task))
        return supervisor

    yield start
    for supervisor, task in running:
        supervisor.stop(signal.SIGTERM)
        await task


def end_of(supervisor: Supervisor) -> Awaitable[int]:
    """The exit status, once it ends."""
    return asyncio.wait_for(asyncio.shield(supervisor.task), 30)  # type: ignore[attr-defined]


async def test_a_worker_that_dies_is_started_again_and_the_others_live_on(start: Start, tmp_path: Path) -> None:
    """SIGKILL ends the worker."""
    start()
    await until(lambda: len(lives(tmp_path, 0)) == len(lives(tmp_path, 1)) == 1)
    other = lives(tmp_path, 1)
    os.kill(lives(tmp_path, 0)[0], signal.SIGKILL)
    await until(lambda: len(lives(tmp_path, 0)) == 2)
    assert lives(tmp_path, 1) == other
    assert is_alive(other[0])


async def test_a_crash_at_start_is_tried_again(start: Start, tmp_path: Path) -> None:
    """A port may have been taken for a moment."""
    start("crash once")
    await until(lambda: len(lives(tmp_path, 0)) == len(lives(tmp_path, 1)) == 1)


async def test_crashes_at_start_end_it_after_five(start: Start, tmp_path: Path) -> None:
    """Whoever runs the supervisor should know, and may start it again."""
    assert await end_of(start("crash")) == 1
    most = max(len(list(tmp_path.glob(f"{index}.*"))) for index in (0, 1))
    assert most == 5


async def test_a_configuration_that_cannot_work_ends_it_at_once(start: Start, tmp_path: Path) -> None:
    """The exit status says so."""
    assert await end_of(start("misconfigured")) == CONFIG_STATUS
    assert len(list(tmp_path.glob("0.*"))) <= 1


async def test_a_worker_that_cannot_start_again_takes_no_other_down(start: Start, tmp_path: Path) -> None:
    """Its port may be taken, or its model damaged. The others serve on, and it is retried until it can start."""
    supervisor = start()
    await until(lambda: [worker.is_up for worker in supervisor.workers] == [True, True])
    other = lives(tmp_path, 1)
    (tmp_path / "around").write_text("0 cannot start")
    os.kill(lives(tmp_path, 0)[0], signal.SIGKILL)
    await until(lambda: supervisor.workers[0].failures >= 6)
    assert supervisor.workers[0].why() == "config.yaml:7: server.address: taken for 0"
    assert lives(tmp_path, 1) == other
    assert is_alive(other[0])
    (tmp_path / "around").unlink()
    await until(lambda: supervisor.workers[0].is_up)
    assert supervisor.workers[0].problems == []


@pytest.mark.parametrize("how", ["1 cannot start", "1 crashes"])
async def test_one_worker_that_comes_up_is_enough_to_go_on(start: Start, tmp_path: Path, how: str) -> None:
    """This holds from the first start on, whichever way the other worker fails."""
    (tmp_path / "around").write_text(how)
    supervisor = start(how)
    await until(lambda: bool(supervisor.workers) and supervisor.workers[0].is_up and supervisor.workers[1].failures >= 6)
    assert not supervisor.task.done()  # type: ignore[attr-defined]


async def test_told_to_stop_before_it_runs_it_starts_nobody(tmp_path: Path) -> None:
    """A signal in the first moments counts."""
    supervisor = Supervisor(program(tmp_path))
    supervisor.stop(signal.SIGTERM)
    assert await supervisor.run() == 0
    assert not list(tmp_path.glob("0.*"))


async def test_told_to_stop_it_leaves_no_process_behind(start: Start, tmp_path: Path) -> None:
    """It ends with status 0."""
    supervisor = start()
    await until(lambda: len(lives(tmp_path, 0)) == len(lives(tmp_path, 1)) == 1)
    supervisor.stop(signal.SIGTERM)
    assert await end_of(supervisor) == 0
    assert not any(is_alive(pid) for index in (0, 1) for pid in lives(tmp_path, index))


async def test_a_worker_that_does_not_leave_is_killed(start: Start, tmp_path: Path) -> None:
    """It is killed after its time limit."""
    supervisor = start("deaf", stop_s=0.2)
    await until(lambda: len(lives(tmp_path, 0)) == len(lives(tmp_path, 1)) == 1)
    supervisor.stop(signal.SIGTERM)
    assert await end_of(supervisor) == 0
    assert not any(is_alive(pid) for index in (0, 1) for pid in lives(tmp_path, index))


@pytest.fixture
async def front(start: Start, tmp_path: Path) -> AsyncIterator[Callable[[str], Awaitable[AggregatedAdmin]]]:
    """Start the common admin port of two workers of this kind, once both listen."""
    fronts: list[AggregatedAdmin] = []

    async def front(how: str) -> AggregatedAdmin:
        supervisor = start(how)
        await until(lambda: len(lives(tmp_path, 0)) == len(lives(tmp_path, 1)) == 1)
        made = AggregatedAdmin(supervisor.workers)
        await made.runner.setup()
        await aiohttp.web.TCPSite(made.runner, "127.0.0.1", 0).start()
        fronts.append(made)
        return made

    yield front
    for made in fronts:
        await made.runner.cleanup()


async def ask(front: AggregatedAdmin, path: str) -> tuple[int, str]:
    """Status and text of one request to the common port."""
    port = front.runner.addresses[0][1]
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as response:
        return response.status, await response.text()


async def test_the_common_port_speaks_for_all(front: Callable[[str], Awaitable[AggregatedAdmin]]) -> None:
    """It has every worker's metrics with a label, and readiness with process ids. A ready worker answers anything else."""
    port = await front("")
    status, page = await ask(port, "/metrics")
    assert status == 200
    assert {line for line in page.splitlines() if line.startswith("llm_x")} == {
        'llm_x_total{worker="0"} 1.0',
        'llm_x_total{worker="1"} 1.0',
    }
    status, text = await ask(port, "/readyz")
    assert status == 200
    assert text.count('"ready": true') == 3
    assert (await ask(port, "/version"))[0] == 200


async def test_one_ready_worker_is_enough_and_is_the_one_that_is_asked(
    front: Callable[[str], Awaitable[AggregatedAdmin]],
) -> None:
    """Envoy's health check leaves the other out as well."""
    port = await front("0 not ready")
    status, text = await ask(port, "/readyz")
    assert status == 200
    assert text.count('"ready": false') == 1
    assert await ask(port, "/version") == (200, '{"worker": 1}')


async def operate(front: AggregatedAdmin, operation: str) -> tuple[int, dict[str, Any]]:
    """Run a cache operation through the common port."""
    port = front.runner.addresses[0][1]
    async with aiohttp.ClientSession() as session, session.post(f"http://127.0.0.1:{port}/cache/{operation}") as response:
        return response.status, await response.json()


async def test_what_is_done_to_the_cache_is_done_in_every_worker(front: Callable[[str], Awaitable[AggregatedAdmin]]) -> None:
    """Each may have a cache of its own. A search covers all of them."""
    port = await front("")
    assert await operate(port, "invalidate") == (200, {"count": 2})
    assert await operate(port, "reject") == (200, {"count": 2})
    status, found = await operate(port, "search")
    assert status == 200
    assert {entry["id"] for entry in found["entries"]} == {"shared", "of 0", "of 1"}


async def test_readiness_says_why_a_worker_is_away(front: Callable[[str], Awaitable[AggregatedAdmin]], tmp_path: Path) -> None:
    """The message is that of the worker that could not start."""
    port = await front("")
    (tmp_path / "around").write_text("0 cannot start")
    os.kill(lives(tmp_path, 0)[0], signal.SIGKILL)
    async with asyncio.timeout(20):
        while "taken for 0" not in (answer := await ask(port, "/readyz"))[1]:
            await asyncio.sleep(0.02)
    assert answer[0] == 200
    assert '"problems": ["config.yaml:7: server.address: taken for 0"]' in answer[1]


async def test_liveness_is_lost_when_no_worker_answers(
    front: Callable[[str], Awaitable[AggregatedAdmin]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever watches the container may end it: the supervisor answers for workers, not for itself."""
    monkeypatch.setattr("router.runtime.workers._ASK_S", 0.3)
    monkeypatch.setattr("router.runtime.workers._ask.__defaults__", (b"", 0.3))
    assert (await ask(await front("hung"), "/healthz"))[0] == 503


@pytest.fixture
def workers(tmp_path: Path) -> list[Worker]:
    """Two workers, identified by their sockets."""
    program = Program((), 2, 1.0)
    return [Worker(index, str(tmp_path / f"{index}.sock"), program, is_up=True) for index in range(2)]


async def test_a_report_reaches_the_workers_that_do_not_know_the_entry(
    workers: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They get its whole reference, which needs no entry. If a store was unavailable, the answer does not say it knows."""
    asked: list[tuple[int, dict[str, Any]]] = []

    async def answer(worker: Worker, method: str, path: str, body: bytes = b"", wait_s: float = 1) -> tuple[int, bytes, str]:
        document = json.loads(body)
        asked.append((worker.index, document))
        knows = worker.index == 1 or "-" in document["id"]
        reference = "entry-pair" if knows else ""
        states = ("written", "waiting")
        return 200, json.dumps({"count": int(knows), "reference": reference, "store": states[worker.index]}).encode(), "json"

    monkeypatch.setattr("router.runtime.workers._ask", answer)
    front = AggregatedAdmin(workers)
    await front.runner.setup()
    await aiohttp.web.TCPSite(front.runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{front.runner.addresses[0][1]}/cache/reject"
    async with aiohttp.ClientSession() as session, session.post(url, json={"id": "entry"}) as response:
        assert await response.json() == {"count": 1, "reference": "entry-pair", "store": "waiting"}
    assert (0, {"id": "entry-pair"}) in asked
    await front.runner.cleanup()


async def test_with_no_worker_nothing_is_said_to_be_done(tmp_path: Path) -> None:
    """Whoever removes entries must not be told that there were none."""
    made = AggregatedAdmin([])
    await made.runner.setup()
    await aiohttp.web.TCPSite(made.runner, "127.0.0.1", 0).start()
    try:
        assert (await operate(made, "invalidate"))[0] == 503
        assert (await operate(made, "search"))[0] == 503
    finally:
        await made.runner.cleanup()


async def test_a_worker_that_refuses_is_heard(front: Callable[[str], Awaitable[AggregatedAdmin]]) -> None:
    """Its own message is passed on."""
    assert await operate(await front("cache off"), "invalidate") == (404, {"error": {"message": "off"}})


def test_workers_leave_when_their_supervisor_was_killed(tmp_path: Path) -> None:
    """SIGKILL cannot be passed on, and nobody may keep the ports."""
    code = f"""
        import asyncio, pathlib
        from router.runtime.supervisor import Supervisor
        from tests.contract.test_workers import program
        asyncio.run(Supervisor(program(pathlib.Path({str(tmp_path)!r}))).run())
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT)
    wait_for(lambda: len(lives(tmp_path, 0)) == len(lives(tmp_path, 1)) == 1, "both workers")
    pids = lives(tmp_path, 0) + lives(tmp_path, 1)
    process.kill()
    process.wait()
    wait_for(lambda: not any(map(is_alive, pids)), "the workers' end")
