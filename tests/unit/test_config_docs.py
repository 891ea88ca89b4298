"""config/README.md against the loader: the document cannot lie."""

from __future__ import annotations

import json
import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
import yaml

from router.config.signals import SHIPPED_BUNDLE, AdminConfig, ServerConfig, SignalsConfig, TelemetryConfig, read
from tests.unit.test_config import BAD, FULL, SMALLEST

ROOT = Path(__file__).parents[2]
_ROW = re.compile(r"^\| `([^`]+)` \| (.*?) \|(.*?)\|.*\|$", re.MULTILINE)
_EVERY_CONDITION = (
    "{ all: [ { intent: { labels: [law] } }, { prompt_tokens: { min: 1 } }, { header: { name: a, equals: b } }, "
    "{ jailbreak: { labels: [harmful] } }, { pii: { labels: [PERSON] } }, { signal: { name: tone, labels: [rude] } } ] }"
)
_NAMELESS = ("models.*", "signals.custom.*", "default.select")
"""Sections that need more than the one key that is tried."""

TABLE = {key: (kind, cell.strip()) for key, kind, cell in _ROW.findall((ROOT / "config/README.md").read_text(encoding="utf-8"))}
"""Of each documented key: the cells for its type and its default."""

RANGES = [
    (key, float(found[1]), float(found[2]))
    for key, (kind, _) in TABLE.items()
    if (found := re.fullmatch(r"(-?[\d.]+) to ([\d.]+)", kind)) and not key.startswith(("rules", "when", *_NAMELESS))
]
SECTIONS = {"server": ServerConfig(), "admin": AdminConfig(), "telemetry": TelemetryConfig(), "signals": SignalsConfig()}


def _known_keys() -> set[str]:
    """Every key that the loader asks for, conditions as `when.*` wherever they stand."""
    text = FULL.replace("{ has_tools: false }", _EVERY_CONDITION)
    _, notes = read(text, str(BAD / "config.yaml"))
    assert notes.problems == []
    return {_flat(key) for key in notes.keys}


def _flat(key: str) -> str:
    if not key.startswith("rules[*].when."):
        return key
    return "when." + re.sub(r"\b(all|any)\[\*\]\.|not\.", "", key.removeprefix("rules[*].when."))


def test_the_tables_and_the_loader() -> None:
    """Every key that may be written is documented, and nothing else is."""
    assert set(TABLE) == _known_keys()


@pytest.mark.parametrize(("key", "least", "most"), RANGES, ids=[key for key, _, _ in RANGES])
def test_a_documented_range(key: str, least: float, most: float) -> None:
    """Its ends are allowed, and what lies beyond is not."""
    for value, is_right in ((least, True), (most, True), (least - 1, False), (most + 1, False)):
        *path, last = key.split(".")
        document = yaml.safe_load(SMALLEST)
        section = document
        for name in path:
            section = section.setdefault(name, {})
        section[last] = int(value) if value.is_integer() else value
        _, notes = read(yaml.safe_dump(document), str(BAD / "config.yaml"))
        paths = [problem.path for problem in notes.problems]
        assert paths == ([] if is_right else [key])


@pytest.mark.parametrize("section", SECTIONS)
def test_a_documented_default(section: str) -> None:
    """It is the one that acts."""
    for path, value in _leaves(section, SECTIONS[section]):
        written = TABLE[path][1]
        if value in ({}, ()):
            assert written == "none"
        elif written.startswith("`"):
            assert yaml.safe_load(written.strip("`")) == value
        else:
            assert written in ("the model's own", "the shipped model", "see below")


def _leaves(path: str, value: object) -> list[tuple[str, object]]:
    if not is_dataclass(value):
        return [(path, value)]
    return [leaf for field in fields(value) for leaf in _leaves(f"{path}.{field.name}", getattr(value, field.name))]


def test_the_documented_categories() -> None:
    """They are those of the shipped model, and of the bundle of these tests."""
    text = (ROOT / "config/README.md").read_text(encoding="utf-8").replace("\n", " ")
    found = re.search(r"shipped model's categories: ([^.]*)\.", text)
    assert found
    for bundle in (SHIPPED_BUNDLE, BAD / "bundle"):
        assert found[1].split(", ") == json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["labels"]
