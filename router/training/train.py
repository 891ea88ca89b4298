"""Fits the model: the encoder and the intent head together, while the sentence vector stays where it was."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's own name for it

from router.signals.text import Reader
from router.training.data import LABELS, Example, epoch, vary
from router.training.encoder import Encoder, Model

SHARES = {
    "clinc150": 900,
    "banking77": 300,
    "gsm8k": 300,
    "math": 300,
    "mbpp": 400,
    "human_eval": 100,
    "commonsense_qa": 100,
}
"""Examples of each source in one epoch; what is not named is used whole. Everyday talk is there to be told apart, not learned."""
NATURAL_SHARE = 3600


@dataclass(frozen=True, slots=True)
class Recipe:
    """Every number that the result depends on."""

    seed: int = 20261123
    epochs: int = 4
    batch: int = 32
    encoder_rate: float = 1e-4
    head_rate: float = 1e-3
    warmup: float = 0.06
    """Share of the steps in which the rates rise."""
    frozen_layers: int = 1
    """Layers from below that stay as they were, with the word embeddings."""
    keep: float = 2.0
    """Weight of 1 - cosine between a text's vector and its vector before training."""
    smoothing: float = 0.05


def fit(encoder: Encoder, examples: Sequence[Example], reader: Reader, recipe: Recipe, say: Callable[[str], None]) -> Model:
    """The trained model. Same data, recipe and thread count, same weights."""
    torch.manual_seed(recipe.seed)
    chance = random.Random(recipe.seed)  # noqa: S311 - reproducible on purpose
    model = Model(encoder, len(LABELS))
    before = copy.deepcopy(model).requires_grad_(False).eval()
    for part in (encoder.words, encoder.positions, encoder.norm, *encoder.layers[: recipe.frozen_layers]):
        part.requires_grad_(False)
    shares = {**SHARES, "natural": NATURAL_SHARE}
    plan = [epoch(examples, chance, shares) for _ in range(recipe.epochs)]
    steps = sum(-(-len(part) // recipe.batch) for part in plan)
    optimizer, schedule = _optimizer(model, recipe, steps)
    model.train()
    for number, part in enumerate(plan, 1):
        loss_sum = torch.zeros(())
        batches = _batches(part, reader, recipe, chance)
        for step, (ids, mask, labels) in enumerate(batches, 1):
            vectors, logits = model(ids, mask)
            with torch.no_grad():
                targets, _ = before(ids, mask)
            drift = 1 - (vectors * targets).sum(-1).mean()
            loss = F.cross_entropy(logits, labels, label_smoothing=recipe.smoothing) + recipe.keep * drift
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            loss_sum += loss.detach()
            if step % 100 == 0:
                say(f"epoch {number}/{recipe.epochs} step {step}/{len(batches)} loss {loss_sum / step:.3f} drift {drift:.4f}")
    return model.eval()


def _optimizer(model: Model, recipe: Recipe, steps: int) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    body = [weight for weight in model.encoder.parameters() if weight.requires_grad]
    head = [*model.hidden.parameters(), *model.intent.parameters()]
    groups = [{"params": body, "lr": recipe.encoder_rate}, {"params": head, "lr": recipe.head_rate}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    rise = recipe.warmup * steps

    def factor(step: int) -> float:
        return min(step / rise, (steps - step) / (steps - rise)) if steps > rise else 1.0

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _batches(
    examples: Sequence[Example], reader: Reader, recipe: Recipe, chance: random.Random
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Batches of texts of like length, in random order: little padding, and no curriculum."""
    read = [(torch.from_numpy(reader.read(vary(example, chance)).ids), LABELS.index(example.label)) for example in examples]
    read.sort(key=lambda item: len(item[0]))
    places = [*range(0, len(read), recipe.batch), len(read)]
    batches = [_pad(read[start:end]) for start, end in pairwise(places)]
    chance.shuffle(batches)
    return batches


def _pad(items: Sequence[tuple[Tensor, int]]) -> tuple[Tensor, Tensor, Tensor]:
    ids = torch.nn.utils.rnn.pad_sequence([ids for ids, _ in items], batch_first=True)
    lengths = torch.tensor([len(ids) for ids, _ in items])
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).to(torch.int64)
    return ids, mask, torch.tensor([label for _, label in items])


@torch.no_grad()
def predict(model: Model, texts: Sequence[str], reader: Reader, batch: int = 64) -> tuple[Tensor, Tensor]:
    """Vectors (n, 384) and logits (n, labels) of texts, in their order."""
    read = [(torch.from_numpy(reader.read(text).ids), index) for index, text in enumerate(texts)]
    read.sort(key=lambda item: len(item[0]))
    vectors, logits = torch.empty(len(texts), 384), torch.empty(len(texts), len(LABELS))
    for start in range(0, len(read), batch):
        ids, mask, places = _pad(read[start : start + batch])
        vectors[places], logits[places] = model(ids, mask)
    return vectors, logits
