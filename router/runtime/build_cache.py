"""Builds the cache from the configuration: its tiers, its verifier and its store. A new store is one line in `STORES`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from router.config.cache import CacheConfig
from router.core.cache_policy import CachePlan
from router.core.events import Lookup
from router.core.lookup import Found
from router.errors import ConfigError, Problem
from router.files import read_text

if TYPE_CHECKING:
    from router.cache.cache import Cache
    from router.cache.operations import CacheOperations
    from router.cache.stores.base import Store
    from router.runtime.build_signals import Models

STORES: Mapping[str, Callable[[CacheConfig, str], Store]] = {
    "milvus": lambda config, versions: import_module("router.cache.stores.milvus").MilvusStore(config.milvus, versions),
}
"""By `CacheConfig.backend`, from the configuration and the versions of encoder and lexical checks. A store that is not configured
is not loaded."""


@dataclass(frozen=True, slots=True)
class Caching:
    """The cache, with the parts that make the exchanges' plan once the key for scopes is known."""

    cache: Cache
    control: CacheOperations
    config: CacheConfig
    versions: str
    store_requests: Mapping[tuple[str, str], int] | None = None
    """Requests to the store by kind and result, counted by the store. None without a store."""

    def plan(self, key: bytes) -> CachePlan:
        """The value of `Snapshot.cache`, with `key` as the key for scopes."""
        return self.config.plan(key, self.versions)

    async def peek(self, lookup: Lookup) -> tuple[Found, Mapping[str, object]]:
        """For `explain`: what a lookup would find and why. Changes nothing in the cache."""
        from router.cache.peek import peek

        return await peek(self.cache, lookup)


def build_cache(config: CacheConfig, models: Models) -> Caching:
    """Build the cache, with its store if it has one. Opens no connection.

    Raises:
        ConfigError: the verifier cannot be loaded, or the calibration table was made with other models.
    """
    from router.cache.cache import Cache
    from router.cache.operations import CacheOperations
    from router.cache.rejections import Rejections
    from router.cache.stores.sync import StoreSync
    from router.cache.verifier import CHECKS_VERSION, Verifier
    from router.inference.bundle import MODEL

    second = score = None
    bundle = models.bundle
    if config.verifier:
        from router.inference.bundle import Bundle
        from router.inference.cross_encoder import CrossEncoder

        second = Bundle.load(config.verifier)
        score = CrossEncoder(second, models.passes).score
    _check_calibration(config, bundle.sha256[MODEL], second.sha256[MODEL] if second else None)
    versions = f"{bundle.name}-{bundle.sha256[MODEL][:16]}/{CHECKS_VERSION}"
    store = STORES[config.backend](config, versions) if config.backend != "memory" else None
    store_sync, requests = (StoreSync(store, config.sync), store.requests) if store else (None, None)
    rejections = Rejections(config.rejections_file)
    verifier = Verifier(score)
    conversations = verifier.conversations if score else None
    cache = Cache(
        config.limits, models.encoder.encode, verifier, store_sync, rejections=rejections, verify_conversations=conversations
    )
    return Caching(cache, CacheOperations(cache, versions), config, versions, requests)


def _check_calibration(config: CacheConfig, encoder: str, verifier: str | None) -> None:
    """Refuse a calibration table that was made with other models. `encoder` and `verifier` are SHA-256 digests."""
    if not config.calibration.has_verifier and all(
        cache_policy.max_false_hit_rate is None for cache_policy in config.policies.values()
    ):
        return
    table = json.loads(read_text(config.calibration.file))
    if table["encoder_sha256"] == encoder and (verifier is None or table["verifier_sha256"] == verifier):
        return
    message = (
        "was made with other models than signals.encoder.model_path and semantic_cache.verifier.model_path name; make a new one "
        "with `semantic-router calibrate cache`, or set semantic_cache.verifier.enabled to false and remove max_false_hit_rate"
    )
    raise ConfigError([Problem("config", 0, "semantic_cache.calibration", message)])
