"""A rolling restart: every worker is replaced by one with the configuration that lies on the disk now, and nothing is lost.

Workers keep their places, each with its port. First a spare worker starts on the port behind them; when Envoy asks for its
health, the workers leave one by one, each drained, and the new one in its place is asked by Envoy before the next one leaves.
In the end the spare leaves. A configuration that cannot work changes nothing: it is read first, and the spare tries it.
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
_START_S = 60.0  # loading the models takes seconds, a cold Milvus ten
_MAX_TRIES = 3  # a port may be taken for a moment more
_UNASKED_S = 15.0  # Envoy asks every second in our envoy.yaml
_LAST_ASKED_S = 60.0  # whoever was asked that lately has an Envoy that asks
_POLL_S = 0.05
_MAX_REMEMBERED = 20

Ask = Callable[[Worker], Awaitable[Mapping[str, object]]]
"""What a worker says of itself: its part of `/readyz`, empty when it does not answer."""


@dataclass(slots=True)
class Restart:
    """One restart, from the request for it to its end."""

    number: int
    state: State = "waiting"
    steps: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Why it was refused or failed."""

    def document(self) -> dict[str, object]:
        """As JSON."""
        return {"restart": self.number, "state": self.state, "steps": self.steps, "problems": self.problems}

    def say(self, step: str) -> None:
        """Note a step."""
        log.info("restart %d: %s", self.number, step)
        self.steps.append(step)

    def end(self, state: State, problems: list[str]) -> None:
        """Note how it ended."""
        for problem in problems:
            log.error("restart %d: %s", self.number, problem)
        self.problems += problems
        self.state = state


class NotUpError(Exception):
    """A new worker does not come up, or Envoy does not ask it; caught here."""


class NotAskedError(NotUpError):
    """The latter."""


class Restarts:
    """Carries out restarts one by one. Those asked for while one is under way become one, after it."""

    def __init__(self, supervisor: Supervisor, read: Callable[[Program], Program], ask: Ask) -> None:
        """`read` reads the configuration from the disk, to follow the one that runs; it may raise `ConfigError`."""
        self._supervisor, self._read, self._ask = supervisor, read, ask
        self._asked = asyncio.Event()
        self._replacing: asyncio.Task[None] | None = None
        self._known: OrderedDict[int, Restart] = OrderedDict()
        self.counts: dict[str, int] = {"done": 0, "refused": 0, "failed": 0}
        """Of restarts, by how they ended."""

    def request(self) -> Restart:
        """Have the workers replaced; the restart in which it happens."""
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
        """One of the latest, by its number; the latest without one."""
        return next(reversed(self._known.values()), None) if number is None else self._known.get(number)

    async def run(self) -> None:
        """Carry them out, until cancelled."""
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
        """A spare worker that still serves is a worker like the others from now on."""
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
            restart.say(f"{error}; going back to the configuration before")
            await self._go_back(restart, places, old)
        if self._others_serve(spare):
            restart.say("the spare worker leaves")
            await self._supervisor.retire(spare)
        else:
            restart.say("the spare worker serves until another does")
            self._replacing = asyncio.create_task(self._retire_when_replaced(spare))
        if failure:
            are_back = all(worker.is_up for worker in self._supervisor.workers if worker is not spare)
            then = "the workers run the configuration before again" if are_back else "not every worker is back, /readyz tells why"
            raise NotUpError(f"{failure}; {then}")

    def _others_serve(self, spare: Worker) -> bool:
        return any(worker.is_up for worker in self._supervisor.workers if worker is not spare)

    async def _retire_when_replaced(self, spare: Worker) -> None:
        while not self._others_serve(spare):  # noqa: ASYNC110 - what others do is asked of them
            await asyncio.sleep(_POLL_S)
        await self._supervisor.retire(spare)

    async def _try(self, restart: Restart, places: int, new: Program) -> Worker:
        """A spare worker with the new configuration, which shows that it works and serves in the place of those that leave."""
        restart.say("a spare worker starts")
        spare = self._supervisor.start(places, new)
        try:
            await self._wait_up(spare)
        except NotAskedError as error:
            if places > 1:
                restart.say(f"{error}; the workers are replaced without it, so one less serves meanwhile")
                return spare
            await self._supervisor.retire(spare)
            raise NotUpError(f"{error}; with one worker nobody would serve meanwhile; nothing was changed") from None
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
        """Every place as it was. One that does not come up is tried again for ever, as after any other failure."""
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
        """Until a new worker serves and Envoy knows.

        Raises:
            NotUpError: it does not start.
            NotAskedError: Envoy asks the others for their health, and not this one.
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
                    f"Envoy does not ask worker {worker.index} for its health within {_UNASKED_S:.0f} s, as it asks others: "
                    "list its port (server.address + its number) among the endpoints of the cluster ext_proc in envoy.yaml"
                )
            await asyncio.sleep(_POLL_S)

    async def _has_envoy(self, new: Worker) -> bool:
        """Whether other workers are asked for their health."""
        others = [worker for worker in self._supervisor.workers if worker is not new and worker.is_up]
        ages = await asyncio.gather(*map(self._asked_s, others))
        return any(age is not None and age < _LAST_ASKED_S for age in ages)

    async def _asked_s(self, worker: Worker) -> float | None:
        """How long ago somebody asked for the worker's health; None when nobody ever did."""
        age = (await self._ask(worker)).get("health_asked_s")
        return age if isinstance(age, int | float) else None


def as_json(restart: Restart | None) -> str:
    """A restart as its asker gets it."""
    return json.dumps(restart.document() if restart else {"state": "none"})
