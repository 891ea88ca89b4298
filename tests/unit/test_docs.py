"""What the documentation says about this repository is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("config", "deploy", "envoy", "proto", "router", "tests", ".github")
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.md"))),
]


def identify(path: Path) -> str:
    """The path within the repository."""
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=identify)
def test_links_lead_somewhere(document: Path) -> None:
    """Files beside it, or above."""
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert target.startswith("https://") or (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=identify)
def test_tests_and_modules_that_it_names_exist(document: Path) -> None:
    """A name may end in an ellipsis."""
    tests = "\n".join(path.name + "\n" + path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    for name in re.findall(r"`(?:\w+/)*(test_\w+)", document.read_text()):
        assert name in tests, name
    for path in re.findall(r"`((?:router|core|tests|deploy|config|envoy|proto)/[\w./]+\.\w+)`", document.read_text()):
        assert (ROOT / path).exists() or (ROOT / "router" / path).exists(), path


@pytest.mark.parametrize("document", DOCUMENTS, ids=identify)
def test_make_targets_that_it_names_exist(document: Path) -> None:
    """`make` itself lists its targets."""
    targets = set(re.findall(r"^(\w+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make (\w+)", document.read_text())) <= targets


def test_the_readme_can_be_read_in_a_sitting() -> None:
    """It has at most 150 lines."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
