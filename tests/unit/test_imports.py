"""Which module may import which, as router/ARCHITECTURE.md says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.unit.sources import ROUTER, statements, tree_of

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
"""What the core may use of the standard library: nothing that waits, reads the clock, or touches the machine."""

EVERYTHING, NOTHING = "everything", "nothing"
EVERYWHERE = {"router"}
"""The package's version may be imported everywhere."""
LIBRARIES = {"errors": {"__future__", "dataclasses"}, "core": PURE}
"""Parts that may use few libraries, and which ones."""


def _rows() -> Iterator[tuple[list[str], str, str]]:
    """For each row of the document's table: the modules, what they may import, and what they must not."""
    section = (
        (ROUTER / "ARCHITECTURE.md").read_text(encoding="utf-8").partition("## Who may import whom")[2].partition("\n## ")[0]
    )
    for names, allowed, never in re.findall(r"^\| (`.+?) \| (.+?) \| (.*?) ?\|$", section, re.MULTILINE):
        yield re.findall(r"`([\w/]+)`", names), allowed, never


def _modules(cell: str) -> set[str]:
    """The modules of this project that a cell names."""
    return {"router." + name.replace("/", ".") for name in re.findall(r"`([\w/]+)`", re.sub(r"\(.*?\)", "", cell))}


TABLE = {name: allowed for names, allowed, _ in _rows() for name in names}
ALLOWED = {
    name: _modules(allowed) | EVERYWHERE | {"router." + name.replace("/", ".")} | LIBRARIES.get(name, set())
    for name, allowed in TABLE.items()
    if allowed != EVERYTHING
}
"""What each part may import of this project; for `errors` and `core`, what they may import at all."""
FORBIDDEN = {
    name: libraries
    for names, allowed, never in _rows()
    for name in names
    if allowed != EVERYTHING and (libraries := set(re.findall(r"`(\w+)`", never)))
}


def test_every_module_is_in_the_table_and_the_table_names_no_other() -> None:
    """A module stands in a row of its own, or in its folder's row."""
    paths = [path.relative_to(ROUTER) for path in ROUTER.rglob("*.py") if "pb" not in path.parts and path.name != "__init__.py"]
    modules = {str(path.with_suffix("")) for path in paths}
    folders = {parent.as_posix() for path in paths for parent in path.parents}
    assert {name for name in modules if not {name, *map(str, Path(name).parents)} & set(TABLE)} == set()
    assert set(TABLE) <= modules | folders
    for name, allowed in TABLE.items():
        assert allowed in (EVERYTHING, NOTHING) or _modules(allowed), name


def files_of(part: str) -> list[Path]:
    """The modules of a part, generated ones left out."""
    path = ROUTER / part
    found = [path.with_suffix(".py")] if path.with_suffix(".py").exists() else sorted(path.rglob("*.py"))
    return [file for file in found if "pb" not in file.parts]


@cache
def imports_of(file: Path) -> tuple[str, ...]:
    """Every module that a file imports, at any place in the file."""
    return tuple(_imports_of(file))


def _imports_of(file: Path) -> Iterator[str]:
    for node in statements(tree_of(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            for alias in node.names:
                is_module = (ROUTER.parent / f"{module}.{alias.name}".replace(".", "/")).with_suffix(".py").exists()
                yield f"{module}.{alias.name}" if is_module else module


def is_within(module: str, packages: set[str]) -> bool:
    """Whether a module is one of these packages, or inside one."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("part", ALLOWED)
def test_a_part_imports_only_what_it_may(part: str) -> None:
    """The core is pure, and no part bypasses the builder."""
    checks_everything = part in LIBRARIES
    assert files_of(part)
    for file in files_of(part):
        for module in imports_of(file):
            if checks_everything or is_within(module, {"router"}):
                assert module in EVERYWHERE or is_within(module, ALLOWED[part] - EVERYWHERE), (
                    f"{file.relative_to(ROUTER)} imports {module}"
                )


@pytest.mark.parametrize("part", FORBIDDEN)
def test_a_part_leaves_alone_what_is_not_its_business(part: str) -> None:
    """A library belongs to the part that needs it."""
    for file in files_of(part):
        for module in imports_of(file):
            assert not is_within(module, FORBIDDEN[part]), f"{file.relative_to(ROUTER)} imports {module}"


@pytest.mark.parametrize(
    "module",
    [
        "router.runtime.build",
        "router.runtime.build_signals",
        "router.runtime.build_cache",
        "router.cli.main",
        "router.__main__",
        "router.runtime.process",
    ],
)
def test_nobody_imports_the_builder_but_the_shell(module: str) -> None:
    """One place chooses the concrete classes."""
    shell = {f"{name}.py" for name, allowed in TABLE.items() if allowed == EVERYTHING}
    for file in ROUTER.rglob("*.py"):
        if file.relative_to(ROUTER).as_posix() not in shell:
            assert module not in imports_of(file), f"{file.relative_to(ROUTER)} imports {module}"


def test_packages_do_not_import_each_other_in_a_circle() -> None:
    """What a package needs never needs that package, so each can be read and replaced without those above it."""
    needs: dict[str, set[str]] = {}
    for file in ROUTER.rglob("*.py"):
        room = file.relative_to(ROUTER).parts[0]
        if room.endswith(".py"):
            continue
        used = {module.split(".")[1] for module in imports_of(file) if module.startswith("router.")}
        needs.setdefault(room, set()).update(used - {room})
    done: set[str] = set()
    while ready := {room for room, used in needs.items() if room not in done and used <= done | {"errors", "files"}}:
        done |= ready
    assert done == set(needs)
