"""The vector index in memory, one for each namespace: a scan while it is small, a graph when it has grown.

Measured on two cores: a scan of 1,000 vectors takes 0.07 ms. With more vectors, usearch's HNSW graph is faster: 0.2 ms at
100,000. Vectors are stored as 8-bit integers. This takes 384 bytes and changes a similarity by at most 0.003.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import onnxruntime  # noqa: F401 - must come before usearch, or the process crashes (1.32 with usearch 2.26)
import usearch.index
from numpy.typing import NDArray

Vector = NDArray[np.float32]
"""(384,) float32, unit length."""
_SCALE = 127.0
_MAX_SCANNED = 1024
"""A namespace with more vectors uses a graph."""
_LINKS, _EFFORT_ADD, _EFFORT_SEARCH = 16, 64, 32
"""Parameters of usearch. With a search effort of 32, the nearest of 100,000 vectors is among the five results in 98% of cases;
with 64 in 99.7%, in twice the time."""


def quantise(vector: Vector) -> NDArray[np.int8]:
    """(n,) int8, from -127 to 127."""
    scaled: NDArray[np.int8] = np.rint(np.asarray(vector) * _SCALE).clip(-_SCALE, _SCALE).astype(np.int8)
    return scaled


class _Vectors(Protocol):
    """The vectors of one namespace. Each has a number."""

    def add(self, number: int, vector: NDArray[np.int8]) -> None: ...
    def remove(self, number: int) -> None: ...
    def search(self, vector: Vector, count: int) -> list[tuple[int, float]]: ...
    def __len__(self) -> int: ...


class _Scan:
    """A matrix that doubles its rows when it is full. The last row replaces a removed one."""

    __slots__ = ("_numbers", "_rows")

    def __init__(self, dimension: int) -> None:
        self._numbers: list[int] = []
        self._rows: NDArray[np.int8] = np.empty((0, dimension), np.int8)

    def add(self, number: int, vector: NDArray[np.int8]) -> None:
        count = len(self._numbers)
        if count == len(self._rows):
            grown = np.empty((max(1, 2 * count), len(vector)), np.int8)
            grown[:count] = self._rows[:count]
            self._rows = grown
        self._rows[count] = vector
        self._numbers.append(number)

    def remove(self, number: int) -> None:
        at, last = self._numbers.index(number), len(self._numbers) - 1
        self._numbers[at], self._rows[at] = self._numbers[last], self._rows[last]
        self._numbers.pop()

    def search(self, vector: Vector, count: int) -> list[tuple[int, float]]:
        scores = self._rows[: len(self._numbers)].astype(np.float32) @ vector / _SCALE
        best = np.argsort(-scores, kind="stable")[:count]
        return [(self._numbers[at], float(scores[at])) for at in best]

    def items(self) -> list[tuple[int, NDArray[np.int8]]]:
        """Every number with its vector."""
        return list(zip(self._numbers, self._rows, strict=False))

    def __len__(self) -> int:
        return len(self._numbers)


class _Graph:
    """A usearch index. It searches with a quantised query; the similarities are computed with the exact query."""

    __slots__ = ("_index",)

    def __init__(self, dimension: int) -> None:
        self._index = usearch.index.Index(
            ndim=dimension,
            metric="ip",
            dtype="i8",
            connectivity=_LINKS,
            expansion_add=_EFFORT_ADD,
            expansion_search=_EFFORT_SEARCH,
        )

    def add(self, number: int, vector: NDArray[np.int8]) -> None:
        self._index.add(number, vector, threads=1)

    def remove(self, number: int) -> None:
        self._index.remove(number)

    def search(self, vector: Vector, count: int) -> list[tuple[int, float]]:
        found = self._index.search(quantise(vector), count, threads=1).keys.tolist()
        scored = [(number, float(self._index.get(number).astype(np.float32) @ vector / _SCALE)) for number in found]
        return sorted(scored, key=lambda item: -item[1])

    def __len__(self) -> int:
        return len(self._index)


class VectorIndex:
    """Nearest neighbours within a namespace. Not shared between threads."""

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self._by_namespace: dict[str, _Vectors] = {}

    def add(self, namespace: str, number: int, vector: Vector) -> None:
        """Add a vector under a number that no other vector has."""
        vectors = self._by_namespace.get(namespace)
        if vectors is None:
            vectors = self._by_namespace[namespace] = _Scan(self._dimension)
        elif isinstance(vectors, _Scan) and len(vectors) >= _MAX_SCANNED:
            graph = _Graph(self._dimension)
            for known, row in vectors.items():
                graph.add(known, row)
            vectors = self._by_namespace[namespace] = graph
        vectors.add(number, quantise(vector))

    def remove(self, namespace: str, number: int) -> None:
        """Remove a vector. A namespace without vectors takes no memory."""
        vectors = self._by_namespace[namespace]
        vectors.remove(number)
        if not len(vectors):
            del self._by_namespace[namespace]

    def search(self, namespace: str, vector: Vector, count: int) -> list[tuple[int, float]]:
        """Up to `count` numbers with their cosine similarities, -1 to 1, the nearest first."""
        vectors = self._by_namespace.get(namespace)
        return vectors.search(vector, count) if vectors else []

    @property
    def sizes(self) -> Mapping[str, int]:
        """Number of vectors by namespace."""
        return {name: len(vectors) for name, vectors in self._by_namespace.items()}
