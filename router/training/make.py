"""From data to bundle, in one go: fit, calibrate, export, verify, describe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's own name for it

from router.evaluation.intent import SCIENCES
from router.evaluation.measures import Estimate, bootstrap, share
from router.signals.bundle import MODEL, TOKENIZER, sha256_of
from router.signals.text import Reader
from router.training.card import model_card
from router.training.data import LABELS, SOURCES, Example, is_for_calibration, read
from router.training.encoder import Model, load_pretrained
from router.training.export import export, run, verify, write_bundle
from router.training.train import Recipe, fit, predict

NAME, VERSION = "minilm-intent", "1"
TRAINING_TOKENS, SERVING_TOKENS = 96, 128
_MOST_EVERYDAY_IN_SCIENCE = 0.01
_VERIFIED_TEXTS = 300


def make(data: Path, out: Path, threads: int, say: Callable[[str], None], recipe: Recipe | None = None) -> None:
    """Write a whole bundle into `out`."""
    torch.set_num_threads(threads)
    recipe = recipe or Recipe()
    out.mkdir(parents=True, exist_ok=True)
    encoder, tokenizer = load_pretrained()
    (out / TOKENIZER).write_bytes(tokenizer)
    train, held_back = read(data)
    say(f"{len(train)} texts to train on, {len(held_back)} held back")
    model = fit(encoder, train, Reader(out / TOKENIZER, TRAINING_TOKENS), recipe, say)
    reader = Reader(out / TOKENIZER, SERVING_TOKENS)
    calibration = [example for example in held_back if is_for_calibration(example.text)]
    temperature, threshold = calibrate(model, calibration, reader)
    say(f"temperature {temperature:.3f}, threshold {threshold:.2f}")
    export(model, temperature, out / MODEL)
    development = [example for example in held_back if not is_for_calibration(example.text)]
    metrics = measure(out / MODEL, model, development, reader, threshold)
    for name, estimate in metrics.items():
        say(f"{name:32} {estimate}")
    facts = {
        "name": NAME,
        "version": VERSION,
        "threshold": threshold,
        "max_tokens": SERVING_TOKENS,
        "temperature": round(temperature, 4),
        "recipe": asdict(recipe),
        "data": [
            {"file": file, "name": name, "licence": licence, "sha256": sha256_of(data / file)} for file, name, licence in SOURCES
        ],
        "metrics": {name: [round(part, 4) for part in (e.value, e.low, e.high)] for name, e in metrics.items()},
    }
    write_bundle(out, tokenizer, [example.text for example in train], facts, model_card(facts, metrics))
    say(f"wrote {out}")


def calibrate(model: Model, examples: Sequence[Example], reader: Reader) -> tuple[float, float]:
    """Temperature by maximum likelihood on exam questions, and the least threshold that keeps everyday talk out of the sciences.

    The threshold is the least of 0.40, 0.45 ... 0.90 at which at most 1% of everyday texts are confidently in a science.
    """
    exam = [example for example in examples if example.source == "mmlu_pro"]
    _, logits = predict(model, [example.text for example in exam], reader)
    truth = torch.tensor([LABELS.index(example.label) for example in exam])
    temperature = _temperature(logits, truth)
    everyday = [example.text for example in examples if example.source in ("clinc150", "banking77")]
    probabilities = (predict(model, everyday, reader)[1] / temperature).softmax(-1).numpy()
    for threshold in np.arange(0.40, 0.91, 0.05):
        if _in_science(probabilities, float(threshold)).mean() <= _MOST_EVERYDAY_IN_SCIENCE:
            break
    return temperature, round(float(threshold), 2)


def _temperature(logits: Tensor, truth: Tensor) -> float:
    scale = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([scale], max_iter=50)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(logits / scale.exp(), truth)
        value.backward()
        return value

    optimizer.step(loss)
    return float(scale.exp())


def _in_science(probabilities: Any, threshold: float) -> Any:
    sciences = [LABELS.index(name) for name in SCIENCES]
    return np.isin(probabilities.argmax(1), sciences) & (probabilities.max(1) >= threshold)


def measure(path: Path, model: Model, examples: Sequence[Example], reader: Reader, threshold: float) -> Mapping[str, Estimate]:
    """Figures of the int8 graph, as it is served, on texts that nothing was fitted to."""
    exam = [example for example in examples if example.source == "mmlu_pro"]
    texts = [example.text for example in exam]
    truth = np.array([LABELS.index(example.label) for example in exam])
    vectors, logits = predict(model, texts, reader)
    cosine = verify(path, vectors[:_VERIFIED_TEXTS], texts[:_VERIFIED_TEXTS], reader)
    float_right = int((logits.argmax(-1).numpy() == truth).sum())
    everyday = [example.text for example in examples if example.source in ("clinc150", "banking77")]
    _, talk = run(path, everyday, reader)
    taken = int(_in_science(talk, threshold).sum())
    return {
        **bootstrap(truth, run(path, texts, reader)[1].astype(np.float64)),
        "accuracy_float32": share(float_right, len(exam)),
        "everyday_in_science": share(taken, len(everyday)),
        "int8_vector_cosine": Estimate(cosine, cosine, cosine),
    }
