"""Milvus Lite and a Milvus server keep the contract of stores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from router.cache.settings import MilvusSettings
from router.cache.stores.base import Store
from router.cache.stores.milvus import MilvusStore
from tests.contract.stores import StoreContract
from tests.contract.test_cache import needs_server, server, settings_of  # noqa: F401 - a fixture


class TestMilvusLite(StoreContract):
    @pytest.fixture(scope="class")
    @classmethod
    def make(cls, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Store]:
        """A store in one folder for all tests."""
        file: Path = tmp_path_factory.mktemp("lite") / "cache.db"
        return lambda versions: MilvusStore(MilvusSettings(file=file), versions)


@needs_server
class TestMilvusServer(StoreContract):
    @pytest.fixture(scope="class")
    @classmethod
    def make(cls, server: int) -> Callable[[str], Store]:  # noqa: F811
        """A store in one collection for all tests: the server needs seconds to make one."""
        settings = settings_of(server, consistency_level="Strong")
        return lambda versions: MilvusStore(settings, versions)
