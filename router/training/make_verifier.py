"""Makes the verifier's bundle from the data: mine pairs, train, calibrate, export, measure, describe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from router.errors import BackendError
from router.evaluation.measures import recall_at_precision, roc_area
from router.inference.bundle import MODEL, TOKENIZER, Bundle
from router.inference.cross_encoder import CrossEncoder
from router.inference.pool import InferencePool
from router.inference.tokens import PairTokenizer
from router.training.card import verifier_card
from router.training.checkpoints import Checkpoints
from router.training.encoder import Verifier, load_pretrained
from router.training.export import export_verifier, provenance, write_bundle
from router.training.figures import logistic
from router.training.pairs import SOURCES, Pair, development, intents, labelled, of_cases, of_groups
from router.training.prompts import Group, read_conversations, read_groups
from router.training.train import mean_vector
from router.training.verifier import Batches, Data, Recipe, fit, mined, scores

NAME, VERSION = "minilm-verifier", "2"
_MAX_LOST = 0.02  # ROC area lost to int8; measured .002, and a broken export loses far more


def make(data: Path, out: Path, threads: int, without: frozenset[str], say: Callable[[str], None]) -> None:
    """Write a whole bundle into `out`. `without` names the data sets that are left out, by folder."""
    torch.set_num_threads(threads)
    recipe = Recipe()
    out.mkdir(parents=True, exist_ok=True)
    encoder, tokenizer = load_pretrained()
    (out / TOKENIZER).write_bytes(tokenizer)
    batches = Batches(out / TOKENIZER, recipe.max_tokens)
    pairs, held_back = labelled(data, without)
    said = intents(data, without)
    pairs += mined(said, _vectors(encoder, [text for text, _ in said], batches))
    groups, cases = read_groups(data), read_conversations(data)
    known = [group for group in groups if not group.is_held_back]
    texts = [text for text, _ in said] + [line.text for group in known for line in (*group.same, *group.different)]
    learnt = Data(known, [case for case in cases if not case.is_held_back], pairs, texts)
    say(f"{len(pairs)} pairs, {len(known)} groups and {len(learnt.cases)} conversations to train on")

    def checkpoints(seed: int) -> Checkpoints:
        return Checkpoints(out / f"training-{seed}.pt", (recipe, learnt), say)

    model = fit(learnt, batches, recipe, checkpoints, say)
    facts: dict[str, object] = {
        "name": NAME,
        "version": VERSION,
        "max_tokens": recipe.max_tokens,
        "recipe": asdict(recipe),
        **provenance(data, SOURCES, without),
    }
    sets = {
        **development(held_back),
        "groups": of_groups([group for group in groups if group.is_held_back and not group.is_for_calibration]),
        "conversations": of_cases([case for case in cases if case.is_held_back]),
    }
    calibrating = of_groups([group for group in groups if group.is_held_back and group.is_for_calibration])
    finish(model, out, learnt, calibrating, sets, tokenizer, batches, facts, say)
    for seed in recipe.seeds:
        checkpoints(seed).remove()


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
    model: Verifier, out: Path, learnt: Data, calibrating: Sequence[Pair], sets: dict[str, list[Pair]], tokenizer: bytes,
    batches: Batches, facts: dict[str, object], say: Callable[[str], None],
) -> None:  # fmt: skip
    """Calibrate a trained verifier on some pairs, export it, measure it on `sets` and describe it; its figures join `facts`."""
    logits = torch.tensor(scores(model, calibrating, batches))
    scale, shift = logistic(logits, torch.tensor([pair.same for pair in calibrating]))
    say(f"probability = sigmoid({scale:.3f} * logit {shift:+.3f})")
    export_verifier(model, scale, shift, out / MODEL)
    trained_on = [f"{pair.asked}\n{pair.stored}" for pair in learnt.pairs]
    trained_on += [f"{one}\n{other}" for group in learnt.groups for one, other in _pairs_of(group)]
    write_bundle(out, tokenizer, trained_on, ("same",), facts, "")  # whole enough to be served, and so measured
    metrics = measure(out, model, sets, batches)
    for name, figures in metrics.items():
        say(f"{name:13} " + "  ".join(f"{figure} {value:.4f}" for figure, value in figures.items()))
    facts["metrics"] = metrics
    write_bundle(out, tokenizer, trained_on, ("same",), facts, verifier_card(facts))
    say(f"wrote {out}")


def _pairs_of(group: Group) -> Iterator[tuple[str, str]]:
    """The pairs of a group that an evaluation would hold: the anchor with each other prompt, in both orders."""
    anchor, *others = [line.text for line in (*group.same, *group.different)]
    for other in others:
        yield anchor, other
        yield other, anchor


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
