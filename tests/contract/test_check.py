"""`semantic-router check` beside the real Envoy: both accept the shipped files, and Envoy's own refusals are reported."""

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
    """Envoy accepts the shipped envoy.yaml, and `check` reports only that no Milvus server runs, and what only the operator can
    know: the GUARDED switch where a rule blocks, and who sets the header of a scope.
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
    """Envoy's own words report a limit that its types do not express."""
    found = problems(tmp_path, ("stat_prefix: openai", "stat_prefix: ''"))
    assert ["Envoy refuses it" in problem.message for problem in found] == [True]
    assert "StatPrefix" in found[0].message


def test_a_limit_of_envoys_own_is_told_at_its_line(tmp_path: Path) -> None:
    """Envoy's chain of fields becomes a path and a line. Of its words, only the reason is left."""
    (problem,) = problems(tmp_path, ("port_value: 8102", "port_value: 81022"))
    assert problem.message == "Envoy refuses it: value must be less than or equal to 65535"
    assert problem.path.endswith("endpoint.address.socket_address.port_value")
    assert "81022" in (tmp_path / problem.file).read_text().splitlines()[problem.line - 1]


def test_what_the_types_refuse(tmp_path: Path) -> None:
    """We report it once, at its line, and do not ask Envoy as well."""
    found = problems(tmp_path, ("failure_mode_allow: true", "failure_mode_alow: true"))
    assert [problem.path.rpartition(".")[2] for problem in found] == ["failure_mode_alow"]
