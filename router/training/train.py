"""Trains the encoder and all heads together.

The sentence vector is kept close to the pretrained one, except that prompts of one group move together and away from others.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's own name for it

from router.inference.bundle import digest
from router.inference.tokens import WindowTokenizer
from router.training.checkpoints import Checkpoints, Training, moving_average, with_bfloat16
from router.training.data import epoch, vary
from router.training.encoder import Encoder, Model, Outputs
from router.training.examples import ATTACKS, CLASSES, KINDS, LABELS, LEVELS, NO_LABEL, Example, typos
from router.training.prompts import Group

SHARES = {
    "clinc150": 900,
    "banking77": 300,
    "gsm8k": 300,
    "math": 300,
    "mbpp": 400,
    "human_eval": 100,
    "commonsense_qa": 100,
    "natural": 3200,
    "refilled": 1500,
    "nothing personal": 250,
    "made attack": 1300,
    "made harmless": 600,
    "pii_prompts": 3200,
}
"""Examples of each source in one epoch. Sources that are not named are used whole."""


KEPT = 0.5
"""The share of batches whose vectors are kept close to those before training: each costs a second pass."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Every number that the result depends on."""

    seed: int = 20261123
    epochs: int = 7
    batch: int = 32
    encoder_rate: float = 1.5e-4
    head_rate: float = 1e-3
    warmup: float = 0.06
    """The share of steps in which the learning rates rise."""
    keep: float = 1.0
    """Weight of 1 - cosine between a text's vector and its vector before training."""
    smoothing: float = 0.05
    subject: float = 0.3
    outcomes: float = 0.5
    attack: float = 0.6
    personal: float = 1.2
    cacheability: float = 1.0
    complexity: float = 0.7
    together: float = 1.0
    """Weights of the losses; the intent's is 1."""
    neighbours: float = 0.1
    """The share of a level's probability that its neighbours get: levels are judged, not measured."""
    temperature: float = 0.05
    """Of the contrastive loss."""
    trios: int = 6000
    """Trios of the contrastive loss in one epoch: two prompts that want one answer, and one that looks alike."""
    batch_of_trios: int = 96
    """More of them at once make it harder to find the partner."""


@dataclass(frozen=True, slots=True)
class Targets:
    """The targets of a batch; `NO_LABEL` or NaN where unknown."""

    intent: Tensor
    subject: Tensor
    outcomes: Tensor
    attack: Tensor
    personal: Tensor
    cacheability: Tensor
    complexity: Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    ids: Tensor
    mask: Tensor
    targets: Targets | None
    """None for trios: a third of the texts, then those that want the same answers, then those that look alike."""
    keeps: bool = False
    """Whether the vectors are compared with those before training."""


def new_model(encoder: Encoder, subjects: int, models: int) -> Model:
    """A model with untrained heads."""
    return Model(encoder, len(LABELS), subjects, models, len(ATTACKS), len(KINDS))


def subjects_of(examples: Sequence[Example]) -> list[str]:
    """The exams of the examples, in a fixed order."""
    return sorted({example.subject for example in examples if example.subject})


def fit(
    encoder: Encoder,
    examples: Sequence[Example],
    groups: Sequence[Group],
    models: int,
    reader: WindowTokenizer,
    recipe: Recipe,
    checkpoints: Checkpoints,
    say: Callable[[str], None],
) -> Model:
    """Train the model; the result is a moving average of its weights. An interrupted run goes on after its last whole epoch."""
    torch.manual_seed(recipe.seed)
    subjects = subjects_of(examples)
    before = copy.deepcopy(encoder).requires_grad_(False).eval()
    model = new_model(encoder, len(subjects), models)
    encoder.freeze_embeddings()
    make_batch = Batcher(reader, subjects, models)
    chance = random.Random(recipe.seed)  # noqa: S311 - reproducible on purpose
    count = len(epoch(examples, chance, SHARES))
    steps = recipe.epochs * (-(-count // recipe.batch) + -(-recipe.trios // recipe.batch_of_trios))
    training = Training(model, moving_average(model), *_optimizer(model, recipe, steps), chance)
    for number in range(checkpoints.restore(training) + 1, recipe.epochs + 1):
        model.train()
        batches = make_batch.shuffled(epoch(examples, training.chance, SHARES), recipe.batch, training.chance)
        batches += make_batch.trios(groups, recipe.trios, recipe.batch_of_trios, training.chance)
        training.chance.shuffle(batches)
        sums: dict[str, float] = {}
        for step, batch in enumerate(batches, 1):
            losses = _losses(model, before, batch, recipe)
            training.step(torch.stack(list(losses.values())).sum())
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0.0) + float(loss.detach())
            if step % 100 == 0:
                parts = "  ".join(f"{name} {total / step:.3f}" for name, total in sums.items())
                say(f"epoch {number}/{recipe.epochs} step {step}/{len(batches)}  {parts}")
        checkpoints.save(training, number)
    return training.averaged.eval()


def _losses(model: Model, before: Encoder, batch: Batch, recipe: Recipe) -> dict[str, Tensor]:
    """The weighted losses of a batch, by name."""
    if batch.targets is None:
        with with_bfloat16():
            vectors = mean_vector(model.encoder, batch.ids, batch.mask)
        return {"together": recipe.together * together(vectors, recipe.temperature)}
    with with_bfloat16():
        outputs = model(batch.ids, batch.mask)
        losses = loss_parts(outputs, batch.targets, recipe)
        if not batch.keeps:
            return losses
        with torch.no_grad():
            target = mean_vector(before, batch.ids, batch.mask)
    drift = recipe.keep / KEPT * (1 - (outputs.vector.float() * target.float()).sum(-1).mean())
    return {**losses, "drift": drift}


def together(vectors: Tensor, temperature: float) -> Tensor:
    """The contrastive loss of trios: each text has to find its partner among all partners and all texts that look alike.

    `vectors` is (3n, 384), unit length, in the order of `Batch`.
    """
    one, other, alike = vectors.float().chunk(3)
    truth = torch.arange(len(one))
    scores = one @ torch.cat([other, alike]).T / temperature
    back = other @ torch.cat([one, alike]).T / temperature
    return (F.cross_entropy(scores, truth) + F.cross_entropy(back, truth)) / 2


def mean_vector(encoder: Encoder, ids: Tensor, mask: Tensor) -> Tensor:
    """Unit sentence vectors (n, 384) of an encoder without heads."""
    weights = mask.unsqueeze(-1).to(torch.float32)
    return F.normalize((encoder(ids, mask) * weights).sum(1) / weights.sum(1), dim=-1)


def loss_parts(outputs: Outputs, targets: Targets, recipe: Recipe) -> dict[str, Tensor]:
    """The weighted loss of every head that has a target in this batch."""

    def entropy(logits: Tensor, truth: Tensor) -> Tensor:
        known = truth != NO_LABEL
        return F.cross_entropy(logits.float()[known], truth[known], label_smoothing=recipe.smoothing) if known.any() else zero

    def binary(logits: Tensor, truth: Tensor) -> Tensor:
        known = ~truth.isnan()
        return F.binary_cross_entropy_with_logits(logits.float()[known], truth[known]) if known.any() else zero

    def levels(logits: Tensor, truth: Tensor) -> Tensor:
        known = truth != NO_LABEL
        return F.cross_entropy(logits.float()[known], near(truth[known], recipe.neighbours)) if known.any() else zero

    zero = torch.zeros(())
    return {
        "intent": entropy(outputs.intent, targets.intent),
        "subject": recipe.subject * entropy(outputs.subject, targets.subject),
        "outcomes": recipe.outcomes * binary(outputs.outcomes, targets.outcomes),
        "cacheability": recipe.cacheability * binary(outputs.cacheability, targets.cacheability),
        "complexity": recipe.complexity * levels(outputs.complexity, targets.complexity),
        "attack": recipe.attack * entropy(outputs.attack, targets.attack),
        "personal": recipe.personal * entropy(outputs.personal.flatten(0, 1), targets.personal.flatten()),
    }


def near(levels: Tensor, share: float) -> Tensor:
    """(n, 4) float32: the probabilities to learn for levels (n,), of which the levels beside them get `share` together."""
    distance = (torch.arange(len(LEVELS)) - levels[:, None]).abs()
    beside = (distance == 1).to(torch.float32)
    return (distance == 0) * (1 - share) + share * beside / beside.sum(-1, keepdim=True)


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

    def trios(self, groups: Sequence[Group], count: int, size: int, chance: random.Random) -> list[Batch]:
        """Batches of trios of different groups; every third text is mistyped."""
        batches = []
        chosen = [group for _ in range(-(-count // len(groups))) for group in chance.sample(groups, len(groups))][:count]
        for start in range(0, count, size):
            rows = [self._trio(group, chance) for group in chosen[start : start + size]]
            texts = [row[place] for place in range(3) for row in rows]
            read = [self._reader.read(typos(text, chance) if chance.random() < 0.33 else text) for text in texts]
            batches.append(Batch(*_padded(read), None))
        return batches

    def _trio(self, group: Group, chance: random.Random) -> tuple[str, str, str]:
        one, other = chance.sample(group.same, 2)
        return one.text, other.text, chance.choice(group.different).text

    def _batch(self, read: Sequence[tuple[Example, Any]]) -> Batch:
        ids, mask = _padded([tokens for _, tokens in read])
        examples = [example for example, _ in read]
        personal = torch.full(ids.shape, NO_LABEL)
        for row, (example, tokens) in enumerate(read):
            if example.spans is not None and not tokens.is_truncated:
                personal[row, : len(tokens.ids)] = torch.tensor(token_labels(example.spans, tokens.offsets))
        unknown = (float("nan"),) * self._models
        keeps = bool(read) and digest(read[0][0].text)[0] < 256 * KEPT
        targets = Targets(
            torch.tensor([LABELS.index(e.label) if e.label else NO_LABEL for e in examples]),
            torch.tensor([self._subjects[e.subject] if e.subject else NO_LABEL for e in examples]),
            torch.tensor([e.outcomes or unknown for e in examples]),
            torch.tensor([e.attack for e in examples]),
            personal,
            torch.tensor([e.classes or (float("nan"),) * len(CLASSES) for e in examples]),
            torch.tensor([e.level for e in examples]),
        )
        return Batch(ids, mask, targets, keeps)


def _padded(read: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """`ids` and `mask`, each (n, tokens) int64."""
    ids = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(tokens.ids) for tokens in read], batch_first=True)
    lengths = torch.tensor([len(tokens.ids) for tokens in read])
    return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).to(torch.int64)


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
        for name in ("vector", "layers", "intent", "subject", "outcomes", "attack", "cacheability", "complexity"):
            found = getattr(outputs, name).float()
            parts.setdefault(name, torch.empty(len(texts), found.shape[1]))[places] = found
    return Outputs(**parts, personal=torch.empty(0))
