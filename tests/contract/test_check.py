"""`semantic-router check` beside the real Envoy: both accept what we ship, and Envoy's own refusals are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.envoy.binary import find_envoy
from router.envoy.check import check
from router.errors import ConfigError
from tests.contract.test_check_findings import ROOT, problems

FILES = [ROOT / "config/config.yaml", *sorted((ROOT / "config/examples").glob("*.yaml"))]


def _has_envoy() -> bool:
    try:
        find_envoy()
    except ConfigError:
        return False
    return True


pytestmark = pytest.mark.skipif(not _has_envoy(), reason="Envoy is not installed")


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_a_configuration_that_we_ship(file: Path) -> None:
    """Nothing is told of it beside the shipped envoy.yaml, which Envoy accepts, but that no Milvus server runs, and what only
    the operator can know: with a rule that blocks the switch, with a scope of its own who sets its header.
    """
    report = check(file, ROOT / "envoy/envoy.yaml")
    problems = [one for one in report.problems if not one.message.startswith("Milvus at localhost:19530 does not answer")]
    told = [problem.message for problem in problems]
    assert {problem.severity for problem in problems} <= {"warning"}
    assert any("GUARDED" in message for message in told) == ("block:" in file.read_text())
    assert any("sets or removes" in message for message in told) == ("scope: { header:" in file.read_text())
    assert len(told) <= 2
    assert report.summary


def test_what_only_envoy_knows(tmp_path: Path) -> None:
    """A limit that the types do not tell of is told in Envoy's own words."""
    found = problems(tmp_path, ("stat_prefix: openai", "stat_prefix: ''"))
    assert ["Envoy refuses it" in problem.message for problem in found] == [True]
    assert "StatPrefix" in found[0].message


def test_a_limit_of_envoys_own_is_told_at_its_line(tmp_path: Path) -> None:
    """The chain of fields that Envoy gives becomes a path and a line; its reason alone is left of the words."""
    (problem,) = problems(tmp_path, ("port_value: 8102", "port_value: 81022"))
    assert problem.message == "Envoy refuses it: value must be less than or equal to 65535"
    assert problem.path.endswith("endpoint.address.socket_address.port_value")
    assert "81022" in (tmp_path / problem.file).read_text().splitlines()[problem.line - 1]


def test_what_the_types_refuse(tmp_path: Path) -> None:
    """It is told once, by us and at its line; Envoy is not asked as well."""
    found = problems(tmp_path, ("failure_mode_allow: true", "failure_mode_alow: true"))
    assert [problem.path.rpartition(".")[2] for problem in found] == ["failure_mode_alow"]
