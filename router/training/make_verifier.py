"""Makes the verifier's bundle from the data: mine pairs, train, calibrate, export, measure, describe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812 - the field's own name for it

from router.errors import BackendError
from router.evaluation.measures import recall_at_precision, roc_area
from router.inference.bundle import MODEL, TOKENIZER, Bundle
from router.inference.cross_encoder import CrossEncoder
from router.inference.manifest import BundleManifest
from router.inference.pool import InferencePool
from router.inference.tokens import PairTokenizer
from router.training.card import verifier_card
from router.training.encoder import Verifier, load_pretrained
from router.training.export import export_verifier, provenance, write_bundle
from router.training.pairs import SOURCES, Pair, development, intents, labelled
from router.training.train import mean_vector
from router.training.verifier import Batches, Recipe, fit, mined, scores

QUORA = frozenset({"gptcache_qqp", "synth_guard"})
"""The data sets with Quora's texts."""
NAME, VERSION = "minilm-verifier", "1"
_MAX_LOST = 0.02  # ROC area lost to int8; measured .002, and a broken export loses far more


def make(data: Path, out: Path, threads: int, without: frozenset[str], say: Callable[[str], None]) -> None:
    """Write a whole bundle into `out`. `without` names the data sets that are left out, by folder."""
    torch.set_num_threads(threads)
    recipe = Recipe()
    out.mkdir(parents=True, exist_ok=True)
    encoder, tokenizer = load_pretrained()
    (out / TOKENIZER).write_bytes(tokenizer)
    batches = Batches(out / TOKENIZER, recipe.max_tokens)
    train, held_back = labelled(data, without)
    said = intents(data, without)
    train += mined(said, _vectors(encoder, [text for text, _ in said], batches))
    say(f"{len(train)} pairs to train on, {len(held_back)} held back")
    model = fit(encoder, train, batches, recipe, say)
    facts: dict[str, object] = {
        "name": NAME,
        "version": VERSION,
        "max_tokens": recipe.max_tokens,
        "recipe": asdict(recipe),
        **provenance(data, SOURCES, without),
    }
    if not without:
        facts["metrics_without_quora"] = _metrics_without_quora(data, threads, say)
    finish(model, out, train, held_back, tokenizer, batches, facts, say)


def _metrics_without_quora(data: Path, threads: int, say: Callable[[str], None]) -> Mapping[str, object]:
    """The metrics of the variant without non-commercially licensed data."""
    say("the variant without Quora's texts, to tell in the card how good it is")
    with TemporaryDirectory() as folder:
        make(data, Path(folder), threads, QUORA, say)
        return BundleManifest.of(Path(folder)).metrics


def _vectors(encoder: torch.nn.Module, texts: Sequence[str], batches: Batches) -> torch.Tensor:
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    vectors = torch.empty(len(texts), 384)
    encoder.eval()
    with torch.inference_mode():
        for start in range(0, len(order), 128):
            places = order[start : start + 128]
            ids, mask, _ = batches.tensors([Pair(texts[place], "", 0.0, "") for place in places])
            vectors[places] = mean_vector(encoder, ids, mask)
    return vectors


def finish(
    model: Verifier, out: Path, train: Sequence[Pair], held_back: Sequence[Pair], tokenizer: bytes, batches: Batches,
    facts: dict[str, object], say: Callable[[str], None],
) -> None:  # fmt: skip
    """Calibrate, export, measure and describe a trained verifier; its figures join `facts`."""
    by_source = development(held_back)
    natural = by_source["qqp"]
    logits = torch.tensor(scores(model, natural, batches))
    scale, shift = _platt(logits, torch.tensor([pair.same for pair in natural]))
    say(f"probability = sigmoid({scale:.3f} * logit {shift:+.3f})")
    export_verifier(model, scale, shift, out / MODEL)
    trained_on = [f"{pair.asked}\n{pair.stored}" for pair in train]
    write_bundle(out, tokenizer, trained_on, ("same",), facts, "")  # whole enough to be served, and so measured
    metrics = measure(out, model, by_source, batches)
    for name, figures in metrics.items():
        say(f"{name:12} " + "  ".join(f"{figure} {value:.4f}" for figure, value in figures.items()))
    facts["metrics"] = metrics
    write_bundle(out, tokenizer, trained_on, ("same",), facts, verifier_card(facts))
    say(f"wrote {out}")


def measure(folder: Path, model: Verifier, sets: dict[str, list[Pair]], batches: Batches) -> dict[str, dict[str, float]]:
    """Measure how well the int8 graph ranks each set, and how much it loses against the float model.

    Pairs that the served model cannot read are left out.

    Raises:
        ValueError: the export lost more than rounding can explain.
    """
    bundle = Bundle.load(folder)
    served, reader = CrossEncoder(bundle, InferencePool(1, 1)), PairTokenizer(folder / TOKENIZER, bundle.max_tokens)
    figures: dict[str, dict[str, float]] = {}
    for name, members in sets.items():
        pairs = [pair for pair in members if _is_readable(reader, pair)]
        truth = np.array([pair.same > 0.5 for pair in pairs])
        in_int8 = np.array([served.run(pair.asked, pair.stored) for pair in pairs])
        in_float = np.array(scores(model, pairs, batches))
        area, lost = roc_area(truth, in_int8), roc_area(truth, in_float) - roc_area(truth, in_int8)
        if lost > _MAX_LOST:
            raise ValueError(f"the int8 export is not the model: on {name} it loses {lost:.3f} of the ROC area")
        figures[name] = {"pairs": float(len(pairs)), "roc_area": area, "lost_to_int8": lost} | _recalls(truth, in_int8)
    return figures


def _is_readable(reader: PairTokenizer, pair: Pair) -> bool:
    try:
        reader.read(pair.asked, pair.stored)
    except BackendError:
        return False
    return True


def _recalls(truth: NDArray[np.bool_], found: NDArray[np.float64]) -> dict[str, float]:
    return {f"recall_at_{round(100 * p)}": recall_at_precision(truth, found, p) for p in (0.90, 0.95)}


def _platt(logits: torch.Tensor, truth: torch.Tensor) -> tuple[float, float]:
    """The scale and shift that calibrate logits (Platt, 1999)."""
    scale, shift = torch.ones((), requires_grad=True), torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([scale, shift], max_iter=100)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.binary_cross_entropy_with_logits(logits * scale + shift, truth)
        value.backward()
        return value

    optimizer.step(loss)
    return round(float(scale.detach()), 4), round(float(shift.detach()), 4)
