"""The one encoder pass of a request: text in, every output out, off the event loop, within bounds."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from router.errors import BackendError, ConfigError, Problem
from router.inference.bundle import MODEL, TOKENIZER, Bundle
from router.inference.forms import with_patterns
from router.inference.pool import FAILURES, CoalescingMemo, CoalescingSteps, InferencePool, Steps, open_session, to_end
from router.inference.spans import Span, spans_of
from router.inference.tokens import NARROW, NARROW_A_WIDE, WINDOW_CHARS, Tokens, WindowTokenizer

_MOST_REMEMBERED = 1024  # about 8 KB each; agent loops send the same last user message again and again
_SPECIAL_TOKENS = 2
_OUTPUTS = ("vector", "layers", "intent", "outcomes", "attack", "personal")


@dataclass(frozen=True, slots=True)
class Encoding:
    """Everything that one pass gives. What the model has no output for is empty."""

    vector: NDArray[np.float32]
    """(384,) float32, unit length."""
    layers: NDArray[np.float32]
    """(1536,) float32, unit length: the vectors of the last four layers, for operators' own heads; of a model that does not give
    them, `vector`."""
    intent: NDArray[np.float32]
    """(labels,) float32, calibrated; they sum to 1."""
    outcomes: NDArray[np.float32]
    """(models,) float32: each recorded model's chance of a right answer."""
    attack: NDArray[np.float32]
    """(attacks,) float32, harmless first; they sum to 1."""
    spans: tuple[Span, ...]
    """Personal data in the text, as far as the model tells it."""
    token_count: int
    is_truncated: bool
    """Only the start and the end of the text were read."""


@dataclass(frozen=True, slots=True)
class Attack:
    """What a whole text tries."""

    chances: NDArray[np.float32]
    """(attacks,) float32, harmless first, of the window that looks least harmless."""
    is_complete: bool
    """Every token was read; else only the first windows and the last one."""


@dataclass(frozen=True, slots=True)
class Personal:
    """The personal data in a whole text."""

    spans: tuple[Span, ...]
    is_complete: bool
    """As of `Attack`."""


Window = tuple[str, Tokens]
"""What one pass reads: a text and its tokens."""


class Encoder:
    """Encodes texts. Equal texts under way share a pass, and recent texts are remembered by a digest."""

    def __init__(self, bundle: Bundle, passes: InferencePool, max_windows: int = 16) -> None:
        self._session = open_session(bundle.folder / MODEL)
        given = {output.name for output in self._session.get_outputs()}
        called = {name: bundle.outputs.get(name, name) for name in _OUTPUTS}
        self._outputs = {name: output for name, output in called.items() if output in given}
        self._reader = WindowTokenizer(bundle.folder / TOKENIZER, bundle.max_tokens)
        self._max_windows, self.kinds = max_windows, bundle.kinds
        # Not the bound methods: tests put others in their place.
        self._encode = CoalescingMemo(passes, lambda text: self.run(text), _MOST_REMEMBERED)
        most_chars = max_windows * WINDOW_CHARS
        self._attack = CoalescingSteps(passes, lambda text: self.attack_steps(text), _MOST_REMEMBERED, most_chars)
        self._personal = CoalescingSteps(passes, lambda text: self.personal_steps(text), _MOST_REMEMBERED, most_chars)
        first = self.run("warm up")  # allocates; no request should pay for it
        counts = {"labels": first.intent, "models": first.outcomes, "attacks": first.attack}
        for key, named in (("labels", bundle.labels), ("models", bundle.models), ("attacks", bundle.attacks)):
            if len(counts[key]) != len(named):
                message = f"names {len(named)} {key}, but the model gives {len(counts[key])} probabilities for them"
                raise ConfigError([Problem(str(bundle.folder / "manifest.json"), 0, key, message)])

    async def encode(self, text: str) -> Encoding:
        """The encoding of `text`, of a long one of its start and its end.

        Raises:
            BackendError: `no_text` when there is nothing to read, `overloaded` when too many passes wait, `model_failed`.
        """
        return await self._encode(text)

    async def attack(self, text: str) -> Attack:
        """What `text` tries anywhere: of a short text by the pass that tells everything else, too. Raises as `encode` does."""
        encoding = await self._encode(text)
        if not encoding.is_truncated and encoding.token_count <= NARROW + _SPECIAL_TOKENS:
            return Attack(encoding.attack, is_complete=True)
        return await self._attack(text)

    async def personal(self, text: str) -> Personal:
        """The personal data anywhere in `text`: likewise, if one pass reads all of it. Raises as `encode` does."""
        encoding = await self._encode(text)
        if not encoding.is_truncated:
            return Personal(with_patterns(text, encoding.spans, self.kinds), is_complete=True)
        return await self._personal(text)

    def run(self, text: str) -> Encoding:
        """One pass in the calling thread. Raises as `encode` does."""
        return self._pass(text, self._reader.read(text))

    def run_attack(self, text: str) -> Attack:
        """All passes of `attack` in the calling thread. Raises as `encode` does."""
        return to_end(self.attack_steps(text))

    def attack_steps(self, text: str) -> Steps[Attack]:
        """The same, pass by pass."""
        windows, is_complete = self._reader.windows(text, NARROW_A_WIDE * self._max_windows, NARROW)
        chances = []
        for tokens in windows:
            yield
            chances.append(self._pass(text, tokens).attack)
        return Attack(min(chances, key=lambda some: float(some[0])), is_complete)

    def run_personal(self, text: str) -> Personal:
        """All passes of `personal` in the calling thread. Raises as `encode` does."""
        return to_end(self.personal_steps(text))

    def personal_steps(self, text: str) -> Steps[Personal]:
        """The same, pass by pass."""
        windows, is_complete = self._reader.windows(text, self._max_windows)
        spans: dict[Span, None] = {}
        for tokens in windows:
            yield
            spans |= dict.fromkeys(self._pass(text, tokens).spans)
        return Personal(with_patterns(text, spans, self.kinds), is_complete)

    def windows(self, text: str, width: int | None = None) -> list[Window]:
        """All of `text`, in the calling thread, in overlapping pieces for `run_window`; none where there is nothing to read."""
        pieces, _ = self._reader.windows(text, len(text) + 1, width)
        return [_by_itself(text, tokens) for tokens in pieces if len(tokens.ids) > _SPECIAL_TOKENS]

    def run_window(self, window: Window) -> Encoding:
        """One pass in the calling thread. Raises as `encode` does."""
        return self._pass(*window)

    def _pass(self, text: str, tokens: Tokens) -> Encoding:
        if len(tokens.ids) <= _SPECIAL_TOKENS:
            raise BackendError("no_text")
        ids = tokens.ids[np.newaxis]
        try:
            given = self._session.run(list(self._outputs.values()), {"ids": ids, "mask": np.ones_like(ids)})
        except FAILURES:
            raise BackendError("model_failed") from None
        by_name = dict(zip(self._outputs, given, strict=True))
        nothing = np.empty((1, 0), dtype=np.float32)
        vector, layers, intent, outcomes, attack = (by_name.get(name, nothing)[0] for name in _OUTPUTS[:-1])
        for part in (vector, layers, intent, outcomes, attack):
            part.flags.writeable = False  # the memo hands the same arrays to many
        if not layers.size:
            layers = vector
        spans = spans_of(text, by_name["personal"][0], tokens.offsets, self.kinds) if "personal" in by_name else ()
        return Encoding(vector, layers, intent, outcomes, attack, spans, len(tokens.ids), tokens.is_truncated)


def _by_itself(text: str, tokens: Tokens) -> Window:
    """The part of `text` that `tokens` are of, and where they stand in it."""
    start, end = tokens.offsets[1][0], tokens.offsets[-2][1]
    inside = tuple((first - start, last - start) for first, last in tokens.offsets[1:-1])
    return text[start:end], replace(tokens, offsets=((0, 0), *inside, (0, 0)))
