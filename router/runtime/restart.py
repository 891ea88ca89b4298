"""A rolling restart: new workers with the configuration now on the disk replace the old ones, and no request is lost.

Each worker has an index and a port, which its successor takes over. First a spare worker starts on the next free port. When Envoy
has checked its health, the workers are replaced one by one: the old one drains, the new one starts, and Envoy checks its health
before the next one leaves. At the end the spare leaves. A configuration that cannot work changes nothing, because it is validated
first and the spare tries it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from router.errors import ConfigError
from router.runtime.program import Program
from router.runtime.supervisor import Supervisor, Worker

log = logging.getLogger(__name__)

State = Literal["waiting", "running", "done", "refused", "failed"]
_START_S = 60.0  # loading the models takes seconds, opening a cold Milvus ten
_MAX_TRIES = 3  # the port may still be in use for a moment
_UNASKED_S = 15.0  # with our envoy.yaml, Envoy checks every second
_LAST_ASKED_S = 60.0  # a worker that was checked this recently has an Envoy
_POLL_S = 0.05
_MAX_REMEMBERED = 20

Ask = Callable[[Worker], Awaitable[Mapping[str, object]]]
"""Returns a worker's part of `/readyz`, empty when it does not answer."""


@dataclass(slots=True)
class Restart:
    """One restart, from its request to its end."""

    number: int
    state: State = "waiting"
    steps: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Why it was refused or failed."""

    def document(self) -> dict[str, object]:
        """As a JSON document."""
        return {"restart": self.number, "state": self.state, "steps": self.steps, "problems": self.problems}

    def say(self, step: str) -> None:
        """Record and log a step."""
        log.info("restart %d: %s", self.number, step)
        self.steps.append(step)

    def end(self, state: State, problems: list[str]) -> None:
        """Record and log the end."""
        for problem in problems:
            log.error("restart %d: %s", self.number, problem)
        self.problems += problems
        self.state = state


class NotUpError(Exception):
    """A new worker does not start, or Envoy does not check its health. Caught in this module."""


class NotAskedError(NotUpError):
    """Envoy does not check the health of a new worker."""


class Restarts:
    """Performs restarts one by one. All requests during a restart are joined into one more restart."""

    def __init__(self, supervisor: Supervisor, read: Callable[[Program], Program], ask: Ask) -> None:
        """`read` reads the configuration from the disk, given the running program. It may raise `ConfigError`."""
        self._supervisor, self._read, self._ask = supervisor, read, ask
        self._asked = asyncio.Event()
        self._replacing: asyncio.Task[None] | None = None
        self._known: OrderedDict[int, Restart] = OrderedDict()
        self.counts: dict[str, int] = {"done": 0, "refused": 0, "failed": 0}
        """How many restarts ended in which state."""

    def request(self) -> Restart:
        """Request a restart, and return the restart that will serve the request."""
        last = next(reversed(self._known.values()), None)
        if last is not None and last.state == "waiting":
            return last
        made = Restart(last.number + 1 if last else 1)
        self._known[made.number] = made
        if len(self._known) > _MAX_REMEMBERED:
            self._known.popitem(last=False)
        self._asked.set()
        return made

    def find(self, number: int | None = None) -> Restart | None:
        """A recent restart by its number, or the latest one. None if it is not known."""
        return next(reversed(self._known.values()), None) if number is None else self._known.get(number)

    async def run(self) -> None:
        """Perform the requested restarts until cancelled."""
        try:
            while True:
                await self._asked.wait()
                self._asked.clear()
                await self._stop_replacing()
                for restart in [restart for restart in self._known.values() if restart.state == "waiting"]:
                    await self._carry_out(restart)
                    self.counts[restart.state] += 1
        finally:
            await self._stop_replacing()

    async def _stop_replacing(self) -> None:
        """Stop waiting to retire the spare worker. If it still serves, it is from now on a worker like the others."""
        if self._replacing:
            self._replacing.cancel()
            await asyncio.wait([self._replacing])
            self._replacing = None

    async def _carry_out(self, restart: Restart) -> None:
        restart.state = "running"
        old = self._supervisor.program
        restart.say("reading the configuration")
        try:
            new = await asyncio.to_thread(self._read, old)
        except ConfigError as error:
            restart.end("refused", [*map(str, error.problems), "nothing was changed"])
            return
        try:
            await self._roll(restart, old, new)
        except NotUpError as error:
            restart.end("failed", [str(error)])
        else:
            logging.getLogger("router").setLevel(new.log_level.upper())
            restart.say("all workers run the new configuration")
            restart.end("done", [])

    async def _roll(self, restart: Restart, old: Program, new: Program) -> None:
        places = max(old.count, new.count, *(worker.index + 1 for worker in self._supervisor.workers))
        spare = await self._try(restart, places, new)
        failure: NotUpError | None = None
        try:
            await self._replace_all(restart, places, new)
            self._supervisor.program = new
        except NotUpError as error:
            failure = error
            restart.say(f"{error}; going back to the previous configuration")
            await self._go_back(restart, places, old)
        if self._others_serve(spare):
            restart.say("the spare worker leaves")
            await self._supervisor.retire(spare)
        else:
            restart.say("the spare worker serves until another worker does")
            self._replacing = asyncio.create_task(self._retire_when_replaced(spare))
        if failure:
            are_back = all(worker.is_up for worker in self._supervisor.workers if worker is not spare)
            then = (
                "the workers run the previous configuration again" if are_back else "not every worker is back; /readyz says why"
            )
            raise NotUpError(f"{failure}; {then}")

    def _others_serve(self, spare: Worker) -> bool:
        return any(worker.is_up for worker in self._supervisor.workers if worker is not spare)

    async def _retire_when_replaced(self, spare: Worker) -> None:
        while not self._others_serve(spare):  # noqa: ASYNC110 - the state is polled
            await asyncio.sleep(_POLL_S)
        await self._supervisor.retire(spare)

    async def _try(self, restart: Restart, places: int, new: Program) -> Worker:
        """Start a spare worker with the new configuration. It proves that the configuration works, and serves meanwhile."""
        restart.say("a spare worker starts")
        spare = self._supervisor.start(places, new)
        try:
            await self._wait_up(spare)
        except NotAskedError as error:
            if places > 1:
                restart.say(f"{error}; the workers are replaced without it, so one worker less serves meanwhile")
                return spare
            await self._supervisor.retire(spare)
            raise NotUpError(f"{error}; with a single worker no other would serve meanwhile; nothing was changed") from None
        except NotUpError as error:
            await self._supervisor.retire(spare)
            raise NotUpError(f"{error}; nothing was changed") from None
        return spare

    async def _replace_all(self, restart: Restart, places: int, new: Program) -> None:
        for index in range(places):
            if worker := self._supervisor.find(index):
                restart.say(f"worker {index} leaves")
                await self._supervisor.retire(worker)
            if index < new.count:
                restart.say(f"worker {index} starts")
                await self._wait_up(self._supervisor.start(index, new))

    async def _go_back(self, restart: Restart, places: int, old: Program) -> None:
        """Put an old worker at every index. One that does not start is tried again and again, as after any failure."""
        for index in range(places):
            worker = self._supervisor.find(index)
            if worker and worker.program is old:
                continue
            if worker:
                await self._supervisor.retire(worker)
            if index < old.count:
                try:
                    await self._wait_up(self._supervisor.start(index, old))
                except NotUpError as error:
                    restart.say(str(error))

    async def _wait_up(self, worker: Worker) -> None:
        """Wait until a new worker serves and Envoy has checked its health.

        Raises:
            NotUpError: it does not start.
            NotAskedError: Envoy checks the health of others, but not of this one.
        """
        loop = asyncio.get_running_loop()
        began, up_since = loop.time(), 0.0
        while True:
            now = loop.time()
            if worker.failures >= _MAX_TRIES:
                raise NotUpError(f"worker {worker.index} does not start: {worker.why()}")
            if not worker.is_up:
                up_since = 0.0
                if now - began > _START_S:
                    raise NotUpError(f"worker {worker.index} was not ready within {_START_S:.0f} s")
            elif (await self._asked_s(worker)) is not None:
                return
            elif not up_since:
                up_since = now
            elif not await self._has_envoy(worker):
                return
            elif now - up_since > _UNASKED_S:
                raise NotAskedError(
                    f"Envoy did not check the health of worker {worker.index} within {_UNASKED_S:.0f} s, but it checks others: "
                    "add its port (server.address + its number) to the endpoints of the cluster ext_proc in envoy.yaml"
                )
            await asyncio.sleep(_POLL_S)

    async def _has_envoy(self, new: Worker) -> bool:
        """Whether Envoy checks the health of other workers."""
        others = [worker for worker in self._supervisor.workers if worker is not new and worker.is_up]
        ages = await asyncio.gather(*map(self._asked_s, others))
        return any(age is not None and age < _LAST_ASKED_S for age in ages)

    async def _asked_s(self, worker: Worker) -> float | None:
        """Seconds since the last health check of the worker; None when there was none."""
        age = (await self._ask(worker)).get("health_asked_s")
        return age if isinstance(age, int | float) else None


def as_json(restart: Restart | None) -> str:
    """A restart as a JSON document for the client."""
    return json.dumps(restart.document() if restart else {"state": "none"})
