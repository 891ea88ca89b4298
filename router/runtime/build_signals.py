"""From configuration to signals: which concrete ones there are, and what they stand on.

A new signal is one line in `SIGNALS`; a guard for it is one in `GUARDS`, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from router.config.load import Config
from router.core.events import ReadSignals
from router.core.prompt import is_guard, is_of_keywords, name_of_keywords, reads_of
from router.core.types import Readings, Scores
from router.inference.cores import usable_cores
from router.signals.base import Guard, Signal, collect, read_all

if TYPE_CHECKING:
    from router.inference.bundle import Bundle
    from router.inference.encoder import Encoder
    from router.inference.pool import InferencePool
    from router.signals.cuts import CutSearch


@dataclass(frozen=True, slots=True)
class SignalReader:
    """Reads the signals that an exchange asks for. Signals share one deadline, guards another."""

    signals: Mapping[str, Signal]
    deadline_s: float
    guards: Mapping[str, Guard] = field(default_factory=dict)
    """By the name of the signal, or `keywords NAME`."""
    guard_deadline_s: float = 30.0

    async def __call__(self, wanted: ReadSignals) -> Readings:
        """A reading, or `Missing`, for every wanted name."""
        own = [self.signals[name] for name in sorted(wanted.wanted) if name in self.signals]
        scans = {name: self._scan(name, wanted) for name in sorted(wanted.wanted) if name not in self.signals}
        if not scans:
            return await read_all(own, wanted.request, self.deadline_s)
        found = await asyncio.gather(read_all(own, wanted.request, self.deadline_s), collect(scans, self.guard_deadline_s))
        return {name: reading for readings in found for name, reading in readings.items()}

    def _scan(self, name: str, wanted: ReadSignals) -> Coroutine[None, None, Scores]:
        reads, signal = reads_of(name)
        if wanted.prompt is None:
            raise TypeError(f"{name} needs the prompt")
        prompt = wanted.prompt if reads == "prompt" else wanted.prompt.conversation
        return self.guards[signal].scan(prompt, wanted.request.text)


@dataclass(frozen=True, slots=True)
class Models:
    """What signals and cache use: the pool for the process's passes, and the encoder."""

    passes: InferencePool
    bundle: Bundle
    encoder: Encoder


SIGNALS: Mapping[str, Callable[[Models], Signal]] = {
    "intent": lambda models: import_module("router.signals.intent").IntentSignal(models.encoder, models.bundle),
    "quality": lambda models: import_module("router.signals.quality").QualitySignal(models.encoder, models.bundle),
    "jailbreak": lambda models: import_module("router.signals.jailbreak").JailbreakSignal(models.encoder, models.bundle),
    "pii": lambda models: import_module("router.signals.pii.signal").PiiSignal(models.encoder, models.bundle),
}
"""The router's own, by name. A signal that no rule asks for is neither made nor loaded."""
GUARDS: Mapping[str, Callable[[Models, CutSearch], Guard]] = {
    "jailbreak": lambda models, across: import_module("router.signals.guards").JailbreakGuard(
        models.encoder, models.bundle, models.passes, across
    ),
    "pii": lambda models, across: import_module("router.signals.guards").PiiGuard(
        models.encoder, models.bundle, models.passes, across
    ),
}
"""The guards of the router's own signals, by the signal's name; `GUARDED_SIGNALS` in `config/conditions.py` names them, too. In a
rule that blocks, a signal without a guard reads the last user message."""


def build_passes(config: Config) -> InferencePool:
    """The pool in which all models of the process run."""
    from router.inference.pool import InferencePool

    threads, waiting = pass_threads(config), config.signals.guards
    return InferencePool(threads, config.signals.encoder.max_queue, threads * waiting.max_queue * waiting.max_chars)


def build_models(config: Config, passes: InferencePool) -> Models:
    """Load the encoder.

    Raises:
        ConfigError: its files are missing or damaged.
    """
    from router.inference.bundle import Bundle
    from router.inference.encoder import Encoder

    bundle = Bundle.load(config.signals.encoder.model_path)
    return Models(passes, bundle, Encoder(bundle, passes, config.signals.encoder.max_chunks))


def needs_encoder(config: Config) -> bool:
    """Whether some rule uses a signal other than keywords."""
    return not all(is_of_keywords(name) for name in config.policy.signals)


def build_signals(config: Config, passes: InferencePool | None, models: Models | None) -> SignalReader:
    """Build the signals and guards that rules use, and no others. `passes` and `models` are None if no rule needs them.

    Raises:
        ConfigError: an operator's own model cannot be loaded.
    """
    wanted = config.policy.signals
    guarded = frozenset(reads_of(name)[1] for name in wanted if is_guard(name))
    folders = {name: signal.folder for name, signal in config.signals.custom.items() if name in wanted | guarded}
    own = _own_signals(folders, models) if models else {}
    signals = {name: make(models) for name, make in SIGNALS.items() if name in wanted} if models else {}
    signals |= {name: signal for name, signal in own.items() if name in wanted}
    guards = _guards(guarded, config, passes, models, own) if passes and guarded else {}
    return SignalReader(signals, config.signals.deadline_ms / 1000, guards, config.signals.guards.deadline_ms / 1000)


def pass_threads(config: Config) -> int:
    """How many threads a worker uses for model passes: the configured number, else its share of the usable cores, at least 1."""
    return config.server.threads or max(1, usable_cores() // config.server.workers)


def _own_signals(folders: Mapping[str, Path], models: Models) -> dict[str, Signal]:
    """The operator's own signals: heads on the encoder's vectors, and exported models."""
    from router.inference.manifest import HeadManifest, facts_of
    from router.signals.own.head import Head, HeadSignal
    from router.signals.own.huggingface import HuggingFaceSignal

    made: dict[str, Signal] = {}
    for name, folder in folders.items():
        if isinstance(facts_of(folder), HeadManifest):
            made[name] = HeadSignal(name, models.encoder, Head.load(folder, models.bundle))
        else:
            made[name] = HuggingFaceSignal(name, folder, models.passes, models.encoder.max_windows)
    return made


def _guards(
    wanted: frozenset[str], config: Config, passes: InferencePool, models: Models | None, own: Mapping[str, Signal]
) -> dict[str, Guard]:
    """The guards of blocking rules."""
    from router.core.text.encodings import stretches
    from router.signals.cuts import CutSearch
    from router.signals.guards import HuggingFaceGuard, KeywordGuard
    from router.signals.own.huggingface import HuggingFaceSignal

    across = CutSearch(passes, stretches)
    made: dict[str, Guard] = {
        name: HuggingFaceGuard(signal, passes, across)
        for name, signal in own.items()
        if name in wanted and isinstance(signal, HuggingFaceSignal)
    }
    for name, words in config.keywords.items():
        if (signal := name_of_keywords(name)) in wanted:
            made[signal] = KeywordGuard(name, words.patterns, passes, across)
    if models:
        made |= {name: make(models, across) for name, make in GUARDS.items() if name in wanted}
    return made
