"""Trains the encoder and all heads together, and keeps the sentence vector close to the pretrained one."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's own name for it

from router.inference.tokens import WindowTokenizer
from router.training.data import epoch, vary
from router.training.encoder import Encoder, Model, Outputs
from router.training.examples import ATTACKS, KINDS, LABELS, NO_LABEL, Example

SHARES = {
    "clinc150": 900,
    "banking77": 300,
    "gsm8k": 300,
    "math": 300,
    "mbpp": 400,
    "human_eval": 100,
    "commonsense_qa": 100,
    "natural": 4800,
    "refilled": 2500,
    "nothing personal": 250,
    "made attack": 1300,
    "made harmless": 600,
}
"""Examples of each source in one epoch. Sources that are not named are used whole."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Every number that the result depends on."""

    seed: int = 20261123
    epochs: int = 6
    batch: int = 32
    encoder_rate: float = 1.5e-4
    head_rate: float = 1e-3
    warmup: float = 0.06
    """The share of steps in which the learning rates rise."""
    keep: float = 1.5
    """Weight of 1 - cosine between a text's vector and its vector before training."""
    smoothing: float = 0.05
    subject: float = 0.3
    outcomes: float = 0.5
    attack: float = 0.3
    personal: float = 0.5
    """Weights of the losses; the intent's is 1."""


@dataclass(frozen=True, slots=True)
class Targets:
    """The targets of a batch; `NO_LABEL` or NaN where unknown."""

    intent: Tensor
    subject: Tensor
    outcomes: Tensor
    attack: Tensor
    personal: Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    ids: Tensor
    mask: Tensor
    targets: Targets


def new_model(encoder: Encoder, subjects: int, models: int) -> Model:
    """A model with untrained heads."""
    return Model(encoder, len(LABELS), subjects, models, len(ATTACKS), len(KINDS))


def subjects_of(examples: Sequence[Example]) -> list[str]:
    """The exams of the examples, in a fixed order."""
    return sorted({example.subject for example in examples if example.subject})


def fit(
    encoder: Encoder,
    examples: Sequence[Example],
    models: int,
    reader: WindowTokenizer,
    recipe: Recipe,
    say: Callable[[str], None],
) -> Model:
    """Train the model. The same data, recipe and kind of machine give the same weights."""
    torch.manual_seed(recipe.seed)
    chance = random.Random(recipe.seed)  # noqa: S311 - reproducible on purpose
    subjects = subjects_of(examples)
    before = copy.deepcopy(encoder).requires_grad_(False).eval()
    model = new_model(encoder, len(subjects), models)
    for part in (encoder.words, encoder.positions):
        part.requires_grad_(False)
    for layer in encoder.layers:
        layer.dropout.p = 0.0  # drawing its masks takes a fifth of the time; varied texts and smoothed labels do its work
    plan = [epoch(examples, chance, SHARES) for _ in range(recipe.epochs)]
    make_batch = Batcher(reader, subjects, models)
    steps = sum(-(-len(part) // recipe.batch) for part in plan)
    optimizer, schedule = _optimizer(model, recipe, steps)
    model.train()
    for number, part in enumerate(plan, 1):
        sums: dict[str, float] = {}
        batches = make_batch.shuffled(part, recipe.batch, chance)
        for step, batch in enumerate(batches, 1):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=torch.ops.mkldnn._is_mkldnn_bf16_supported()):
                outputs = model(batch.ids, batch.mask)
                with torch.no_grad():
                    target = mean_vector(before, batch.ids, batch.mask)
            losses = loss_parts(outputs, batch.targets, recipe)
            losses["drift"] = recipe.keep * (1 - (outputs.vector.float() * target.float()).sum(-1).mean())
            torch.stack(list(losses.values())).sum().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0.0) + float(loss.detach())
            if step % 100 == 0:
                parts = "  ".join(f"{name} {total / step:.3f}" for name, total in sums.items())
                say(f"epoch {number}/{recipe.epochs} step {step}/{len(batches)}  {parts}")
    return model.eval()


def mean_vector(encoder: Encoder, ids: Tensor, mask: Tensor) -> Tensor:
    """Unit sentence vectors (n, 384) of an encoder without heads."""
    weights = mask.unsqueeze(-1).to(torch.float32)
    return F.normalize((encoder(ids, mask) * weights).sum(1) / weights.sum(1), dim=-1)


def loss_parts(outputs: Outputs, targets: Targets, recipe: Recipe) -> dict[str, Tensor]:
    """The weighted loss of every head that has a target in this batch."""

    def entropy(logits: Tensor, truth: Tensor) -> Tensor:
        known = truth != NO_LABEL
        return F.cross_entropy(logits.float()[known], truth[known], label_smoothing=recipe.smoothing) if known.any() else zero

    zero = torch.zeros(())
    known = ~targets.outcomes.isnan()
    outcomes = outputs.outcomes.float()[known]
    return {
        "intent": entropy(outputs.intent, targets.intent),
        "subject": recipe.subject * entropy(outputs.subject, targets.subject),
        "outcomes": recipe.outcomes
        * (F.binary_cross_entropy_with_logits(outcomes, targets.outcomes[known]) if known.any() else zero),
        "attack": recipe.attack * entropy(outputs.attack, targets.attack),
        "personal": recipe.personal * entropy(outputs.personal.flatten(0, 1), targets.personal.flatten()),
    }


class Batcher:
    """Examples as tensors."""

    def __init__(self, reader: WindowTokenizer, subjects: Sequence[str], models: int) -> None:
        self._reader = reader
        self._subjects = {name: index for index, name in enumerate(subjects)}
        self._models = models

    def shuffled(self, examples: Sequence[Example], size: int, chance: random.Random) -> list[Batch]:
        """Batches of texts of similar length, in random order, so that there is little padding."""
        read = [(example, self._reader.read(vary(example, chance))) for example in examples]
        read.sort(key=lambda item: len(item[1].ids))
        batches = [self._batch(read[start : start + size]) for start in range(0, len(read), size)]
        chance.shuffle(batches)
        return batches

    def _batch(self, read: Sequence[tuple[Example, Any]]) -> Batch:
        ids = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(tokens.ids) for _, tokens in read], batch_first=True)
        lengths = torch.tensor([len(tokens.ids) for _, tokens in read])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).to(torch.int64)
        examples = [example for example, _ in read]
        personal = torch.full(ids.shape, NO_LABEL)
        for row, (example, tokens) in enumerate(read):
            if example.spans is not None and not tokens.is_truncated:
                personal[row, : len(tokens.ids)] = torch.tensor(token_labels(example.spans, tokens.offsets))
        unknown = (float("nan"),) * self._models
        targets = Targets(
            torch.tensor([LABELS.index(e.label) if e.label else NO_LABEL for e in examples]),
            torch.tensor([self._subjects[e.subject] if e.subject else NO_LABEL for e in examples]),
            torch.tensor([e.outcomes or unknown for e in examples]),
            torch.tensor([e.attack for e in examples]),
            personal,
        )
        return Batch(ids, mask, targets)


def token_labels(spans: Sequence[tuple[int, int, str]], offsets: Sequence[tuple[int, int]]) -> list[int]:
    """0 outside, 1 + 2k for the first token of a span of kind k, 2 + 2k for its others. `offsets` are the tokens' places."""
    labels, begun = [0] * len(offsets), set()
    for place, (start, end) in enumerate(offsets):
        for span in spans:
            if start < span[1] and end > span[0] and end > start:
                labels[place] = 1 + 2 * KINDS.index(span[2]) + (span in begun)
                begun.add(span)
    return labels


def _optimizer(model: Model, recipe: Recipe, steps: int) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    body = [weight for weight in model.encoder.parameters() if weight.requires_grad]
    in_body = {id(weight) for weight in model.encoder.parameters()}
    head = [weight for weight in model.parameters() if id(weight) not in in_body]
    groups = [{"params": body, "lr": recipe.encoder_rate}, {"params": head, "lr": recipe.head_rate}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    rise = recipe.warmup * steps

    def factor(step: int) -> float:
        return min(step / rise, (steps - step) / (steps - rise)) if steps > rise else 1.0

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


@torch.no_grad()
def predict(model: Model, texts: Sequence[str], reader: WindowTokenizer, batch: int = 64) -> Outputs:
    """The outputs of texts, in order. `personal` is empty, because its length differs."""
    read = [(torch.from_numpy(reader.read(text).ids), index) for index, text in enumerate(texts)]
    read.sort(key=lambda item: len(item[0]))
    parts: dict[str, Tensor] = {}
    for start in range(0, len(read), batch):
        chosen = read[start : start + batch]
        ids = torch.nn.utils.rnn.pad_sequence([ids for ids, _ in chosen], batch_first=True)
        lengths = torch.tensor([len(ids) for ids, _ in chosen])
        outputs = model(ids, (torch.arange(ids.shape[1]) < lengths[:, None]).to(torch.int64))
        places = [index for _, index in chosen]
        for name in ("vector", "layers", "intent", "subject", "outcomes", "attack"):
            found = getattr(outputs, name).float()
            parts.setdefault(name, torch.empty(len(texts), found.shape[1]))[places] = found
    return Outputs(**parts, personal=torch.empty(0))
