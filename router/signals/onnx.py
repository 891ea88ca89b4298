"""The one encoder pass of a request: text in, sentence vector and probabilities out, off the event loop, within bounds."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from router.errors import BackendError, ConfigError, Problem
from router.signals.bundle import MODEL, TOKENIZER, Bundle
from router.signals.text import Reader

_FAILURES = tuple(
    getattr(onnxruntime.capi.onnxruntime_pybind11_state, name)
    for name in ("Fail", "InvalidArgument", "InvalidGraph", "RuntimeException", "EPFail", "EngineError", "NotImplemented")
)
"""What a session raises; these share no base class of their own."""
_MEMO_ENTRIES = 1024  # about 2 KB each; agent loops send the same last user message again and again
_SPECIAL_TOKENS = 2


@dataclass(frozen=True, slots=True)
class Encoding:
    """Everything that one pass gives."""

    vector: NDArray[np.float32]
    """(384,) float32, unit length."""
    probabilities: NDArray[np.float32]
    """(labels,) float32, calibrated; they sum to 1."""
    token_count: int
    is_truncated: bool
    """Only the start and the end of the text were read."""


class Encoder:
    """Runs passes in `threads` threads, one thread a pass: on CPUs two half-speed passes beat one shared one.

    Equal texts under way share a pass, and recent texts are remembered by a digest. More than `max_waiting` passes at once,
    running ones included, are refused: a late reading is worth nothing.
    """

    def __init__(self, bundle: Bundle, threads: int, max_waiting: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        path = str(bundle.folder / MODEL)
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._reader = Reader(bundle.folder / TOKENIZER, bundle.max_tokens)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="encoder")
        self._max_waiting = max_waiting
        self._memo: OrderedDict[bytes, Encoding] = OrderedDict()
        self._under_way: dict[bytes, asyncio.Future[Encoding]] = {}
        first = self.run("warm up")  # allocates; no request should pay for it
        if len(first.probabilities) != len(bundle.labels):
            message = f"names {len(bundle.labels)} labels, but the model gives {len(first.probabilities)} probabilities"
            raise ConfigError([Problem(str(bundle.folder / "manifest.json"), 0, "labels", message)])

    async def encode(self, text: str) -> Encoding:
        """The encoding of `text`.

        Raises:
            BackendError: `no_text` when there is nothing to read, `overloaded` when too many passes wait, `model_failed`.
        """
        key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if found := self._memo.get(key):
            self._memo.move_to_end(key)
            return found
        future = self._under_way.get(key)
        if future is None:
            if len(self._under_way) >= self._max_waiting:
                raise BackendError("overloaded")
            try:
                future = asyncio.get_running_loop().run_in_executor(self._pool, self.run, text)
            except RuntimeError:  # the pool was closed while this request was under way
                raise BackendError("closed") from None
            self._under_way[key] = future
            future.add_done_callback(lambda done: self._settle(key, done))
        # Shielded: a caller that gives up must not take the pass away from the others, nor from the memo.
        return await asyncio.shield(future)

    def run(self, text: str) -> Encoding:
        """One pass in the calling thread. Raises as `encode` does."""
        tokens = self._reader.read(text)
        if len(tokens.ids) <= _SPECIAL_TOKENS:
            raise BackendError("no_text")
        ids = tokens.ids[np.newaxis]
        try:
            vector, probabilities = self._session.run(None, {"ids": ids, "mask": np.ones_like(ids)})
        except _FAILURES:
            raise BackendError("model_failed") from None
        vector.flags.writeable = probabilities.flags.writeable = False  # the memo hands the same arrays to many
        return Encoding(vector[0], probabilities[0], len(tokens.ids), tokens.is_truncated)

    def close(self) -> None:
        """Forget what waits; a pass under way ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _settle(self, key: bytes, done: asyncio.Future[Encoding]) -> None:
        del self._under_way[key]
        if done.cancelled() or done.exception():
            return
        self._memo[key] = done.result()
        if len(self._memo) > _MEMO_ENTRIES:
            self._memo.popitem(last=False)
