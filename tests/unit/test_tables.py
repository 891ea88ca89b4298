"""The tables that a new store, signal or selector is one line of name what operators may write, and nothing else."""

from __future__ import annotations

import dataclasses

from router.config.cache import BACKENDS
from router.config.conditions import BUILT_IN_SIGNALS, GUARDED_SIGNALS
from router.config.rules import SELECTORS, SelectKeys
from router.runtime.build_cache import STORES
from router.runtime.build_signals import GUARDS, SIGNALS


def test_every_backend_but_memory_is_a_store() -> None:
    """And every store has a word in `backend_type`."""
    assert set(BACKENDS.values()) - {"memory"} == set(STORES)


def test_every_signal_is_reserved() -> None:
    """An operator's own of the same name would take its place."""
    assert set(BUILT_IN_SIGNALS) == set(SIGNALS)


def test_every_guard_is_of_a_signal_that_rules_hand_to_it() -> None:
    """Otherwise a blocking rule would read the last user message alone, or fail for want of its guard."""
    assert set(GUARDED_SIGNALS) == set(GUARDS)
    assert set(GUARDS) <= set(SIGNALS)


def test_every_selector_is_asked_for_by_a_key() -> None:
    """Of `select`."""
    assert set(SELECTORS) <= {field.name for field in dataclasses.fields(SelectKeys)}
