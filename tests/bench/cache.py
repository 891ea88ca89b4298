"""What the cache costs: hits end to end, and how lookups and memory grow with the number of entries."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import resource
import statistics
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from router.cache.cache import Cache
from router.cache.checks import CHECKS
from router.cache.entries import Entry
from router.cache.settings import CacheLimits
from router.cache.verifier import Verifier
from router.core.cache_key import digest
from router.core.lookup import CachePolicy, CacheQuery
from router.inference.bundle import SHIPPED, Bundle
from router.inference.encoder import Encoder, Encoding
from router.inference.pool import InferencePool
from tests.bench.load import closed_loop, request, stream
from tests.bench.rig import Rig, make_rig

CHAT = "/v1/chat/completions"
POLICY = CachePolicy(0.8, 3600.0, tuple(CHECKS))
_fresh = itertools.count(1)


def asked(text: str, model: str = "auto") -> bytes:
    """A chat request of a principal."""
    body = {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0.7}
    return request(CHAT, json.dumps(body).encode(), authorization="Bearer bench")


def paraphrases() -> Iterator[bytes]:
    """New wordings of questions that were asked before. The encoder has to run, and the checks have to accept them."""
    starts = ["How do I", "How can I", "Please tell me how to", "how to", "How should I", "Could you explain how I"]
    for number in _fresh:
        yield asked(
            f"{starts[number % 6]} connect printer {number // 6 % 50} to the office network{'?' * (number // 300 % 9 + 1)}"
        )


async def hits(folder: Path, rounds: int, count: int) -> None:
    """Hits through Envoy: an exact hit, a semantic hit, and their comparisons."""

    def edit(rig: Rig) -> None:
        before = rig.edit_config

        def both(config: dict[str, Any]) -> None:
            before(config)
            config["semantic_cache"] = {"enabled": True, "backend_type": "memory", "max_entries": 100_000}

        rig.edit_config = both

    rig = make_rig(folder / "cache")
    edit(rig)
    try:
        rig.start()
        await closed_loop(
            rig.envoy_port, (asked(f"How do I connect printer {n} to the office network?") for n in range(50)), 1, 50
        )
        await closed_loop(rig.envoy_port, itertools.repeat(asked("What is the capital of France?")), 1, 20)
        variants: dict[str, tuple[Iterator[bytes], int]] = {
            "trivial ext_proc reply (unknown model)": (itertools.repeat(asked("hi", model="none")), 404),
            "exact hit": (itertools.repeat(asked("What is the capital of France?")), 200),
            "semantic hit": (paraphrases(), 200),
            "miss, answered by the model": ((asked(f"What is the meaning of number {n} in numerology?") for n in _fresh), 200),
        }
        await recording(rig, rounds)
        encoder = Encoder(Bundle.load(SHIPPED), InferencePool(1, 1))
        alone: list[float] = []
        medians: dict[str, list[float]] = {name: [] for name in variants}
        every: dict[str, list[float]] = {name: [] for name in variants}
        for number in range(rounds + 1):
            for name, (messages, status) in variants.items():
                taken = await closed_loop(rig.envoy_port, messages, 1, count if number else 30, status)
                if number:
                    medians[name].append(statistics.median(taken))
                    every[name] += taken
            if number:
                alone.append(statistics.median(_pass(encoder) for _ in range(count)))
    finally:
        rig.stop()
    print(f"\nThe cache through Envoy, one client, {rounds} rounds of {count}, in ms     p50      p99")
    for name, values in medians.items():
        print(
            f"  {name:48}{statistics.median(values) * 1000:12.2f} {sorted(every[name])[int(0.99 * len(every[name]))] * 1000:8.2f}"
        )
    print(f"  {'the encoder pass alone':48}{statistics.median(alone) * 1000:12.2f}")
    trivial = medians["trivial ext_proc reply (unknown model)"]
    ratio = statistics.median(a / b for a, b in zip(medians["exact hit"], trivial, strict=True))
    print(f"  an exact hit takes {ratio:.2f} times a trivial reply")


async def recording(rig: Rig, rounds: int) -> None:
    """A streamed answer that is recorded and stored, and one that is not: the lag of each event, and the total time."""
    lags: dict[str, list[float]] = {"no-store": [], "max-age=60": []}
    whole: dict[str, list[float]] = {name: [] for name in lags}
    for _ in range(rounds * 6):
        for name in lags:
            text = f"Write a python function number {next(_fresh)} that merges two sorted lists."
            body = {"model": "auto", "messages": [{"role": "user", "content": text}], "stream": True}
            headers = {"authorization": "Bearer bench", "cache-control": name}
            began = time.perf_counter()
            first, stamps = await stream(rig.envoy_port, request(CHAT, json.dumps(body).encode(), **headers))
            whole[name].append(time.perf_counter() - began - first)
            lags[name].append(statistics.median(stamps))
    print("\nStreams of 40 events, in ms                        lag of an event p50     first to last byte p50")
    for name, label in (("no-store", "not recorded"), ("max-age=60", "recorded and stored")):
        print(f"  {label:48}{statistics.median(lags[name]) * 1000:12.2f} {statistics.median(whole[name]) * 1000:20.2f}")


def _pass(encoder: Encoder) -> float:
    text = f"How can I connect printer {next(_fresh)} to the office network?"
    began = time.perf_counter()
    encoder.run(text)
    return time.perf_counter() - began


async def growth(sizes: list[int]) -> None:
    """In this process: lookups in one namespace, and the memory of an entry. Vectors cluster as questions do."""
    random = np.random.default_rng(1)
    vectors: dict[str, np.ndarray] = {}

    async def encode(text: str) -> Encoding:
        nothing = np.empty(0, np.float32)
        return Encoding(vectors[text], nothing, nothing, nothing, nothing, (), 10, is_truncated=False)

    cache = Cache(CacheLimits(max_entries=10**9, max_memory_bytes=2**60), encode, Verifier(), None)
    part = digest("bench")
    print("\nThe cache in the process, one namespace       exact p50    semantic p50      p99 us   bytes an entry")
    centres = unit(random.standard_normal((5_000, 384)))
    gc.collect()
    before, stored = memory(), 0
    for size in sizes:
        while stored < size:
            count = min(10_000, size - stored)
            rows = unit(centres[random.integers(0, len(centres), count)] + 0.6 * unit(random.standard_normal((count, 384))))
            for row in rows:
                text = f"How do I configure the setting number {stored} of the product, and what does it change?"
                values = (part, "alice", "default", "small", text, b"", 0, 2**60, row)
                cache.admit(Entry(uuid.uuid4().hex, digest(f"{part}\n{text}"), *values))
                stored += 1
            del rows
        held = list(itertools.islice(cache.memory._held.values(), 0, None, max(1, size // 300)))
        exact, near = [], []
        for one in held[:300]:
            found = cache.memory._index.search(part, row_of(cache, one.number), 1)
            vectors["q"] = unit(row_of(cache, found[0][0]) + 0.1 * unit(random.standard_normal(384)))
            began = time.perf_counter()
            cache.memory.find_key(one.entry.key)
            exact.append(time.perf_counter() - began)
            began = time.perf_counter()
            await cache.look_up(CacheQuery("q", part, digest("x"), "alice", "default", "small"), POLICY)
            near.append(time.perf_counter() - began)
        near.sort()
        gc.collect()
        each = (memory() - before) / size
        print(
            f"  {size:9,} entries {'':24}{statistics.median(exact) * 1e6:9.1f} us {statistics.median(near) * 1e6:11.0f} us"
            f"{near[int(0.99 * len(near))] * 1e6:12.0f} {each:12.0f}"
        )


def row_of(cache: Cache, number: int | None) -> np.ndarray:
    """The vector of an entry."""
    part: Any = next(iter(cache.memory._index._parts.values()))
    row = part._rows[part._numbers.index(number)] if hasattr(part, "_numbers") else part._index.get(number)
    return unit(row.astype(np.float32))


def unit(rows: np.ndarray) -> np.ndarray:
    """Vectors of unit length, float32."""
    scaled: np.ndarray = (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)
    return scaled


def memory() -> int:
    """Resident bytes now (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def run(folder: Path, rounds: int, count: int, sizes: list[int]) -> None:
    """Run all parts."""
    asyncio.run(hits(folder, rounds, count))
    asyncio.run(growth(sizes))
