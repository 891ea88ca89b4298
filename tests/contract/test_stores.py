"""The contract of stores, kept by Milvus Lite and by a Milvus server, each made as the configuration makes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from router.cache.settings import MilvusSettings
from router.cache.stores.base import Store
from router.config.cache import CacheConfig
from router.runtime.build_cache import STORES
from tests.contract.stores import StoreContract
from tests.contract.test_cache import needs_server, server, settings_of  # noqa: F401 - a fixture


class TestMilvusLite(StoreContract):
    @pytest.fixture(scope="class")
    @classmethod
    def make(cls, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Store]:
        """A store in one folder for all tests."""
        file: Path = tmp_path_factory.mktemp("lite") / "cache.db"
        return lambda versions: STORES["milvus"](CacheConfig(milvus=MilvusSettings(file=file)), versions)


@needs_server
class TestMilvusServer(StoreContract):
    @pytest.fixture(scope="class")
    @classmethod
    def make(cls, server: int) -> Callable[[str], Store]:  # noqa: F811
        """A store in one collection for all tests: the server needs seconds to make one."""
        settings = settings_of(server, consistency_level="Strong")
        return lambda versions: STORES["milvus"](CacheConfig(milvus=settings), versions)
