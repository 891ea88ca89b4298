"""config/README.md and config/schema.json agree with the declarations of the keys."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from router.config.load import parse, read_config
from router.config.schema import FOLDER, fill, rows, schema
from router.config.server import AdminConfig, ServerConfig, TelemetryConfig
from router.config.signals import SHIPPED_BUNDLE, GuardsConfig
from router.errors import ConfigError
from tests.unit.test_config import BAD, FULL, SMALLEST

ROOT = Path(__file__).parents[2]
README = (FOLDER / "README.md").read_text(encoding="utf-8")
ROWS = rows()
_CELLS = re.compile(r"^\| `([^`]+)` \| (.*?) \|(.*?)\|(.*)\|$")
_SECTIONS = ("models.*", "signals.custom.*", "default.select", "milvus")
"""Sections that need more keys than the one that is tried."""
RANGES = [
    (path, float(found[1]), float(found[2]))
    for path, row in ROWS.items()
    if (found := re.search(r"\| (-?[\d.]+) to ([\d.]+) \|", row)) and not path.startswith(("rules", "when", *_SECTIONS))
]
DEFAULTS = {"server": ServerConfig(), "admin": AdminConfig(), "telemetry": TelemetryConfig(), "signals.guards": GuardsConfig()}
VALIDATOR = Draft202012Validator(schema())


def test_the_tables_are_those_of_the_declarations() -> None:
    """`make schema` writes the tables."""
    assert fill(README) == README


def test_every_key_stands_in_one_table() -> None:
    """A section with a table of its own appears in the top table only as one key."""
    documented = re.findall(r"^\| `([\w.*\[\]]+)` \| .* \| .* \| .* \|$", README, re.MULTILINE)
    assert [path for path in ROWS if documented.count(path.removeprefix("milvus.")) != 1] == []


def test_every_key_says_what_it_does() -> None:
    """Its meaning is a sentence."""
    assert [path for path, row in ROWS.items() if not _CELLS.match(row) or not _CELLS.match(row)[4].strip().endswith(".")] == []  # type: ignore[index]


@pytest.mark.parametrize(("path", "low", "high"), RANGES, ids=[path for path, _, _ in RANGES])
def test_a_documented_range(path: str, low: float, high: float) -> None:
    """The ends of the range are allowed, and values beyond them are refused."""
    for value, is_right in ((low, True), (high, True), (low - 1, False), (high + 1, False)):
        *parents, last = path.split(".")
        document = yaml.safe_load(SMALLEST)
        section = document
        for name in parents:
            section = section.setdefault(name, {})
        section[last] = int(value) if value.is_integer() else value
        _, notes = read_config(yaml.safe_dump(document), str(BAD / "config.yaml"))
        paths = [problem.path for problem in notes.problems]
        assert paths == ([] if is_right else [path])
        assert VALIDATOR.is_valid(document) == is_right


@pytest.mark.parametrize("section", DEFAULTS)
def test_a_documented_default(section: str) -> None:
    """The documented default is the one that acts."""
    config, _ = read_config(SMALLEST, str(BAD / "config.yaml"))
    acting: object = config
    for name in section.split("."):
        acting = getattr(acting, name)
    assert acting == DEFAULTS[section]


def test_the_documented_categories() -> None:
    """They are those of the shipped model, and of the bundle of these tests."""
    found = re.search(r"shipped model's categories: ([^.]*)\.", README.replace("\n", " "))
    assert found
    for bundle in (SHIPPED_BUNDLE, BAD / "bundle"):
        assert found[1].split(", ") == json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["labels"]


def test_the_schema_that_editors_read_is_that_of_the_declarations() -> None:
    """`make schema` writes the schema, and every shipped file names it in its first line."""
    assert json.loads((FOLDER / "schema.json").read_text(encoding="utf-8")) == schema()
    Draft202012Validator.check_schema(schema())
    for file in SHIPPED:
        named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", file.read_text(encoding="utf-8"))
        assert named, file
        assert (file.parent / named[1]).resolve() == FOLDER / "schema.json"


SHIPPED = [FOLDER / "config.yaml", *sorted((FOLDER / "examples").glob("*.yaml"))]


@pytest.mark.parametrize("text", [SMALLEST, FULL, *(file.read_text(encoding="utf-8") for file in SHIPPED)])
def test_an_editor_has_nothing_against_a_right_file(text: str) -> None:
    """The schema accepts whatever `check` accepts."""
    assert list(VALIDATOR.iter_errors(yaml.safe_load(text))) == []


@pytest.mark.parametrize("name", ["unknown-keys", "wrong-types", "out-of-range", "no-default", "empty-trees", "log-level"])
def test_an_editor_sees_what_is_wrong_in_itself(name: str) -> None:
    """References to other parts of the file, or to other files, only `check` can verify."""
    text = (BAD / f"{name}.yaml").read_text(encoding="utf-8")
    with pytest.raises(ConfigError):
        parse(text, str(BAD / f"{name}.yaml"))
    assert not VALIDATOR.is_valid(yaml.safe_load(text))


def test_an_editor_asks_for_two_candidates() -> None:
    """One leaves nothing to select."""
    document = yaml.safe_load(SMALLEST)
    for candidates, is_right in ((["small"], False), (["small", "large"], True)):
        document["default"]["select"] = {"candidates": candidates}
        assert VALIDATOR.is_valid(document) == is_right


@pytest.mark.parametrize("models", [None, {}])
def test_an_editor_asks_for_a_model(models: object) -> None:
    """Without one nothing can be served."""
    assert not VALIDATOR.is_valid(yaml.safe_load(SMALLEST) | {"models": models})


@pytest.mark.parametrize("when", [None, {"not": None}, {"any": [None]}, {"all": [{"not": None}]}])
def test_an_editor_refuses_an_empty_condition(when: object) -> None:
    """`check` does, too."""
    document = yaml.safe_load(SMALLEST) | {"rules": [{"name": "r", "model": "small", "when": when}]}
    assert not VALIDATOR.is_valid(document)
    with pytest.raises(ConfigError):
        parse(yaml.safe_dump(document), str(BAD / "config.yaml"))
