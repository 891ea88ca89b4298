"""The second model: it reads two questions together and gives the probability that one answer fits both."""

from __future__ import annotations

import numpy as np

from router.errors import BackendError
from router.inference.bundle import MODEL, TOKENIZER, Bundle
from router.inference.pool import FAILURES, InferencePool, open_session
from router.inference.tokens import PairTokenizer


class CrossEncoder:
    """Scores pairs of questions; one instance serves all requests of a process."""

    def __init__(self, bundle: Bundle, passes: InferencePool) -> None:
        self._session = open_session(bundle.folder / MODEL)
        self._reader = PairTokenizer(bundle.folder / TOKENIZER, bundle.max_tokens)
        self._passes = passes
        self.run("warm up", "warm up")  # the first pass allocates memory, which would delay the first request

    async def score(self, asked: str, stored: str) -> float:
        """Probability, 0 to 1, that the answer to `stored` answers `asked`.

        Raises:
            BackendError: `overloaded`, `closed`, `model_failed`, or as `PairTokenizer.read` does.
        """
        return await self._passes.submit(lambda: self.run(asked, stored))

    def run(self, asked: str, stored: str) -> float:
        """One pass in the calling thread. Raises as `score` does."""
        ids, kinds = (part[np.newaxis] for part in self._reader.read(asked, stored))
        try:
            (same,) = self._session.run(None, {"ids": ids, "mask": np.ones_like(ids), "kinds": kinds})
        except FAILURES:
            raise BackendError("model_failed") from None
        return float(same[0])
