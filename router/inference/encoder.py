"""The encoder pass of a request: one pass over a text gives every output. It runs off the event loop. Knows no signal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from router.errors import BackendError, ConfigError, Problem
from router.inference.bundle import MODEL, TOKENIZER, Bundle
from router.inference.pool import FAILURES, CoalescingMemo, CoalescingSteps, InferencePool, Steps, open_session
from router.inference.spans import Span, spans_of
from router.inference.tokens import SPECIAL_TOKENS, WINDOW_CHARS, Tokens, WindowTokenizer

Result = TypeVar("Result")
_MAX_REMEMBERED = 1024  # about 8 KB each; agents send the same last user message many times
_VECTOR, _LAYERS = "vector", "layers"
_TOKEN_DIMENSIONS = 3  # the output of a head on tokens is (texts, tokens, labels)


@dataclass(frozen=True, slots=True)
class Encoding:
    """All outputs of one pass."""

    vector: NDArray[np.float32]
    """(384,) float32, unit length."""
    layers: NDArray[np.float32]
    """(1536,) float32, unit length: the vectors of the last four layers, for operators' own heads. `vector` if the model lacks
    this output."""
    scores: Mapping[str, NDArray[np.float32]]
    """By head on texts: (labels,) float32, probabilities in the order of the manifest's labels."""
    spans: Mapping[str, tuple[Span, ...]]
    """By head on tokens: the spans that it marks in the text."""
    token_count: int
    is_truncated: bool
    """Only the start and the end of the text were read."""


Window = tuple[str, Tokens]
"""The input of one pass: a text and its tokens."""


class Encoder:
    """Encodes texts. Concurrent calls with equal texts share a pass, and recent results are remembered by the text's digest."""

    def __init__(self, bundle: Bundle, passes: InferencePool, max_windows: int = 16) -> None:
        """`max_windows`: how many windows of one text are read at most."""
        self.max_windows = max_windows
        self._session = open_session(bundle.folder / MODEL)
        dimensions = {output.name: len(output.shape) for output in self._session.get_outputs()}
        called = {name: bundle.outputs.get(name, name) for name in (_VECTOR, _LAYERS, *bundle.heads)}
        self._outputs = {name: output for name, output in called.items() if output in dimensions}
        self._kinds = {
            name: bundle.heads[name]
            for name, output in self._outputs.items()
            if name in bundle.heads and dimensions[output] == _TOKEN_DIMENSIONS
        }
        self._reader = WindowTokenizer(bundle.folder / TOKENIZER, bundle.max_tokens)
        self._passes = passes
        # A lambda, so that tests can replace the method.
        self._encode = CoalescingMemo(passes, lambda text: self.run(text), _MAX_REMEMBERED)
        first = self.run("warm up")  # the first pass allocates memory, which would delay the first request
        for name, labels in bundle.heads.items():
            given = len(labels) if name in self._kinds else len(first.scores.get(name, ()))
            if given != len(labels):
                message = f"names {len(labels)} labels for the head '{name}', but the model gives {given} probabilities"
                raise ConfigError([Problem(str(bundle.folder / "manifest.json"), 0, name, message)])

    async def encode(self, text: str) -> Encoding:
        """The encoding of `text`. Of a long text only the start and the end are read.

        Raises:
            BackendError: `no_text` when the text has no tokens, `overloaded` when too many passes wait, `model_failed`.
        """
        return await self._encode(text)

    def in_windows(self, begin: Callable[[str], Steps[Result]]) -> CoalescingSteps[Result]:
        """Work on whole texts with one step for each window of `cut`. It takes turns with other work and is remembered."""
        return CoalescingSteps(self._passes, begin, _MAX_REMEMBERED, self.max_windows * WINDOW_CHARS)

    def run(self, text: str) -> Encoding:
        """One pass in the calling thread. Raises as `encode` does."""
        return self.run_window((text, self._reader.read(text)))

    def cut(self, text: str, max_windows: int, width: int | None = None) -> tuple[list[Window], bool]:
        """`text` in overlapping windows for `run_window`, and whether they cover all of it.

        `max_windows` and `width` are those of `WindowTokenizer.windows`. The spans of these windows are places in `text`.
        """
        pieces, is_complete = self._reader.windows(text, max_windows, width)
        return [(text, tokens) for tokens in pieces], is_complete

    def windows(self, text: str, width: int | None = None) -> list[Window]:
        """All of `text` in overlapping windows, each with its own part of the text. Windows without tokens are left out."""
        pieces, _ = self._reader.windows(text, len(text) + 1, width)
        return [_by_itself(text, tokens) for tokens in pieces if len(tokens.ids) > SPECIAL_TOKENS]

    def run_window(self, window: Window) -> Encoding:
        """One pass in the calling thread. Raises as `encode` does."""
        text, tokens = window
        if len(tokens.ids) <= SPECIAL_TOKENS:
            raise BackendError("no_text")
        ids = tokens.ids[np.newaxis]
        try:
            given = self._session.run(list(self._outputs.values()), {"ids": ids, "mask": np.ones_like(ids)})
        except FAILURES:
            raise BackendError("model_failed") from None
        scores = {name: output[0] for name, output in zip(self._outputs, given, strict=True)}
        spans = {name: spans_of(text, scores.pop(name), tokens.offsets, kinds) for name, kinds in self._kinds.items()}
        for part in scores.values():
            part.flags.writeable = False  # the memo gives the same arrays to several callers
        vector = scores.pop(_VECTOR)
        return Encoding(vector, scores.pop(_LAYERS, vector), scores, spans, len(tokens.ids), tokens.is_truncated)


def _by_itself(text: str, tokens: Tokens) -> Window:
    """The part of `text` that `tokens` cover, with the tokens' offsets relative to that part."""
    start, end = tokens.offsets[1][0], tokens.offsets[-2][1]
    inside = tuple((first - start, last - start) for first, last in tokens.offsets[1:-1])
    return text[start:end], replace(tokens, offsets=((0, 0), *inside, (0, 0)))
