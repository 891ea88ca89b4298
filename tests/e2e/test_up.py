"""`semantic-router up`, which `make run` calls: it starts everything together and ends everything together."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.stack import Stack, wait_for


class Up:
    """One `semantic-router up` on free ports."""

    def __init__(self, folder: Path) -> None:
        self.stack = Stack(folder)
        self.stack.router_port = self.stack.consecutive_ports(1)
        self.stack.write_files()
        self.log = folder / "up.log"
        arguments = ["--config", str(self.stack.config_path), "--envoy", str(self.stack.envoy_path)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "router", "up", *arguments], stdout=log, stderr=log)

    def wait_until_ready(self) -> None:
        """Wait until it says that it is ready."""
        wait_for(lambda: "ready. Try:" in self.log.read_text() or self.process.poll() is not None, "up", 60)
        assert self.process.poll() is None, self.log.read_text()

    @property
    def ports(self) -> list[int]:
        """Every port that it listens on."""
        stack = self.stack
        return [stack.envoy_port, stack.envoy_admin_port, stack.admin_port, stack.router_port, *stack.model_ports.values()]


Start = Callable[[], Up]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start one, and kill it if the test has not ended it."""
    started: list[Up] = []

    def start() -> Up:
        started.append(Up(tmp_path))
        return started[-1]

    yield start
    for up in started:
        if up.process.poll() is None:
            up.process.terminate()
            up.process.wait(10)


def is_taken(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout
    return list(map(int, found.split()))


def test_the_curl_that_it_prints_works_and_ctrl_c_stops_all_of_it(start: Start) -> None:
    """It ends cleanly, about as fast as a person at the keyboard expects."""
    up = start()
    up.wait_until_ready()
    command = re.search(r"curl .*?(?=\n\n)", up.log.read_text(), re.DOTALL)
    assert command is not None
    assert f":{up.stack.envoy_port}/" in command[0]
    answer = subprocess.run(["bash", "-c", f"{command[0]} -si"], capture_output=True, check=True, timeout=30).stdout
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"x-vsr-response-path: upstream" in head, "the first request after 'ready' has to be routed already"
    assert json.loads(body)["choices"][0]["message"]["content"]
    parts = children(up.process.pid)
    assert len(parts) == 3
    began = time.monotonic()
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(10) == 0
    assert time.monotonic() - began < 5  # the aim is 1 s; other tests run beside it
    assert not any(map(is_taken, up.ports))
    assert not any(Path(f"/proc/{pid}").exists() for pid in parts)
    assert "Traceback" not in up.log.read_text()


def test_a_part_that_ends_takes_the_others_with_it_and_is_named(start: Start) -> None:
    """Half a stack would only puzzle the user."""
    up = start()
    up.wait_until_ready()
    (envoy,) = (pid for pid in children(up.process.pid) if b"envoy" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0])
    os.kill(envoy, signal.SIGKILL)
    assert up.process.wait(10) == 1
    assert "envoy ended with status -9; stopping the rest" in up.log.read_text()
    assert not any(map(is_taken, up.ports))


def test_what_it_started_does_not_outlive_it(start: Start) -> None:
    """Even if it is killed, the next start finds free ports."""
    up = start()
    up.wait_until_ready()
    up.process.kill()
    up.process.wait(10)
    wait_for(lambda: not any(map(is_taken, up.ports)), "free ports")


def test_a_taken_port_is_named_before_anything_is_started(tmp_path: Path) -> None:
    """The message says where to change the port."""
    stack = Stack(tmp_path)
    stack.router_port = stack.consecutive_ports(1)
    stack.write_files()
    arguments = ["--config", str(stack.config_path), "--envoy", str(stack.envoy_path)]
    with socket.create_server(("127.0.0.1", stack.envoy_port)):
        command = [sys.executable, "-m", "router", "up", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert f"envoy.yaml listener: another program uses port {stack.envoy_port} on 127.0.0.1" in done.stderr
