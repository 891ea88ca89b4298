"""CONTRIBUTING.md is so: what its examples add to a copy of the repository is tested there as they say, and acts."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
COPIED = ("router", "tests", "config")
LINKED = ("router/models",)
NOT_COPIED = shutil.ignore_patterns("__pycache__", "models")
SHELF = "router/cache/stores/shelf.py"
"""The file of the guide's store, which stands beside the contract."""
CONTRACTS = (
    "tests/contract/test_stores.py::TestShelf",
    "tests/contract/test_signals.py::TestScript",
    "tests/unit/test_choice_and_block.py::TestCheapest",
)
ACTS = "tests/contract/contributing_acts.py"
HELD = (
    "tests/unit/test_imports.py::test_every_module_is_in_the_table_and_the_table_names_no_other",
    "tests/unit/test_imports.py::test_a_part_imports_only_what_it_may",
    "tests/unit/test_config_docs.py",
    "tests/unit/test_tables.py",
)
"""What every change has to leave true."""


def parts() -> Iterator[tuple[str, str, str]]:
    """Of each part of the guide's blocks: the file, where in it, and the lines."""
    for block in re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL):
        _, *rest = re.split(r"^# ([\w/]+\.py)(?:, (.+))?$", block, flags=re.MULTILINE)
        for path, place, lines in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
            yield path, place or "", lines.strip("\n") + "\n"


def put(folder: Path, path: str, place: str, lines: str) -> None:
    """Do what one part says."""
    file = folder / path
    if not place:
        assert not file.exists(), path
        file.write_text(lines, encoding="utf-8")
        return
    text = file.read_text(encoding="utf-8")
    if place == "at the end":
        file.write_text(f"{text}\n\n{lines}", encoding="utf-8")
        return
    old, at = text.splitlines(keepends=True), last_line(ast.parse(text), place)
    file.write_text("".join([*old[:at], lines, *old[at:]]), encoding="utf-8")


def last_line(tree: ast.Module, place: str) -> int:
    """After how many lines something is added: to the imports, the fields of a class, or what a table or a function ends with."""
    if place == "in its imports":
        return max(node.end_lineno or 0 for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom))
    name = place.removeprefix("in ")
    for node in tree.body:
        match node:
            case ast.ClassDef(name=found) if found == name:
                return max(field.end_lineno or 0 for field in node.body if isinstance(field, ast.AnnAssign))
            case ast.FunctionDef(name=found) | ast.AnnAssign(target=ast.Name(id=found)) if found == name:
                return (node.end_lineno or 0) - 1
    raise AssertionError(place)


def run(folder: Path, *command: str) -> str:
    """In the copy, by its own modules; what was printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment["PYTHONPATH"] = str(folder)
    done = subprocess.run([sys.executable, "-m", *command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository with everything that the guide adds."""
    folder = tmp_path_factory.mktemp("house")
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=NOT_COPIED)
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "pyproject.toml", folder)
    shutil.copy(ROOT / "tests/contract/shelf.py", folder / SHELF)
    for part in parts():
        put(folder, *part)
    run(folder, "ruff", "check", "--fix", "--quiet", "--select", "I", "router", "tests")
    run(folder, "router.config.schema")
    return folder


def test_what_the_examples_add_passes_their_tests_and_acts(copy: Path) -> None:
    """The contracts, the table of imports, the documents of the keys, and a request or two for each example."""
    printed = run(copy, "pytest", "-q", "-p", "no:cacheprovider", *CONTRACTS, ACTS, *HELD)
    assert "skipped" not in printed


def test_the_examples_are_written_as_the_house_writes(copy: Path) -> None:
    """Lint and format."""
    run(copy, "ruff", "check", "--quiet", "router", "tests")
    run(copy, "ruff", "format", "--check", "--quiet", "router", "tests")


def test_a_store_a_signal_and_a_selector_are_one_line_and_four_lines_of_test() -> None:
    """In the table that makes them; and the whole guide has fewer than 200 lines."""
    made = [lines for _, place, lines in parts() if place in ("in STORES", "in SIGNALS", "in SELECTORS")]
    tested = [lines for path, _, lines in parts() if path.startswith("tests/")]
    assert [len(lines.splitlines()) for lines in made] == [1, 1, 1]
    assert [len(lines.splitlines()) for lines in tested] == [4, 4, 4]
    assert len(GUIDE.splitlines()) < 200
