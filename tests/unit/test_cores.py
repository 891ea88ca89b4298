"""The number of threads follows the container's CPU quota, not the size of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.config.load import parse
from router.inference import cores
from router.runtime.build_signals import pass_threads

V2, V1 = "0::/pod/router\n", "5:cpuset:/pod\n4:cpu,cpuacct:/pod/router\n0::/\n"


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with eight cores, all usable by the scheduler."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)


def machine(root: Path, groups: str, files: dict[str, str]) -> Path:
    """A file system of a process in these control groups."""
    for name, text in {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "cores_expected"),
    [
        (V2, {"pod/router/cpu.max": "200000 100000\n"}, 2),
        (V2, {"pod/router/cpu.max": "250000 100000\n"}, 3),
        (V2, {"pod/router/cpu.max": "10000 100000\n"}, 1),
        (V2, {"pod/router/cpu.max": "max 100000\n"}, 8),
        (V2, {"pod/router/cpu.max": "max 100000\n", "pod/cpu.max": "400000 100000\n"}, 4),
        (V2, {"pod/router/cpu.max": "600000 100000\n", "pod/cpu.max": "400000 100000\n"}, 4),
        (V2, {"cpu.max": "300000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "300000 100000\n"}, 3),
        (V2, {"pod/router/cpu.max": "6400000 100000\n"}, 8),
        (V2, {"pod/router/cpu.max": "nonsense\n"}, 8),
        (V2, {}, 8),
        ("", {}, 8),
        (V1, {"cpu,cpuacct/pod/router/cpu.cfs_quota_us": "150000\n", "cpu,cpuacct/pod/router/cpu.cfs_period_us": "100000\n"}, 2),
        (V1, {"cpu,cpuacct/pod/router/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/pod/router/cpu.cfs_period_us": "100000\n"}, 8),
        (V1, {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
    ],
)
def test_the_containers_quota_bounds_the_cores(tmp_path: Path, groups: str, files: dict[str, str], cores_expected: int) -> None:
    """The quota of the container or of a group above it counts. A part of a core is rounded up. No quota means no limit."""
    assert cores.usable_cores(machine(tmp_path, groups, files)) == cores_expected


def test_affinity_bounds_them_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`taskset` and cpusets set it."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {3})
    assert cores.usable_cores(machine(tmp_path, V2, {"cpu.max": "400000 100000"})) == 1


@pytest.mark.parametrize(("server", "threads"), [("", 5), ("workers: 2", 2), ("workers: 9", 1), ("threads: 7", 7)])
def test_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch, server: str, threads: int) -> None:
    """Each worker has at least one thread. A number in the configuration counts as it is."""
    monkeypatch.setattr("router.runtime.build_signals.usable_cores", lambda: 5)
    text = f"version: 1\nserver: {{ {server} }}\nmodels: {{ small: {{ cluster: small }} }}\ndefault: {{ model: small }}\n"
    assert pass_threads(parse(text, "config.yaml")) == threads
