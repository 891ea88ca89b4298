"""An operator's own model: any Hugging Face sequence- or token-classification model exported to ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from router.core.types import ChatRequest, Classification, Scores
from router.errors import BackendError, ConfigError, Problem
from router.inference.manifest import ModelManifest, kind_of
from router.inference.pool import FAILURES, CoalescingSteps, InferencePool, Steps, open_session, to_end

FILES = ("model.onnx", "onnx/model.onnx", "model_quantized.onnx", "onnx/model_quantized.onnx")
"""Where exporters put the graph. The first file that exists is used."""
_OVERLAP = 32
_CHARS_A_TOKEN = 4
_MAX_REMEMBERED = 1024
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class HuggingFaceSignal:
    """A signal of the operator's own. The configuration names it. A long text is read in at most `max_windows` windows."""

    def __init__(self, name: str, folder: Path, passes: InferencePool, max_windows: int) -> None:
        self.name = name
        self._facts = ModelManifest.of(folder)
        self._tokenizer = _tokenizer(folder / "tokenizer.json", self._facts.max_tokens)
        self._max_windows = max_windows
        file = next((folder / file for file in FILES if (folder / file).is_file()), None)
        if file is None:
            raise ConfigError([Problem(str(folder), 0, "", f"holds no model; expected one of {', '.join(FILES)}")])
        try:
            self._session = open_session(file)
        except FAILURES as error:
            raise ConfigError([Problem(str(file), 0, "", f"is not a model that can be run: {str(error)[:200]}")]) from None
        self._inputs = [tensor.name for tensor in self._session.get_inputs()]
        if unknown := set(self._inputs) - set(_INPUTS):
            message = f"needs inputs that a text cannot provide: {', '.join(sorted(unknown))}"
            raise ConfigError([Problem(str(file), 0, "", message)])
        max_chars = max_windows * self._facts.max_tokens * _CHARS_A_TOKEN
        self._read = CoalescingSteps(passes, self.steps, _MAX_REMEMBERED, max_chars)
        width = self._logits(self._tokenizer.encode("warm up")).shape
        if len(width) != (2 if self._facts.is_of_tokens else 1) or width[-1] != len(self._facts.labels):
            message = f"has outputs of shape {list(width)}, which do not fit the {len(self._facts.labels)} labels in config.json"
            raise ConfigError([Problem(str(file), 0, "", message)])

    async def read(self, request: ChatRequest) -> Classification | Scores:
        """Classify the request's text.

        Raises:
            BackendError: `no_text`, `overloaded`, `closed`, `model_failed`, or `too_long` for a text of more than `max_windows`.
        """
        return await self._read(request.text)

    def run(self, text: str) -> Classification | Scores:
        """Run all passes in the calling thread. Raises as `read` does."""
        return to_end(self.steps(text))

    def steps(self, text: str) -> Steps[Classification | Scores]:
        """The same, pass by pass."""
        windows = self.windows(text)
        if not windows:
            raise BackendError("no_text")
        if len(windows) > self._max_windows:
            raise BackendError("too_long")
        logits = []
        for window in windows:
            yield
            logits.append(self._logits(window))
        return self._said(windows, logits)

    def windows(self, text: str) -> list[Encoding]:
        """All of `text` in overlapping windows; none when the text has no tokens."""
        first = self._tokenizer.encode(text.encode("utf-8", "replace").decode("utf-8"))
        has_text = text.strip() and sum(first.attention_mask) - sum(first.special_tokens_mask)
        return [first, *first.overflowing] if has_text else []

    def classify(self, windows: Sequence[Encoding]) -> Classification | Scores:
        """The joint result for windows of one text. Raises `BackendError` (`model_failed`)."""
        return self._said(windows, [self._logits(window) for window in windows])

    def _said(self, windows: Sequence[Encoding], logits: Sequence[NDArray[np.float32]]) -> Classification | Scores:
        if self._facts.is_of_tokens:
            return self._entities(np.concatenate(logits))
        if self._facts.is_multi_label:
            highest = (1 / (1 + np.exp(-np.stack(logits)))).max(axis=0)
            return Scores(dict(zip(self._facts.labels, highest.tolist(), strict=True)))
        weights = [len(window.ids) for window in windows]
        mean = np.average(_softmax(np.stack(logits)), axis=0, weights=weights)
        probabilities = dict(zip(self._facts.labels, mean.tolist(), strict=True))
        label = max(probabilities, key=probabilities.__getitem__)
        return Classification(label, probabilities[label], probabilities)

    def _entities(self, logits: NDArray[np.float32]) -> Scores:
        highest = _softmax(logits).max(axis=0)
        scores: dict[str, float] = {}
        for label, score in zip(self._facts.labels, highest.tolist(), strict=True):
            if kind := kind_of(label):
                scores[kind] = max(score, scores.get(kind, 0.0))
        return Scores(scores)

    def _logits(self, window: Encoding) -> NDArray[np.float32]:
        """The logits of one window, (labels,) or (tokens, labels) float32."""
        given = {"input_ids": window.ids, "attention_mask": window.attention_mask, "token_type_ids": window.type_ids}
        feed = {name: np.array([given[name]], dtype=np.int64) for name in self._inputs}
        try:
            return np.asarray(self._session.run(None, feed)[0][0], dtype=np.float32)
        except FAILURES:
            raise BackendError("model_failed") from None


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), dtype=np.float32)


def _tokenizer(file: Path, max_tokens: int) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # noqa: BLE001 - the library raises plain Exception for a file that it cannot read
        raise ConfigError([Problem(str(file), 0, "", f"is not a tokenizer.json: {str(error)[:200]}")]) from None
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens, stride=min(_OVERLAP, max_tokens // 4))
    return tokenizer
