"""`make bench`: what the router costs, as medians and ratios taken side by side in one run. Asserts nothing.

python -m tests.bench [--quick] [--without-litellm] [PART ...]      parts: models, latency, streams, throughput, workers,
cache, examples, bodies
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvloop

from router.inference.bundle import SHIPPED, Bundle
from router.inference.encoder import Encoder
from router.inference.pool import InferencePool
from tests.bench import bodies, cache, examples, models
from tests.bench.load import closed_loop, request, stream
from tests.bench.rig import LiteLLM, Rig, make_rig

PARTS = ("models", "latency", "streams", "throughput", "workers", "cache", "examples", "bodies")
CHAT = "/v1/chat/completions"
QUESTIONS = [
    "Explain why the derivative of a constant is zero, and give an example for case {}.",
    "A customer wants to return order number {} because the box was damaged. What should we answer?",
    "What were the main causes of the French Revolution? Answer in {} sentences.",
    "How many moles are in {} grams of sodium chloride?",
]
"""Texts of about 20 tokens. The number makes every text new, so nothing is remembered."""
LETTER = (
    "Hello, I am writing about order {}, which arrived this week. Two of the five boxes were wet and the third one was open, so "
    "that several parts are missing, among them the charger and the manual. I have already called twice, and each time somebody "
    "else told me something different about who pays for the return and how long a replacement takes. Could you please tell me "
    "what I have to do now, whether I need the original packaging, and whether the warranty starts again with the new device?"
)
"""Texts of about 100 tokens. With these the encoder is the bottleneck."""
_fresh = itertools.count(1)


def asked(model: str, text: str, *, is_stream: bool = False) -> bytes:
    """A chat request of about 600 bytes, as a small application sends it."""
    system = "You are a helpful assistant of a mid-sized company. Answer briefly, name sources, say so when you do not know."
    messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    body = {"model": model, "messages": messages, "temperature": 0.7, "max_tokens": 512, "stream": is_stream}
    return request(CHAT, json.dumps(body).encode())


def fresh(model: str) -> Iterator[bytes]:
    """Requests whose texts were never asked before."""
    for number in _fresh:
        yield asked(model, QUESTIONS[number % len(QUESTIONS)].format(number))


def letters(model: str) -> Iterator[bytes]:
    """Requests with longer texts that were never asked before."""
    return (asked(model, LETTER.format(number)) for number in _fresh)


def same(model: str) -> Iterator[bytes]:
    """One request, many times. The encoder's result is remembered, and all other work is done."""
    return itertools.repeat(asked(model, "What is the capital of France?"))


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of all values lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def ms(seconds: float) -> str:
    """Milliseconds for a table."""
    return f"{seconds * 1000:8.2f}"


async def latency(rig: Rig, rounds: int, count: int) -> None:
    """One client asks in turn: Envoy alone, a named model, and a new question that needs the encoder."""
    encoder = Encoder(Bundle.load(SHIPPED), InferencePool(1, 1))
    variants = {
        "Envoy alone": (rig.plain_port, fresh("small")),
        "router, concrete model": (rig.envoy_port, fresh("small")),
        "router, text remembered": (rig.envoy_port, same("auto")),
        "router, fresh question": (rig.envoy_port, fresh("auto")),
    }
    samples: dict[str, list[float]] = {name: [] for name in [*variants, "encoder pass alone"]}
    medians: dict[str, list[float]] = {name: [] for name in samples}
    for number in range(rounds + 1):
        for name, (port, messages) in variants.items():
            taken = await closed_loop(port, messages, 1, count if number else 50)
            if number:  # the first round warms up
                samples[name] += taken
                medians[name].append(statistics.median(taken))
        if number:
            taken = [_pass(encoder) for _ in range(count)]
            samples["encoder pass alone"] += taken
            medians["encoder pass alone"].append(statistics.median(taken))
    print(f"\nLatency, one client, {rounds} rounds of {count}, in ms        p50      p99    added p50  added p99")
    plain = samples["Envoy alone"]
    for name, values in samples.items():
        line = f"  {name:44}{ms(statistics.median(medians[name]))} {ms(percentile(values, 0.99))}"
        if name.startswith("router"):
            added = statistics.median(a - b for a, b in zip(medians[name], medians["Envoy alone"], strict=True))
            line += f"   {ms(added)}   {ms(percentile(values, 0.99) - percentile(plain, 0.99))}"
        print(line)


def _pass(encoder: Encoder) -> float:
    number = next(_fresh)
    text = QUESTIONS[number % len(QUESTIONS)].format(number)
    began = time.perf_counter()
    encoder.run(text)
    return time.perf_counter() - began


async def throughput(rig: Rig, rounds: int, count: int, litellm: LiteLLM | None) -> None:
    """Sixteen clients: requests per second, and the router's processor time per request."""
    variants = {
        "Envoy alone": (rig.plain_port, fresh("small"), count),
        "router, concrete model": (rig.envoy_port, fresh("small"), count),
        "router, text remembered": (rig.envoy_port, same("auto"), count),
        "router, fresh question": (rig.envoy_port, fresh("auto"), count // 2),
    }
    if litellm:
        variants["LiteLLM proxy, concrete model"] = (litellm.port, fresh("small"), count // 8)
    rates: dict[str, list[float]] = {name: [] for name in variants}
    cpu: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, (port, messages, total) in variants.items():
            before, began = rig.cpu_s("router"), time.perf_counter()
            await closed_loop(port, messages, 16, total if number else 100)
            if number:
                rates[name].append(total / (time.perf_counter() - began))
                cpu[name].append((rig.cpu_s("router") - before) / total)
    print(f"\nThroughput, 16 clients, {rounds} rounds            requests/s   router CPU ms/request")
    for name, values in rates.items():
        spent = f"{statistics.median(cpu[name]) * 1000:12.2f}" if name.startswith("router") else ""
        print(f"  {name:44}{statistics.median(values):8.0f}   {spent}")
    if litellm:
        ratio = [a / b for a, b in zip(rates["router, concrete model"], rates["LiteLLM proxy, concrete model"], strict=True)]
        print(f"  router / LiteLLM, same model routing        {statistics.median(ratio):8.1f} times")


async def streams(rig: Rig, rounds: int) -> None:
    """A streamed answer with and without the router: time to the first token, and the lag of each token."""
    message = asked("coder", "Write a function that merges two sorted lists.", is_stream=True)
    first: dict[str, list[float]] = {"Envoy alone": [], "router": []}
    lags: dict[str, list[float]] = {"Envoy alone": [], "router": []}
    for _ in range(rounds * 6):
        for name, port in (("Envoy alone", rig.plain_stream_port), ("router", rig.envoy_port)):
            ttft, stamps = await stream(port, message)
            first[name].append(ttft)
            lags[name].append(statistics.median(stamps))
    print("\nStreams, nothing recorded, in ms          time to first token p50      token lag p50")
    for name, values in first.items():
        print(f"  {name:44}{ms(statistics.median(values))}         {ms(statistics.median(lags[name]))}")
    added = statistics.median(a - b for a, b in zip(lags["router"], lags["Envoy alone"], strict=True))
    ttft_added = statistics.median(a - b for a, b in zip(first["router"], first["Envoy alone"], strict=True))
    print(f"  added                                       {ms(ttft_added)}         {ms(added)}")


async def one_and_two_workers(folder: Path, rounds: int, count: int) -> None:
    """New letters with one encoder thread per worker, so that the encoder is the bottleneck."""
    rigs = {workers: make_rig(folder / f"workers-{workers}", workers, threads=1) for workers in (1, 2)}
    rates: dict[int, list[float]] = {1: [], 2: []}
    try:
        for rig in rigs.values():
            rig.start()
        for number in range(rounds + 1):
            for workers, rig in rigs.items():
                began = time.perf_counter()
                await closed_loop(rig.envoy_port, letters("auto"), 16, count if number else 50)
                if number:
                    rates[workers].append(count / (time.perf_counter() - began))
    finally:
        for rig in rigs.values():
            rig.stop()
    print("\nWorkers, fresh letters of 100 tokens, one encoder thread each    requests/s")
    for workers, values in rates.items():
        print(f"  {workers} worker{'s' if workers > 1 else ' '}{'':36}{statistics.median(values):8.0f}")
    ratio = statistics.median(b / a for a, b in zip(rates[1], rates[2], strict=True))
    print(f"  two / one                                   {ratio:8.2f} times")


def main() -> None:
    """Run everything and print it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="What the router costs.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a first look, not a figure to quote")
    parser.add_argument("--without-litellm", action="store_true")
    parser.add_argument("--million", action="store_true", help="a million cache entries too: ten minutes and 1.5 GB more")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help=f"{', '.join(PARTS)}; default: all")
    options = parser.parse_args()
    parts = options.parts or PARTS
    rounds, count = (2, 150) if options.quick else (7, 300)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}")
    if "models" in parts:
        models.run(20 * rounds)
    if parts != ["models"]:
        through_envoy(parts, options, rounds, count)


def through_envoy(parts: Sequence[str], options: argparse.Namespace, rounds: int, count: int) -> None:
    """Run all parts that need the rig."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rig = make_rig(folder / "rig")
        has_litellm = "throughput" in parts and not options.without_litellm
        litellm = LiteLLM(folder, rig.model_url("small")) if has_litellm else None
        try:
            rig.start()
            if "latency" in parts:
                uvloop.run(latency(rig, rounds, count))
            if "streams" in parts:
                uvloop.run(streams(rig, rounds))
            if litellm:
                litellm.start(Path(".run").absolute() / "litellm")
            if "throughput" in parts:
                uvloop.run(throughput(rig, rounds, count * 5, litellm))
        finally:
            rig.stop()
            if litellm:
                litellm.stop()
        if "cache" in parts:
            sizes = [1_000, 10_000] if options.quick else [1_000, 10_000, 100_000]
            cache.run(folder, rounds, count, [*sizes, 1_000_000] if options.million else sizes)
        if "examples" in parts:
            examples.run(folder)
        if "bodies" in parts:
            bodies.run(folder)
        if "workers" in parts:
            uvloop.run(one_and_two_workers(folder, rounds, count))


if __name__ == "__main__":
    main()
