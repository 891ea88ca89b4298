"""The trained model as one int8 ONNX graph, held against the float model, and written as a bundle."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

from router.signals.bundle import FORMAT, MODEL, TOKENIZER, TRAINED_ON, digest, sha256_of
from router.signals.text import Reader
from router.training.data import LABELS
from router.training.encoder import Model

OPSET = 17
_LEAST_COSINE = 0.97  # int8 against float on real texts; measured .99, and a broken export is far below


class Served(nn.Module):
    """What is exported: vectors and calibrated probabilities from one pass."""

    def __init__(self, model: Model, temperature: float) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (n, 384) of unit length and probabilities (n, labels) that sum to 1."""
        vectors, logits = self.model(ids, mask)
        return vectors, (logits / self.temperature).softmax(-1)


def export(model: Model, temperature: float, path: Path) -> None:
    """Write the int8 graph: weights per channel, 7 bits wide so that CPUs without VNNI cannot overflow."""
    ids = torch.ones((2, 8), dtype=torch.int64)
    axes = {"ids": {0: "n", 1: "tokens"}, "mask": {0: "n", 1: "tokens"}, "vector": {0: "n"}, "probabilities": {0: "n"}}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about its own successor
        whole = str(Path(folder) / "float.onnx")
        torch.onnx.export(
            Served(model, temperature).eval(),
            (ids, torch.ones_like(ids)),
            whole,
            input_names=["ids", "mask"],
            output_names=["vector", "probabilities"],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
        quantize_dynamic(whole, str(path), per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)


def run(path: Path, texts: Sequence[str], reader: Reader) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors (n, 384) and probabilities (n, labels) of texts, one pass each, as they are served."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    outputs = []
    for text in texts:
        ids = reader.read(text).ids[np.newaxis]
        outputs.append(session.run(None, {"ids": ids, "mask": np.ones_like(ids)}))
    vectors, probabilities = (np.concatenate(part) for part in zip(*outputs, strict=True))
    return vectors, probabilities


def verify(path: Path, vectors: Tensor, texts: Sequence[str], reader: Reader) -> float:
    """Mean cosine between the int8 vectors and the float ones, 0 to 1.

    Raises:
        ValueError: a vector is further off than any sound export was measured to be.
    """
    quantised, _ = run(path, texts, reader)
    cosines = (quantised * vectors.numpy()).sum(1)
    if cosines.min() < _LEAST_COSINE - 0.07 or cosines.mean() < _LEAST_COSINE:
        raise ValueError(f"the int8 export is not the model: cosine {cosines.mean():.3f}, least {cosines.min():.3f}")
    return float(cosines.mean())


def write_bundle(folder: Path, tokenizer: bytes, trained_on: Sequence[str], facts: dict[str, Any], card: str) -> None:
    """Complete a folder that holds the model: tokenizer, digests of the training texts, model card and manifest."""
    (folder / TOKENIZER).write_bytes(tokenizer)
    (folder / TRAINED_ON).write_bytes(b"".join(sorted(set(map(digest, trained_on)))))
    (folder / "MODEL_CARD.md").write_text(card, encoding="utf-8")
    files = {
        name: {"sha256": sha256_of(folder / name), "bytes": (folder / name).stat().st_size}
        for name in (MODEL, TOKENIZER, TRAINED_ON)
    }
    manifest = {"format": FORMAT, "labels": list(LABELS), **facts, "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
