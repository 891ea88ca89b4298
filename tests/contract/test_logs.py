"""Log lines through a real pipe: their content, and what happens when nobody reads them."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from router.core.exchange_record import ExchangeRecord, Usage
from router.telemetry import Telemetry
from router.telemetry.logs import Logs
from router.telemetry.metrics import Metrics

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
ROUTED = ExchangeRecord(
    "completed",
    endpoint="chat",
    request_id="r-1",
    requested_model="auto",
    model="large",
    cluster="gpu",
    decision="proofs",
    reason="matched",
    category="math",
    confidence=0.93,
    reasoning="on",
    effort="high",
    http_status=200,
    usage=Usage(11, 7),
    routing_s=0.004,
    signals_s=0.003,
    first_token_s=0.2,
    duration_s=1.5,
)
REFUSED = ExchangeRecord("replied", "chat", response_path="error", error_code="model_not_found", http_status=404)


class Pipe:
    """A pipe that receives the logs."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()

    def lines(self) -> list[dict[str, Any]]:
        """The lines that came out once the logs are closed."""
        os.set_blocking(self.reading, False)
        data = b""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self.reading, 65536):
                data += chunk
        return [json.loads(line) for line in data.splitlines()]

    def fill(self) -> None:
        """Fill it until not one byte more fits."""
        os.set_blocking(self.writing, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(self.writing, b"x" * 4096)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(self.writing, b"x")
        os.set_blocking(self.writing, True)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """A pipe that is closed at the end, whoever still waits on it."""
    pipe = Pipe()
    yield pipe
    for fd in (pipe.reading, pipe.writing):
        with contextlib.suppress(OSError):
            os.close(fd)


def test_an_exchange_is_one_line(pipe: Pipe) -> None:
    """The line has the decision, times and ids. Empty fields are left out."""
    logs = Logs("info", access_log=True, fd=pipe.writing)
    logs.begin({"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}).end(ROUTED)
    logs.begin({}).end(REFUSED)
    logs.close()
    routed, refused = pipe.lines()
    assert routed.pop("time").endswith("+00:00")
    assert routed == {
        "level": "info",
        "logger": "router.access_log",
        "trace_id": TRACE,
        "ending": "completed",
        "endpoint": "chat",
        "response_path": "upstream",
        "request_id": "r-1",
        "requested_model": "auto",
        "model": "large",
        "cluster": "gpu",
        "decision": "proofs",
        "reason": "matched",
        "category": "math",
        "confidence": 0.93,
        "reasoning": "on",
        "effort": "high",
        "is_stream": False,
        "http_status": 200,
        "usage": {"prompt": 11, "completion": 7},
        "routing_s": 0.004,
        "signals_s": 0.003,
        "first_token_s": 0.2,
        "duration_s": 1.5,
    }
    assert not {"model", "trace_id", "usage", "missing", "first_token_s"} & set(refused)


def test_the_access_log_can_be_switched_off(pipe: Pipe) -> None:
    """The process's own lines stay."""
    logs = Logs("info", access_log=False, fd=pipe.writing)
    logs.begin({}).end(ROUTED)
    logging.getLogger("router.test").info("here")
    logs.close()
    assert [line["message"] for line in pipe.lines()] == ["here"]


@pytest.mark.parametrize("sent", ["", "nonsense", f"00-{TRACE}", f"00-{TRACE.upper()}-00f067aa0ba902b7-01"])
def test_a_traceparent_that_is_none_is_not_logged(pipe: Pipe, sent: str) -> None:
    """Clients can send any text there."""
    logs = Logs("info", access_log=True, fd=pipe.writing)
    logs.begin({"traceparent": sent}).end(ROUTED)
    logs.close()
    assert "trace_id" not in pipe.lines()[0]


def test_a_request_id_cannot_break_the_line_nor_fill_the_log(pipe: Pipe) -> None:
    """A client may choose it: line breaks, half a surrogate pair, 60 kB."""
    logs = Logs("info", access_log=True, fd=pipe.writing)
    logs.begin({}).end(ExchangeRecord("routed", request_id='a\n{"b":\u2028\ud800' + "x" * 60_000))
    logs.close()
    (line,) = pipe.lines()
    assert line["request_id"].startswith('a\n{"b":\u2028\ud800xxx')
    assert len(line["request_id"]) == 128


def test_other_libraries_speak_in_json_as_well_and_show_no_text(pipe: Pipe) -> None:
    """asyncio and others print exceptions, and an exception may quote a prompt."""
    logs = Logs("info", access_log=True, fd=pipe.writing)
    try:
        raise ValueError("a secret prompt")
    except ValueError:
        logging.getLogger("asyncio").error("Task failed\nfuture: ValueError('a secret prompt')", exc_info=True)
    logging.getLogger("grpc").info("not even this")
    logs.close()
    (first,) = pipe.lines()
    assert (first["logger"], first["level"], first["message"]) == ("asyncio", "error", "Task failed")
    assert re.fullmatch(r"ValueError at .*test_logs\.py:\d+", first["error"])


def test_a_library_that_logs_wrongly_does_no_harm(pipe: Pipe) -> None:
    """If arguments do not fit their format, the line says what it can."""
    logs = Logs("info", access_log=True, fd=pipe.writing)
    wrong = logging.makeLogRecord({"name": "grpc", "msg": "%d of", "args": ("two",), "levelname": "WARNING"})
    logging.getLogger().handlers[-1].handle(wrong)
    logging.getLogger("router").info("and on")
    logs.close()
    assert [line["message"] for line in pipe.lines()] == ["%d of", "and on"]


def test_closing_leaves_the_process_as_it_was(pipe: Pipe) -> None:
    """No handler and no level stays changed."""
    root, ours = logging.getLogger(), logging.getLogger("router")
    before = (list(root.handlers), ours.level)
    Logs("debug", access_log=True, fd=pipe.writing).close()
    assert (list(root.handlers), ours.level) == before


def test_a_reader_that_stalls_costs_lines_and_never_time(pipe: Pipe) -> None:
    """With a full pipe, exchanges begin and end as fast as ever. Lines that do not fit are counted. Closing takes a second."""
    pipe.fill()
    logs, metrics = Logs("info", access_log=True, fd=pipe.writing), Metrics()
    metrics.show_dropped_lines(lambda: logs.dropped_count)
    telemetry = Telemetry([metrics, logs])
    began = time.monotonic()
    for _ in range(12_000):
        telemetry.begin({}).end(ROUTED)
    assert time.monotonic() - began < 5
    assert 1_900 <= logs.dropped_count <= 2_000
    assert f"llm_router_log_lines_dropped_total {logs.dropped_count}.0" in metrics.render().decode()
    began = time.monotonic()
    telemetry.close()
    assert time.monotonic() - began < 3
    os.close(pipe.reading)  # lets the writer's thread go


def test_a_reader_that_left_is_survived(pipe: Pipe) -> None:
    """Lost lines are counted."""
    os.close(pipe.reading)
    logs = Logs("info", access_log=True, fd=pipe.writing)
    logs.begin({}).end(ROUTED)
    logs.close()
    assert logs.dropped_count == 1


def test_a_process_whose_log_nobody_reads_still_exits(pipe: Pipe) -> None:
    """It exits with its own status, for the waiting thread holds no lock that the interpreter needs."""
    code = (
        "import logging; from router.telemetry.logs import Logs; from router.core.exchange_record import ExchangeRecord\n"
        "logs = Logs('info', True); logging.getLogger('router').warning('x' * 100)\n"
        "logs.begin({}).end(ExchangeRecord('routed')); logs.close()"
    )
    pipe.fill()
    done = subprocess.run([sys.executable, "-c", code], stderr=pipe.writing, timeout=20, check=False)
    assert done.returncode == 0
