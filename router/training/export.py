"""Exports a trained model as one int8 ONNX graph, compares it with the float model, and writes the bundle."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

from router.inference.bundle import MODEL, TOKENIZER, TRAINED_ON, digest, sha256_of
from router.inference.manifest import FORMAT
from router.inference.pool import open_session
from router.inference.tokens import WindowTokenizer
from router.training.encoder import Model, Verifier

OPSET = 17
_TIMED, _ROUNDS = (16, 64), 60


SHARE_OF_ITS_OWN = 0.4
"""How much of a model's deviation from the other models on a question is kept in its predicted accuracy.

How hard a question is for all models is learned well; how much it suits one model is mostly noise. On held-back questions, .25
to .5 gave the best choices between a small and a large model; 0 and 1 gave worse ones.
"""


@dataclass(frozen=True, slots=True)
class Calibration:
    """The changes to logits that make probabilities calibrated."""

    intent: float = 1.0
    outcomes: float = 1.0
    """Temperatures, by which logits are divided."""
    means: tuple[float, ...] = ()
    """Each recorded model's mean logit."""
    complexity: float = 1.0
    """A temperature, too."""
    cacheability: tuple[tuple[float, float], ...] = ((1.0, 0.0),) * 3
    """Scale and shift of each class's logit."""

    def storable(self, cacheability: Tensor) -> Tensor:
        """The probability (n, 3) of each of `CLASSES` from the logits (n, 3)."""
        scales, shifts = torch.tensor(self.cacheability).T
        return (cacheability * scales + shifts).sigmoid()

    def predicted_accuracy(self, outcomes: Tensor) -> Tensor:
        """The predicted accuracy (n, models) from the logits (n, models)."""
        means = torch.tensor(self.means) if self.means else outcomes.new_zeros(outcomes.shape[-1])
        above = outcomes - means
        common = above.mean(-1, keepdim=True)
        return ((means + common + SHARE_OF_ITS_OWN * (above - common)) / self.outcomes).sigmoid()


_MIN_COSINE = 0.97  # between int8 and float on real texts; measured .99, and a broken export is far below


OUTPUTS = ("vector", "layers", "intent", "outcomes", "attack", "personal", "cacheability", "complexity")
"""The graph's outputs, in order; see `Outputs`."""
_AXES = {0: "n", 1: "tokens"}


class Served(nn.Module):
    """The exported model: one pass gives the vector and the calibrated probabilities of every head."""

    def __init__(self, model: Model, calibration: Calibration) -> None:
        super().__init__()
        self.model = model
        self.calibration = calibration

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """In the order of `OUTPUTS`; `personal` is (n, tokens, 2 * kinds + 1)."""
        found = self.model(ids, mask)
        return (
            found.vector,
            found.layers,
            (found.intent / self.calibration.intent).softmax(-1),
            self.calibration.predicted_accuracy(found.outcomes),
            found.attack.softmax(-1),
            found.personal.softmax(-1),
            self.calibration.storable(found.cacheability),
            (found.complexity / self.calibration.complexity).softmax(-1),
        )


class ServedVerifier(nn.Module):
    """The probability that one answer fits both questions."""

    def __init__(self, model: Verifier, scale: float, shift: float) -> None:
        super().__init__()
        self.model, self.scale, self.shift = model, scale, shift

    def forward(self, ids: Tensor, mask: Tensor, kinds: Tensor) -> Tensor:
        """Probabilities (n,) of pairs."""
        return (self.model(ids, mask, kinds) * self.scale + self.shift).sigmoid()


def export(model: Model, calibration: Calibration, path: Path) -> Mapping[int, float]:
    """Write the int8 graph. Returns how many times faster than the float graph it is, by number of tokens."""
    ids = torch.ones((2, 8), dtype=torch.int64)
    axes = {name: {0: "n"} for name in OUTPUTS} | {"ids": _AXES, "mask": _AXES, "personal": _AXES}
    return _write(Served(model, calibration), (ids, torch.ones_like(ids)), ["ids", "mask"], OUTPUTS, axes, path)


def export_verifier(model: Verifier, scale: float, shift: float, path: Path) -> None:
    """Write the verifier's int8 graph."""
    ids = torch.ones((2, 8), dtype=torch.int64)
    kinds = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]] * 2)
    axes = {"ids": _AXES, "mask": _AXES, "kinds": _AXES, "same": {0: "n"}}
    names = ["ids", "mask", "kinds"]
    _write(ServedVerifier(model, scale, shift), (ids, torch.ones_like(ids), kinds), names, ("same",), axes, path)


def _write(
    model: nn.Module, inputs: tuple[Tensor, ...], names: Sequence[str], outputs: Sequence[str],
    axes: Mapping[str, Mapping[int, str]], path: Path,
) -> Mapping[int, float]:  # fmt: skip
    """Quantise weights per channel, to 7 bits, so that CPUs without VNNI cannot overflow."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its successor
        whole = str(Path(folder) / "float.onnx")
        torch.onnx.export(
            model.eval(), inputs, whole, input_names=list(names), output_names=list(outputs), dynamic_axes=axes,
            opset_version=OPSET, dynamo=False,
        )  # fmt: skip
        quantize_dynamic(whole, str(path), per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)
        return {tokens: _times_faster(path, Path(whole), names, tokens) for tokens in _TIMED}


def _times_faster(one: Path, other: Path, names: Sequence[str], tokens: int) -> float:
    """The other graph's median time divided by this one's. Both use one thread and take turns."""
    sessions = (open_session(one), open_session(other))
    feed = {name: np.ones((1, tokens), dtype=np.int64) for name in names}
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(_ROUNDS):
        for session, taken in zip(sessions, times, strict=True):
            began = time.perf_counter()
            session.run(None, feed)
            taken.append(time.perf_counter() - began)
    return statistics.median(times[1]) / statistics.median(times[0])


def run(path: Path, texts: Sequence[str], reader: WindowTokenizer) -> dict[str, NDArray[np.float32]]:
    """The outputs of texts by name, one pass each, as they are served; `personal` is left out."""
    session = open_session(path)
    names = [name for name in OUTPUTS if name != "personal"]
    found = []
    for text in texts:
        ids = reader.read(text).ids[np.newaxis]
        found.append(session.run(names, {"ids": ids, "mask": np.ones_like(ids)}))
    return {name: np.concatenate(part) for name, part in zip(names, zip(*found, strict=True), strict=True)}


def verify(path: Path, vectors: Tensor, texts: Sequence[str], reader: WindowTokenizer) -> float:
    """Mean cosine between the int8 vectors and the float ones, 0 to 1.

    Raises:
        ValueError: a vector differs more than in any sound export.
    """
    cosines = (run(path, texts, reader)["vector"] * vectors.numpy()).sum(1)
    if cosines.min() < _MIN_COSINE - 0.07 or cosines.mean() < _MIN_COSINE:
        raise ValueError(f"the int8 export is not the model: cosine {cosines.mean():.3f}, least {cosines.min():.3f}")
    return float(cosines.mean())


def provenance(data: Path, sources: Sequence[tuple[str, str, str]], without: frozenset[str]) -> dict[str, object]:
    """The manifest's fields on the data: file, name, licence and SHA-256 of each used source, and the names of those left out."""
    used = (source for source in sources if source[0].partition("/")[0] not in without)
    return {
        "data": [
            {"file": file, "name": name, "licence": licence, "sha256": sha256_of(data / file)} for file, name, licence in used
        ],
        "without": sorted(without),
    }


def write_bundle(
    folder: Path, tokenizer: bytes, trained_on: Sequence[str], labels: Sequence[str], facts: dict[str, object], card: str
) -> None:
    """Complete a folder that holds the model: tokenizer, digests of the training texts, model card and manifest."""
    (folder / TOKENIZER).write_bytes(tokenizer)
    (folder / TRAINED_ON).write_bytes(b"".join(sorted(set(map(digest, trained_on)))))
    (folder / "MODEL_CARD.md").write_text(card, encoding="utf-8")
    files = {
        name: {"sha256": sha256_of(folder / name), "bytes": (folder / name).stat().st_size}
        for name in (MODEL, TOKENIZER, TRAINED_ON)
    }
    manifest = {"format": FORMAT, "labels": list(labels), **facts, "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
