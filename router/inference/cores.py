"""How many cores this process may use, given its CPU affinity and its container's quota."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

_V1_FOLDERS = ("cpu", "cpu,cpuacct", "cpuacct,cpu")


def usable_cores(root: Path = Path("/")) -> int:
    """At least 1. A fraction of a core counts as a whole one. `root` holds /proc and /sys."""
    return max(1, math.ceil(min(_scheduled(), *_quotas(root))))


def _scheduled() -> int:
    """Cores on which the scheduler may run this process (taskset, cpusets); all cores where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[float]:
    """The quota of each control group of this process, in cores; infinite without a limit."""
    yield math.inf
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            for folder in _folders(root / "sys/fs/cgroup", path):
                quota, _, period = _text(folder / "cpu.max").partition(" ")
                yield _share(quota, period)
        elif "cpu" in controllers.split(","):
            for name in _V1_FOLDERS:
                for folder in _folders(root / "sys/fs/cgroup" / name, path):
                    yield _share(_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us"))


def _folders(mount: Path, path: str) -> Iterator[Path]:
    """The group and its parents, each of which may have a limit. A container may see its own group at the mount itself."""
    group = mount / path.strip("/")
    yield group
    for folder in group.parents:
        if not folder.is_relative_to(mount):
            return
        yield folder


def _share(quota: str, period: str) -> float:
    """Quota divided by period, as the kernel writes them. Infinite without a limit (`max` or -1) and without a file."""
    with contextlib.suppress(ValueError):
        if (taken := int(quota)) > 0 and (of := int(period)) > 0:
            return taken / of
    return math.inf


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
