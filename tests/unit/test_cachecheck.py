"""What `check` says of the cache: whether it is on, where, for whom, what prevents it, and where state is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from router.cache.settings import MilvusSettings
from router.config.cache import CacheConfig
from router.config.load import read_config
from router.envoy.cachecheck import cache_problems, cache_summary
from tests.unit.test_config import BAD

ON = CacheConfig(enabled=True)
MINIMAL = f"""
version: 1
models: {{ small: {{ cluster: small }} }}
signals: {{ encoder: {{ model_path: "{BAD}/bundle" }} }}
default: {{ model: small }}
semantic_cache: {{ enabled: true, verifier: {{ enabled: false }} }}
"""


def lite(folder: Path) -> CacheConfig:
    """Milvus Lite in a folder."""
    return replace(ON, milvus=MilvusSettings(file=folder))


def told(cache: CacheConfig) -> list[str]:
    """The messages. All of them are warnings, for the router may run on another machine."""
    problems = list(cache_problems(cache, "config.yaml"))
    assert {problem.severity for problem in problems} <= {"warning"}
    return [problem.message for problem in problems]


def test_a_cache_that_is_off_or_can_be_used_is_no_problem(tmp_path: Path) -> None:
    """`check` creates nothing to find this out."""
    assert told(CacheConfig()) == []
    assert told(lite(tmp_path / "new" / "cache.db")) == []
    assert list(tmp_path.iterdir()) == []
    assert told(replace(ON, backend="memory", rejections_file=tmp_path / "rejections")) == []


def test_a_folder_that_cannot_be_written_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration that is mounted read-only causes this."""
    (tmp_path / "file").touch()
    (message,) = told(lite(tmp_path / "file" / "cache.db"))
    assert message.startswith(f"Milvus Lite could not start here: {tmp_path}/file is not a folder; set server.state_path")
    monkeypatch.setattr("os.access", lambda *_: False)
    (message,) = told(lite(tmp_path / "cache.db"))
    assert f"{tmp_path} is not writable" in message
    (message,) = told(replace(ON, backend="memory", rejections_file=tmp_path / "rejections"))
    assert message.startswith("rejected pairs are lost when the router ends")


def test_a_folder_that_others_can_read_is_told(tmp_path: Path) -> None:
    """The folder holds the key of the scopes, so `check` warns."""
    folder = tmp_path / "cache.db"
    folder.mkdir()
    folder.chmod(0o750)
    (message,) = told(lite(folder))
    assert "other users can open it" in message
    folder.chmod(0o700)
    assert told(lite(folder)) == []


@pytest.mark.parametrize(
    ("cache", "line"),
    [
        (CacheConfig(), "cache: off"),
        (lite(Path("/x/c.db")), "cache: on, in Milvus Lite, /x/c.db, shared by requests with the same authorization"),
        (replace(ON, scope_header=""), "cache: on, in Milvus at localhost:19530, shared by all clients"),
        (replace(ON, backend="memory"), "cache: on, in memory, shared by requests with the same authorization"),
    ],
)
def test_the_summary_says_where_and_for_whom(cache: CacheConfig, line: str) -> None:
    """The summary is one line."""
    assert cache_summary(cache) == line


@pytest.mark.parametrize(
    ("key", "variable", "folder"),
    [
        ("", "", "{here}"),
        ("", "/var/lib/a:/var/lib/b", "/var/lib/a"),
        ("", "state", "{here}/state"),
        ("/srv/state", "/var/lib/a", "/srv/state"),
        ("../state", "", "{here}/../state"),
    ],
)
def test_where_state_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, variable: str, folder: str) -> None:
    """State is kept where it is configured, else where the service manager says, else beside the configuration."""
    monkeypatch.setenv("STATE_DIRECTORY", variable)
    text = MINIMAL + (f"server: {{ state_path: {key} }}\n" if key else "")
    config, notes = read_config(text, str(tmp_path / "config.yaml"))
    assert notes.problems == []
    expected = Path(folder.format(here=tmp_path))
    assert config.cache.milvus.file == expected / "semantic_cache.db"
    memory, _ = read_config(text.replace("enabled: true,", "enabled: true, backend_type: memory,"), str(tmp_path / "config.yaml"))
    assert memory.cache.rejections_file == expected / "semantic_cache.rejections"
