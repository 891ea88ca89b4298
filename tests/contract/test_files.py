"""Every worker reads what was read when the router started, even one that starts later."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from router.config.load import load
from router.errors import ConfigError
from router.files import Files, read_text, recorded, replayed
from router.runtime.program import read_program

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The shipped configuration with its own Milvus file, table and encoder: every kind of file that it can name."""
    shutil.copytree(ROOT / "router" / "models" / "intent", tmp_path / "encoder", ignore=shutil.ignore_patterns("trained_on.bin"))
    shutil.copy(ROOT / "router" / "models" / "calibration.json", tmp_path / "table.json")
    (tmp_path / "milvus.yaml").write_text("connection: { host: milvus.example, port: 19530 }\n")
    document = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
    document["signals"]["encoder"]["model_path"] = "encoder"
    document["semantic_cache"] = {"enabled": True, "backend_config_path": "milvus.yaml", "calibration": "table.json"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(document))
    return tmp_path / "config.yaml"


def test_a_worker_reads_what_its_supervisor_read(config: Path) -> None:
    """It gets the configuration and every file that it names, whatever happened to them since."""
    program = read_program(config, None)
    before = load(config)
    for name in ("config.yaml", "milvus.yaml", "table.json", "encoder/manifest.json"):
        (config.parent / name).write_text("][")
    with pytest.raises(ConfigError):
        load(config)
    with replayed(Files.load(program.read.dump())):
        assert load(config) == before
    with pytest.raises(ConfigError):
        load(config)


def test_problems_name_the_operators_own_file(config: Path) -> None:
    """The message does not name a copy."""
    config.write_text(config.read_text().replace("deadline_ms", "dedline_ms"))
    with recorded() as files, pytest.raises(ConfigError):
        load(config)
    config.unlink()
    with replayed(files), pytest.raises(ConfigError) as raised:
        load(config)
    assert str(raised.value).startswith(f"{config}:")


def test_a_model_that_was_changed_since_is_refused_and_named(config: Path) -> None:
    """Models are not handed over. A worker with another model would answer differently from the rest."""
    program = read_program(config, None)
    program.read.check()
    graph = config.parent / "encoder" / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    (config.parent / "encoder" / "tokenizer.json").unlink()
    with pytest.raises(ConfigError) as raised:
        Files.load(program.read.dump()).check()
    assert {Path(problem.file).name for problem in raised.value.problems} == {"model.onnx", "tokenizer.json"}
    assert "semantic-router restart" in raised.value.problems[0].message


def test_a_file_that_was_not_read_is_read_from_the_disk(tmp_path: Path) -> None:
    """A model's loader reads such files."""
    (tmp_path / "a").write_text("x")
    with replayed(Files()):
        assert read_text(tmp_path / "a") == "x"
