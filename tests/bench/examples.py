"""The sample configurations at work: each with its own workload, with its cache and without, side by side.

A line of a workload is a prompt and the number of the answer that it needs: two prompts may share an answer only if the numbers
are equal. So the bench knows whether a hit is right.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import httpx2 as httpx
import yaml

from tests.e2e.stack import ROOT, Stack, running

WORKLOADS = Path(__file__).parent / "workloads"


def run(folder: Path) -> None:
    """Run all of them. The mock vLLM backends answer 60 words at 5 ms a token, as a fast model would."""
    columns = "requests   to a model   hits   wrong hits   eligible repeats served   p50 ms   p50 ms of a hit"
    print(f"\nSample configurations      {columns}")
    for path in sorted(WORKLOADS.glob("*.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for is_on in (False, True):
            place = folder / f"{path.stem}-{is_on}"
            place.mkdir()
            with running(place, edit_config=lambda config, name=path.stem, on=is_on: become(config, name, on)) as stack:
                print(f"  {path.stem if not is_on else '':26}{report(stack, lines, is_on)}", flush=True)


def become(config: dict[str, Any], name: str, is_on: bool) -> None:
    """Use the sample configuration on this rig's ports, with its cache in memory or off."""
    example = yaml.safe_load((ROOT / "config" / "examples" / f"{name}.yaml").read_text())
    kept = {key: config[key] for key in ("server", "admin")}
    config.clear()
    config.update(example | kept)
    config["semantic_cache"]["enabled"] = is_on
    config["semantic_cache"]["backend_type"] = "memory"
    config["semantic_cache"].pop("backend_config_path", None)
    if not is_on:
        config["semantic_cache"].pop("max_false_hit_rate", None)


def report(stack: Stack, lines: list[dict[str, Any]], is_on: bool) -> str:
    """Ask everything, one by one."""
    headers = {"authorization": "Bearer bench", "x-tenant-id": "bench", "x-sim-token-ms": "5", "x-sim-answer-tokens": "60"}
    stored: dict[str, int] = {}
    asked_before: set[int] = set()
    times, hit_times, wrong, repeats = [], [], 0, 0
    with httpx.Client(base_url=stack.url, headers=headers, timeout=60) as client:
        for line in lines:
            body = {"model": "auto", "messages": [{"role": "user", "content": line["prompt"]}]}
            began = time.perf_counter()
            response = client.post("/v1/chat/completions", json=body)
            times.append(time.perf_counter() - began)
            response.raise_for_status()
            is_skipped = response.headers.get("x-vsr-cache-status", "").startswith("skipped")
            repeats += line["answer"] in asked_before and not is_skipped
            asked_before.add(line["answer"])
            text = response.json()["choices"][0]["message"]["content"]
            if response.headers.get("x-vsr-cache-hit") == "true":
                hit_times.append(times[-1])
                entry = response.headers["x-vsr-cache-entry"].partition("-")[0]  # the rest says which two questions were paired
                wrong += stored[text + entry] != line["answer"]
            elif is_on and not is_skipped:
                stack.wait_until_idle()
                found = httpx.post(f"{stack.admin_url}/cache/search", json={"text": line["prompt"], "limit": 1}).json()["entries"]
                stored[text + found[0]["id"]] = line["answer"]
    hits = len(hit_times)
    served = f"{hits} of {repeats}" if is_on else ""
    of_hit = f"{statistics.median(hit_times) * 1000:14.1f}" if hit_times else ""
    median = statistics.median(times) * 1000
    return f"{len(lines):9} {len(lines) - hits:12} {hits:6} {wrong:12} {served:>25} {median:8.0f} {of_hit}"
