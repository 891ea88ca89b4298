"""What one client with large bodies costs the others: each awkward shape at full size, beside small requests."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import uvloop

from tests.bench.load import connect, request
from tests.bench.rig import make_rig

CHAT = "/v1/chat/completions"
FULL = 16 * 1024 * 1024 - 4096
"""Bytes of a body, just below envoy.yaml's limit."""
SMALL = request(CHAT, json.dumps({"model": "small", "messages": [{"role": "user", "content": "What is a monad?"}]}).encode())
ROUND_S = 4.0
_URL = "data:image/png;base64," + "iVBORw0KGgo+/A==" * 327_680
IMAGE = f'[{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":"{_URL}"}}}}]}}]'


def _many(piece: str, around: str = "[{}]") -> str:
    return around.replace("{}", ",".join([piece] * (FULL // (len(piece) + 1) - 20)))


def _with(value: str) -> str:
    return f'{{"model":"small","messages":[{{"role":"user","content":"hi"}}],"x":{value}}}'


def _messages(messages: str) -> str:
    return f'{{"model":"small","messages":{messages}}}'


def _text(text: str) -> str:
    """One user message with this text inserted as it is."""
    return _messages(f'[{{"role":"user","content":"{text}"}}]')


def _keys(count: int) -> str:
    return ",".join(f'"{number:x}":0' for number in range(count))


def _agent() -> str:
    """2,000 messages of 3 KB with tool calls, and 200 tools."""
    call = {"id": "call_1", "type": "function", "function": {"name": "search", "arguments": '{"query": "x"}'}}
    turn = [
        {"role": "assistant", "content": 'I shall look, and then (see [1]) say: "yes".\n' * 60, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": '{"rows": [1, 2, 3], "text": "a, b\\n"}\n' * 80},
    ]
    properties = {f"p{number}": {"type": "string", "description": "What it is."} for number in range(10)}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": properties}}}
    return json.dumps({"model": "small", "messages": [*turn * 1000, {"role": "user", "content": "?"}], "tools": [tool] * 200})


SHAPES: dict[str, Callable[[], str]] = {
    "nothing beside it": lambda: "",
    "keys of the body": lambda: f'{{"model":"small","messages":[{{"role":"user"}}],{_keys(FULL // 12)}}}',
    "keys inside": lambda: _with(f"{{{_keys(FULL // 12)}}}"),
    "messages": lambda: _messages(_many('{"role":"user"}')),
    "parts": lambda: _messages(_many('{"type":"text","text":"a"}', '[{"role":"user","content":[{}]}]')),
    "lists": lambda: _with(_many("[]")),
    "floats": lambda: _with(_many("1e9")),
    "strings": lambda: _with(_many('""')),
    "levels": lambda: _with("[" * (FULL // 2) + "]" * (FULL // 2)),
    "one number": lambda: _with("9" * FULL),
    "white space": lambda: _with(" " * FULL + "0"),
    "quotes": lambda: '"' * FULL,
    "most allowed: keys": lambda: _with("[" + ",".join(f'{{"{number:x}":[1e9,1e9]}}' for number in range(49_000)) + "]"),
    "most allowed: floats": lambda: _with("[" + ",".join(["1e9"] * 299_000) + "]"),
    "most allowed: messages": lambda: _messages("[" + ",".join(['{"role":"user","content":"hello"}'] * 9_999) + "]"),
    "one text": lambda: _text("lorem ipsum, " * (FULL // 13 - 10)),
    "one text of line ends": lambda: _text("\\n" * (FULL // 2 - 100)),
    "one text of escapes": lambda: _text("\\u4e2d\\ud83d\\ude00" * (FULL // 18 - 10)),
    "one text in Chinese": lambda: _text("中" * (FULL // 3 - 100)),
    "an image of 5 MB": lambda: _messages(IMAGE),
    "2,000 messages, 200 tools": _agent,
}  # fmt: skip


def run(folder: Path, shapes: Sequence[str] = ()) -> None:
    """For each shape, print how the other clients were served."""
    rig = make_rig(folder / "bodies")
    rig.start()
    try:
        print(f"\n{'Small requests beside a client with large ones':62}p50, ms     p99     max   bypassed        the large ones")
        for name in shapes or SHAPES:
            print(uvloop.run(_beside(rig.envoy_port, rig.envoy_port, name)), flush=True)
        for name in () if shapes else ("lists", "one text"):  # what the sender and Envoy alone cost the others
            print(uvloop.run(_beside(rig.envoy_port, rig.plain_port, name, "past the router: ")), flush=True)
    finally:
        rig.stop()


async def _beside(port: int, large_port: int, name: str, how: str = "") -> str:
    here, there = multiprocessing.Pipe()
    sender = multiprocessing.get_context("spawn").Process(target=_send, args=(large_port, name, there))
    sender.start()
    try:
        await asyncio.to_thread(here.recv)  # the body is built
        taken, bypassed = await _small(port)
        here.send("enough")
        answers = await asyncio.to_thread(here.recv)
    finally:
        sender.join()
    taken.sort()
    p50, p99, worst = (taken[min(len(taken) - 1, int(share * len(taken)))] * 1000 for share in (0.5, 0.99, 1))
    return f"  {how + name:58}{p50:8.2f}{p99:8.1f}{worst:8.1f}   {bypassed:5} of {len(taken):5}   {answers}"


async def _small(port: int) -> tuple[list[float], int]:
    """Latencies of small requests, four at a time with a pause after each, and how many bypassed the router."""
    taken: list[float] = []
    bypassed = 0
    until = time.perf_counter() + ROUND_S

    async def client() -> None:
        nonlocal bypassed
        connection = await connect(port)
        while (began := time.perf_counter()) < until:
            response = await connection.ask(SMALL)
            taken.append(time.perf_counter() - began)
            bypassed += b"x-vsr-response-path: upstream" not in response
            await asyncio.sleep(0.005)

    await asyncio.gather(*(client() for _ in range(4)))
    return taken, bypassed


def _send(port: int, name: str, pipe: Pipe) -> None:
    """In a process of its own, send the large body repeatedly until told to stop. Then report the count of each answer."""
    body = SHAPES[name]().encode()
    pipe.send("ready")
    pipe.send(uvloop.run(_send_all(port, body, pipe)) if body else "")


async def _send_all(port: int, body: bytes, pipe: Pipe) -> str:
    answers: dict[str, int] = {}
    while not pipe.poll():
        connection = await connect(port)
        try:
            response = await connection.ask(request(CHAT, body))
        except ConnectionError as error:
            response = str(error).encode()
        path = next((word for word in ("bypass", "upstream", "error") if f"path: {word}".encode() in response), "?")
        key = f"{response[9:12].decode()} {path}"
        answers[key] = answers.get(key, 0) + 1
    return ", ".join(f"{count} x {key}" for key, count in answers.items())
