"""What the models cost: passes by length, the heads beside the encoder, one pass or several, the verifier, memory."""

from __future__ import annotations

import json
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime

from router.inference.bundle import MODEL, SHIPPED, SHIPPED_VERIFIER, Bundle
from router.inference.pool import open_session

LENGTHS = (16, 64, 128, 256)
_HEADS = ("intent", "hidden", "outcomes", "attack", "personal")
Feed = dict[str, np.ndarray]


def feed_of(tokens: int, *, is_pair: bool = False) -> Feed:
    """Token ids as in real texts, one row."""
    ids = np.random.default_rng(tokens).integers(1000, 20_000, (1, tokens))
    ids[0, 0], ids[0, -1] = 101, 102
    feed = {"ids": ids, "mask": np.ones_like(ids)}
    return {**feed, "kinds": (np.arange(tokens)[np.newaxis] >= tokens // 2).astype(np.int64)} if is_pair else feed


def medians(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each function. They take turns."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            times[name].append((time.perf_counter() - began) * 1000)
    return {name: statistics.median(some) for name, some in times.items()}


def passes(rounds: int) -> None:
    """One request at a time on one thread, with a second model beside it if there is one."""
    encoder = open_session(SHIPPED / MODEL)
    verifier = open_session(SHIPPED_VERIFIER / MODEL) if SHIPPED_VERIFIER.is_dir() else None
    print("\nOne pass, one thread, ms p50     one for all   one for each of four   ratio   verifier / pass")
    for tokens in LENGTHS:
        one, pair = feed_of(tokens), feed_of(tokens, is_pair=True)

        def separate(one: Feed = one) -> None:
            for _ in range(4):
                encoder.run(None, one)

        works: dict[str, Callable[[], object]] = {"fused": lambda one=one: encoder.run(None, one), "separate": separate}
        if verifier:
            works["verifier"] = lambda pair=pair: verifier.run(None, pair)
        took = medians(works, rounds)
        fused = took["fused"]
        second = f"{took['verifier'] / fused:15.2f}" if verifier else "              -"
        print(f"  {tokens:4} tokens {'':19}{fused:11.2f} {took['separate']:22.2f} {took['separate'] / fused:7.2f} {second}")


def heads(rounds: int) -> None:
    """The share of a pass that the heads' nodes take, by ONNX Runtime's own profile."""
    print("\nOf a pass, microseconds (profiled)     encoder     all heads")
    for tokens in LENGTHS:
        with tempfile.TemporaryDirectory() as folder:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.log_severity_level = 3
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = onnxruntime.InferenceSession(str(SHIPPED / MODEL), options, providers=["CPUExecutionProvider"])
            feed = feed_of(tokens)
            for _ in range(rounds):
                session.run(None, feed)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        nodes = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
        mine = [event["dur"] for event in nodes if any(f"/model/{head}" in event["name"] for head in _HEADS)]
        mine += [event["dur"] for event in nodes if event["name"].startswith(("/Softmax", "/Sigmoid", "/Div"))]
        whole, alone = sum(event["dur"] for event in nodes) / rounds, sum(mine) / rounds
        print(f"  {tokens:4} tokens {'':19}{whole - alone:12.0f} {alone:13.0f}")


def crowd(rounds: int, callers: int = 32, threads: int = 2) -> None:
    """Many requests at once, through as many threads as there are cores."""
    session = open_session(SHIPPED / MODEL)
    print(f"\n{callers} requests at once on {threads} threads     passes/s     p50 ms     p99 ms")
    for tokens in LENGTHS:
        feed, took = feed_of(tokens), []
        pool = ThreadPoolExecutor(threads)  # first come, first served, as in the router

        def call(feed: Feed = feed, pool: ThreadPoolExecutor = pool, took: list[float] = took) -> None:
            for _ in range(rounds // 10):
                began = time.perf_counter()
                pool.submit(session.run, None, feed).result()
                took.append((time.perf_counter() - began) * 1000)

        workers = [threading.Thread(target=call) for _ in range(callers)]
        began = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        took.sort()
        rate = len(took) / (time.perf_counter() - began)
        print(f"  {tokens:4} tokens {'':19}{rate:9.0f} {statistics.median(took):10.1f} {took[int(0.99 * len(took))]:10.1f}")


def memory() -> None:
    """What each model adds to a process."""
    print("\nMemory, MiB     file     resident more")
    for folder in filter(Path.is_dir, (SHIPPED, SHIPPED_VERIFIER)):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        session = open_session(folder / MODEL)
        bundle = Bundle.load(folder)
        feed = feed_of(bundle.max_tokens, is_pair=folder == SHIPPED_VERIFIER)
        session.run(None, feed)
        more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(f"  {bundle.name:18} {(folder / MODEL).stat().st_size / 2**20:5.1f} {more:14.0f}")


def run(rounds: int) -> None:
    """Run all parts."""
    memory()
    passes(rounds)
    heads(rounds)
    crowd(rounds)
