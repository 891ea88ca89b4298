"""`semantic-router check` beside the real Envoy: both accept what we ship, and Envoy's own refusals are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.errors import ConfigError
from router.local import find_envoy
from tests.unit.test_check import problems


def _has_envoy() -> bool:
    try:
        find_envoy()
    except ConfigError:
        return False
    return True


pytestmark = pytest.mark.skipif(not _has_envoy(), reason="Envoy is not installed")


def test_the_shipped_file(tmp_path: Path) -> None:
    """Envoy accepts it."""
    assert problems(tmp_path) == []


def test_what_only_envoy_knows(tmp_path: Path) -> None:
    """A limit that the types do not tell of is told in Envoy's own words."""
    found = problems(tmp_path, ("stat_prefix: openai", "stat_prefix: ''"))
    assert ["Envoy refuses it" in problem.message for problem in found] == [True]
    assert "StatPrefix" in found[0].message


def test_what_the_types_refuse(tmp_path: Path) -> None:
    """It is told once, by us and at its line; Envoy is not asked as well."""
    found = problems(tmp_path, ("failure_mode_allow: true", "failure_mode_alow: true"))
    assert [problem.path.rpartition(".")[2] for problem in found] == ["failure_mode_alow"]
