"""Who may import whom, as router/ARCHITECTURE.md says; and what stays out of a process that only serves."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROUTER = Path(__file__).parents[2] / "router"

PURE = {
    "__future__",
    "base64",
    "binascii",
    "collections",
    "dataclasses",
    "difflib",
    "enum",
    "functools",
    "hashlib",
    "hmac",
    "itertools",
    "json",
    "re",
    "typing",
    "unicodedata",
    "urllib",
}
"""What the core may use of the standard library: nothing that waits, tells the time, or touches the machine."""

ALLOWED = {
    "errors": {"__future__", "dataclasses"},
    "files": {"router.errors"},
    "cores": set(),
    "supervisor": {"router.program"},
    "restart": {"router.errors", "router.program", "router.supervisor"},
    "restartcli": {"router.errors"},
    "program": {"router", "router.config", "router.errors", "router.files"},
    "core": PURE | {"router.errors", "router.core"},
    "signals": {"router.errors", "router.files", "router.core", "router.signals"},
    "cache": {"router.errors", "router.core", "router.cache"},
    "config": {
        "router.errors",
        "router.files",
        "router.core",
        "router.yamltree",
        "router.cacheconfig",
        "router.cache.settings",
        "router.ruleconfig",
    },
    "ruleconfig": {
        "router.errors",
        "router.core",
        "router.yamltree",
        "router.cacheconfig",
        "router.patterns",
        "router.signals.formats",
        "router.rulelogic",
    },
    "patterns": set(),
    "rulelogic": {"router.core"},
    "cacheconfig": {
        "router.errors",
        "router.files",
        "router.core",
        "router.yamltree",
        "router.cache.settings",
        "router.cachebars",
    },
    "cachebars": {"router.errors", "router.files", "router.core", "router.yamltree"},
    "yamltree": {"router.errors", "router.yamlhints"},
    "yamlhints": set(),
    "asked": {"router.core", "router.errors"},
    "explain": {"router.asked", "router.core"},
    "explaintext": set(),
    "extproc/wire": {"router.errors", "router.core", "router.extproc.pb"},
    "extproc/server": {"router.errors", "router.core", "router.extproc"},
    "telemetry": {"router.core", "router.telemetry"},
    "admin": {"router.errors", "router.admin"},
    "simulator": {"router.errors", "router.simulator"},
    "evaluation": {"router.errors", "router.core", "router.evaluation", "router.signals"},
}
"""What of ours each part may import; for `errors` and `core`, what of anything."""

FORBIDDEN = {
    "config": {"grpc", "onnxruntime", "pymilvus", "aiohttp", "numpy"},
    "cacheconfig": {"grpc", "onnxruntime", "pymilvus", "aiohttp", "numpy"},
    "cachebars": {"grpc", "onnxruntime", "pymilvus", "aiohttp", "numpy"},
    "ruleconfig": {"grpc", "onnxruntime", "pymilvus", "aiohttp", "numpy"},
    "signals/formats": {"onnxruntime", "numpy", "tokenizers"},
    "extproc/wire": {"asyncio"},
    "signals": {"grpc", "aiohttp", "yaml"},
    "telemetry": {"grpc"},
    "supervisor": {"grpc", "onnxruntime", "pymilvus", "numpy"},
    "restart": {"grpc", "onnxruntime", "pymilvus", "numpy"},
    "program": {"grpc", "onnxruntime", "pymilvus", "numpy"},
}


def files_of(part: str) -> list[Path]:
    """The modules of a part, generated ones left out."""
    path = ROUTER / part
    found = [path.with_suffix(".py")] if path.with_suffix(".py").exists() else sorted(path.rglob("*.py"))
    return [file for file in found if "pb" not in file.parts]


def imports_of(file: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def is_within(module: str, packages: set[str]) -> bool:
    """Whether a module is one of some packages, or inside one."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("part", ALLOWED)
def test_a_part_imports_only_what_it_may(part: str) -> None:
    """The core is pure, and no part reaches around the builder."""
    checks_everything = part in ("errors", "core")
    assert files_of(part)
    for file in files_of(part):
        for module in imports_of(file):
            if checks_everything or is_within(module, {"router"}):
                assert is_within(module, ALLOWED[part]), f"{file.relative_to(ROUTER)} imports {module}"


@pytest.mark.parametrize("part", FORBIDDEN)
def test_a_part_leaves_alone_what_is_not_its_business(part: str) -> None:
    """A library that only another part needs."""
    for file in files_of(part):
        for module in imports_of(file):
            assert not is_within(module, FORBIDDEN[part]), f"{file.relative_to(ROUTER)} imports {module}"


@pytest.mark.parametrize("module", ["router.build", "router.cli", "router.__main__", "router.serving"])
def test_nobody_imports_the_builder_but_the_shell(module: str) -> None:
    """Concrete classes are chosen in one place."""
    shell = {"cli.py", "explaincli.py", "serving.py", "__main__.py"}
    for file in ROUTER.rglob("*.py"):
        if file.name not in shell:
            assert module not in set(imports_of(file)), f"{file.relative_to(ROUTER)} imports {module}"


def test_serving_loads_neither_training_nor_checking_nor_tracing() -> None:
    """What is switched off, or belongs to another command, is never loaded: it could only cost and fail."""
    code = "import sys, router.serving, router.build, router.config; print('\\n'.join(sys.modules))"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    heavy = {"torch", "onnxruntime", "envoy_data_plane", "opentelemetry.exporter.otlp.proto.grpc.trace_exporter"}
    assert not heavy & loaded
