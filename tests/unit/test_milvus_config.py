"""Every key of the Milvus file acts or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pymilvus import MilvusClient

from router.cache.settings import OWN_COLUMNS, MilvusSettings, SyncSettings
from router.cache.stores.schema import Collections
from router.config.load import parse
from router.config.milvus import read_milvus
from router.config.reader import Notes
from router.config.reader import parse as parse_yaml
from router.config.schema import rows
from router.errors import ConfigError

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "config" / "cache" / "milvus.yaml"


def read(document: dict[str, Any], file: str = "milvus.yaml") -> tuple[MilvusSettings, SyncSettings, Notes]:
    """What this Milvus file becomes."""
    notes = Notes(file)
    settings, pace = read_milvus(parse_yaml(yaml.safe_dump(document), notes))
    return settings, pace, notes


def with_key(path: str, value: object) -> dict[str, Any]:
    """A file with one key, and whatever else that key needs."""
    document: dict[str, Any] = {}
    for name, each in [*NEEDS.get(path, {}).items(), (path, value)]:
        *sections, last = name.split(".")
        section = document
        for part in sections:
            section = section.setdefault(part, {})
        section[last] = each
    return document


AUTH = {"connection.auth.enabled": True, "connection.auth.username": "u"}
TLS = {"connection.tls.enabled": True}
IVF = {"collection.index.type": "IVF_FLAT"}
NEEDS: dict[str, dict[str, object]] = {
    "connection.auth.enabled": {"connection.auth.username": "u"},
    "connection.auth.username": AUTH,
    "connection.auth.password": AUTH,
    "connection.tls.cert_file": TLS,
    "connection.tls.key_file": TLS,
    "connection.tls.ca_file": TLS,
    "collection.index.params.nlist": IVF,
    "search.params.nprobe": IVF,
    "data_management.compaction.interval": {"data_management.compaction.enabled": True},
}
ACTS: list[tuple[str, object, str, object]] = [
    ("connection.file", "x.db", "file", Path("x.db").absolute()),
    ("connection.host", "milvus", "uri", "http://milvus:19530"),
    ("connection.port", 1, "uri", "http://localhost:1"),
    ("connection.database", "d", "database", "d"),
    ("connection.timeout", 2, "timeout_s", 2.0),
    ("connection.auth.enabled", True, "username", "u"),
    ("connection.auth.username", "v", "username", "v"),
    ("connection.auth.password", "p", "password", "p"),
    ("connection.tls.enabled", True, "uri", "https://localhost:19530"),
    ("connection.tls.cert_file", str(SHIPPED), "cert_file", str(SHIPPED)),
    ("connection.tls.key_file", str(SHIPPED), "key_file", str(SHIPPED)),
    ("connection.tls.ca_file", str(SHIPPED), "ca_file", str(SHIPPED)),
    ("collection.name", "c", "collection", "c"),
    ("collection.description", "d", "description", "d"),
    ("collection.vector_field.name", "v", "vector_field", "v"),
    ("collection.vector_field.dimension", 384, "dimension", 384),
    ("collection.vector_field.metric_type", "L2", "metric_type", "L2"),
    ("collection.index.type", "FLAT", "index_type", "FLAT"),
    ("collection.index.params.M", 8, "index_params", {"M": 8, "efConstruction": 64}),
    ("collection.index.params.efConstruction", 99, "index_params", {"M": 16, "efConstruction": 99}),
    ("collection.index.params.nlist", 7, "index_params", {"nlist": 7}),
    ("search.params.ef", 9, "search_params", {"ef": 9}),
    ("search.params.nprobe", 9, "search_params", {"nprobe": 9}),
    ("search.topk", 3, "topk", 3),
    ("search.consistency_level", "Strong", "consistency_level", "Strong"),
    ("performance.connection_pool.max_connections", 3, "max_requests", 3),
    ("performance.connection_pool.acquire_timeout", 3, "acquire_timeout_s", 3.0),
    ("performance.batch.insert_batch_size", 3, "batch", 3),
    ("performance.batch.timeout", 3, "write_s", 3.0),
    ("data_management.ttl.enabled", False, "sweeps", False),
    ("data_management.ttl.timestamp_field", "t", "timestamp_field", "t"),
    ("data_management.ttl.cleanup_interval", 3, "sweep_s", 3.0),
    ("data_management.compaction.enabled", True, "compacts_s", 86_400.0),
    ("data_management.compaction.interval", 99, "compacts_s", 99.0),
    ("logging.level", "debug", "log_level", "debug"),
    ("logging.enable_query_log", True, "logs_queries", True),
    ("logging.enable_metrics", False, "counts_requests", False),
    ("development.drop_collection_on_startup", True, "drops_at_start", True),
    ("development.auto_create_collection", False, "creates_collection", False),
    ("development.verbose_errors", False, "shows_errors", False),
]
"""Key, value, the setting that it changes, and the result. tests/contract/test_cache.py tests what a setting does."""
REFUSED: list[tuple[str, object, str]] = [
    ("performance.connection_pool.max_idle_connections", 5, "could do nothing"),
    ("collection.vector_field.dimension", 768, "the encoder gives vectors of 384 numbers"),
    ("collection.index.params.nlist", 7, "an index of type HNSW has no such parameter"),
    ("search.params.nprobe", 7, "is not searched with it"),
    ("search.consistency_level", "Sometimes", "is none of Strong, Session"),
    ("connection.tls.ca_file", "nowhere.pem", "there is no file nowhere.pem"),
    ("connection.tls.ca_file", "x" * 300, "is no path that a file could have"),
    ("connection.file", "a\0b", "is no path that a file could have"),
    ("collection.vector_field.name", "answer", "the store has a column 'answer' of its own"),
    ("data_management.ttl.timestamp_field", "id", "the store has a column 'id' of its own"),
    ("collection.vector_field.name", "timestamp", "'timestamp' is the name of the other column, too"),
    ("data_management.ttl.timestamp_field", "embedding", "'embedding' is the name of the other column, too"),
    ("connection.auth.password", "${NO_SUCH_VARIABLE}", "the environment has no variable NO_SUCH_VARIABLE"),
    ("connection.auth.enabled", True, "is missing, while auth.enabled is true"),
    ("collection.name", "a-b", "a name of letters, digits and _"),
    ("conection", {}, "did you mean 'connection'?"),
]


@pytest.mark.parametrize(("path", "value", "setting", "expected"), ACTS, ids=[row[0] for row in ACTS])
def test_a_key_acts(path: str, value: object, setting: str, expected: object) -> None:
    """It changes its setting, or equals the default."""
    settings, pace, notes = read(with_key(path, value))
    assert notes.problems == []
    assert getattr(settings if hasattr(settings, setting) else pace, setting) == expected
    if path != "collection.vector_field.dimension":
        before = with_key(path, value)
        *sections, last = path.split(".")
        section = before
        for part in sections:
            section = section[part]
        del section[last]
        plain, plain_pace, _ = read(before)
        assert getattr(plain if hasattr(plain, setting) else plain_pace, setting) != expected


@pytest.mark.parametrize(("path", "value", "said"), REFUSED, ids=[f"{row[0]}={row[1]}" for row in REFUSED])
def test_a_value_that_could_not_work_is_refused(path: str, value: object, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message gives the reason."""
    if said != "is none of Strong, Session":
        monkeypatch.setitem(NEEDS, path, {key: each for key, each in NEEDS.get(path, {}).items() if key in TLS or key in AUTH})
    if path == "connection.auth.enabled":
        monkeypatch.setitem(NEEDS, path, {})
    if "nlist" in path or "nprobe" in path:
        monkeypatch.setitem(NEEDS, path, {})
    _, _, notes = read(with_key(path, value))
    assert any(said in str(problem) for problem in notes.problems), notes.problems


def test_the_shipped_file_has_no_problem_and_forgets_nothing() -> None:
    """`drop_collection_on_startup` is false."""
    settings, _, notes = read(yaml.safe_load(SHIPPED.read_text()))
    assert notes.problems == []
    assert settings.drops_at_start is False
    assert settings.database == "semantic_router_cache"


def test_the_seeds_own_file_works_but_for_what_could_do_nothing() -> None:
    """The file has the 38 keys that vLLM Semantic Router ships. Only the size of an idle pool is refused."""
    document = yaml.safe_load(SHIPPED.read_text())
    document["performance"]["connection_pool"]["max_idle_connections"] = 5
    _, _, notes = read(document)
    assert [problem.path for problem in notes.problems] == ["performance.connection_pool.max_idle_connections"]


def test_a_password_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """So it need not stand in a file."""
    monkeypatch.setenv("MILVUS_PASSWORD", "secret")
    settings, _, notes = read(with_key("connection.auth.password", "${MILVUS_PASSWORD}"))
    assert notes.problems == []
    assert settings.password == "secret"


def test_every_key_is_tested() -> None:
    """The test table holds every key, and no other."""
    leaves = {
        path.removeprefix("milvus.") for path, row in rows().items() if path.startswith("milvus.") and "| section |" not in row
    }
    assert leaves == {row[0] for row in ACTS} | {"performance.connection_pool.max_idle_connections"}


def test_the_columns_of_the_store() -> None:
    """No other column may have the name of one that the store makes."""
    columns = {column.name for column in Collections(MilvusSettings(), "")._schema(MilvusClient).fields}
    assert columns == OWN_COLUMNS | {MilvusSettings().vector_field, MilvusSettings().timestamp_field}


@pytest.mark.parametrize("path", ["cache/milvus.yaml", "config/cache/milvus.yaml"])
def test_the_file_is_found_from_config_yaml_or_from_the_working_directory(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """People write it either way when config.yaml lies in `config/` and the router starts beside that folder."""
    (tmp_path / "config" / "cache").mkdir(parents=True)
    (tmp_path / "config" / "cache" / "milvus.yaml").write_text("connection: { host: there, port: 4711 }\n")
    monkeypatch.chdir(tmp_path)
    config = parse(CONFIG.format(path), "config/config.yaml")
    assert config.cache.milvus.uri == "http://there:4711"


def test_a_file_that_is_nowhere_is_named_at_both_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator sees where it was looked for."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"no file config/x\.yaml and no file x\.yaml"):
        parse(CONFIG.format("x.yaml"), "config/config.yaml")


CONFIG = """
version: 1
models: {{ small: {{ cluster: small }} }}
signals: {{ encoder: {{ enabled: false }} }}
semantic_cache: {{ enabled: true, backend_config_path: {}, verifier: {{ enabled: false }} }}
default: {{ model: small }}
"""
