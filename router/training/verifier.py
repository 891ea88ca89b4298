"""Trains the verifier: cross-encoders that read two questions together and say whether one answer fits both."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's own name for it

from router.cache.checks import conflict
from router.training.checkpoints import Checkpoints, Training, moving_average, with_bfloat16
from router.training.encoder import Tower, Verifier, load_pretrained
from router.training.pairs import Maker, Pair, Sampler
from router.training.prompts import Case, Group
from router.training.swaps import SwapMaker

SHARES = {
    "swap_pos_edit": 2000,
    "swap_antonym_neg": 1300,
    "swap_entity": 1300,
    "swap_number": 900,
    "swap_order": 700,
    "negation": 1200,
    "intents": 2000,
}
"""Pairs of each source in one epoch. Sources that are not named are used whole."""
MADE_SHARE, SWAPPED_SHARE = 3000, 3000
"""Pairs that are made for one epoch: from the families of pairs.yaml, and by changing texts."""
SAME, DIFFERENT = 5, 7
"""Pairs of each group in one epoch."""
_NUMBER = re.compile(r"\d+")
_POOL = 4096  # pairs sorted by length together, to reduce padding


@dataclass(frozen=True, slots=True)
class Recipe:
    """Every number that the result depends on."""

    seeds: tuple[int, ...] = (20261124, 20261125)
    """One for each tower."""
    epochs: int = 4
    batch_tokens: int = 1600
    """Tokens of one batch, padding included: short pairs come in larger batches."""
    encoder_rate: float = 1e-4
    head_rate: float = 1e-3
    warmup: float = 0.06
    """Share of the steps in which the rates rise."""
    smoothing: float = 0.02
    max_tokens: int = 256
    """Longer pairs are left out."""


def mined(said: Sequence[tuple[str, str]], vectors: Tensor, likely: float = 0.8) -> list[Pair]:
    """Pairs of similar texts with intents: with two intents another answer, with one intent the same with probability `likely`.

    `vectors` is (texts, 384), unit length. Pairs that a lexical check separates are never labelled as the same.
    """
    pairs = []
    intents = [intent for _, intent in said]
    for start in range(0, len(said), 512):
        nearest = (vectors[start : start + 512] @ vectors.T).topk(12, dim=1)
        for row, (scores, places) in enumerate(zip(nearest.values.tolist(), nearest.indices.tolist(), strict=True), start):
            others = [(score, place) for score, place in zip(scores, places, strict=True) if place != row]
            apart = [place for score, place in others if intents[place] != intents[row] and score > 0.6][:2]
            alike = [place for score, place in others if intents[place] == intents[row] and 0.8 < score < 0.98][:1]
            pairs += [Pair(said[row][0], said[place][0], 0.0, "intents") for place in apart]
            pairs += [
                Pair(said[row][0], said[place][0], likely, "intents")
                for place in alike
                if not conflict(said[row][0], said[place][0], ("numbers", "negation", "opposites", "names", "order", "kind"))
            ]
    return pairs


def without_mistakes(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs without Quora's pairs labelled as the same that name different numbers, which are mostly mistakes.

    Lexical checks cannot do this: names and opposites removed three in ten true duplicates, which cost .03 of the ROC area.
    """

    def is_mistake(pair: Pair) -> bool:
        asked, stored = set(_NUMBER.findall(pair.asked)), set(_NUMBER.findall(pair.stored))
        return pair.source == "qqp" and pair.same == 1 and asked != stored and bool(asked and stored)

    return [pair for pair in pairs if not is_mistake(pair)]


class Batches:
    """Pairs as tensors, batched by length."""

    def __init__(self, tokenizer_file: Path, max_tokens: int) -> None:
        self._tokenizer = Tokenizer.from_file(str(tokenizer_file))
        self._tokenizer.enable_padding()
        self._max_tokens = max_tokens

    def tensors(self, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor, Tensor]:
        """`ids`, `mask`, `kinds`, each (n, tokens) int64."""
        read = self._tokenizer.encode_batch([(pair.asked, pair.stored) for pair in pairs])
        parts = ([r.ids for r in read], [r.attention_mask for r in read], [r.type_ids for r in read])
        ids, mask, kinds = (torch.tensor(part)[:, : self._max_tokens] for part in parts)
        return ids, mask, kinds

    def shuffled(self, pairs: Sequence[Pair], tokens: int, chance: random.Random) -> Iterator[list[Pair]]:
        """All pairs once that are short enough, in batches of about so many tokens."""
        mixed = chance.sample(pairs, len(pairs))
        for start in range(0, len(mixed), _POOL):
            pool = mixed[start : start + _POOL]
            read = self._tokenizer.encode_batch([(pair.asked, pair.stored) for pair in pool])
            lengths = [sum(each.attention_mask) for each in read]
            batches: list[list[Pair]] = [[]]
            for at in sorted(range(len(pool)), key=lengths.__getitem__):
                if lengths[at] > self._max_tokens:
                    break
                if lengths[at] * (len(batches[-1]) + 1) > tokens:
                    batches.append([])
                batches[-1].append(pool[at])
            yield from chance.sample(batches, len(batches))


@dataclass(frozen=True, slots=True)
class Data:
    """All that a verifier learns from."""

    groups: Sequence[Group]
    cases: Sequence[Case]
    pairs: Sequence[Pair]
    """Of the data sets."""
    texts: Sequence[str]
    """From which pairs are made by a small change."""


class Epochs:
    """Draws the pairs of one epoch."""

    def __init__(self, data: Data, chance: random.Random) -> None:
        self._data, self._chance = data, chance
        self._maker, self._sampler, self._swaps = Maker(chance), Sampler(chance), SwapMaker(data.texts, chance)
        self._maker.remember(data.texts[:5000])
        self._by_source: dict[str, list[Pair]] = {}
        for pair in without_mistakes(data.pairs):
            self._by_source.setdefault(pair.source, []).append(pair)

    def draw(self) -> list[Pair]:
        """The pairs of the next epoch."""
        chosen = self._maker.make(MADE_SHARE)
        for source, members in self._by_source.items():
            chosen += self._chance.sample(members, min(len(members), SHARES.get(source, len(members))))
        varied = [*map(self._maker.vary, chosen), *self._swaps.make(SWAPPED_SHARE)]
        written = self._sampler.of_groups(self._data.groups, SAME, DIFFERENT) + self._sampler.of_cases(self._data.cases)
        return [pair for pair in varied if pair.asked.strip() and pair.stored.strip()] + written


def fit(
    data: Data, batches: Batches, recipe: Recipe, checkpoints: Callable[[int], Checkpoints], say: Callable[[str], None]
) -> Verifier:
    """Train the towers one after the other. `checkpoints` gives the file of the tower for a seed."""
    towers = [_fit_tower(data, batches, recipe, seed, checkpoints(seed), say) for seed in recipe.seeds]
    return Verifier(towers).eval()


def _fit_tower(
    data: Data, batches: Batches, recipe: Recipe, seed: int, checkpoints: Checkpoints, say: Callable[[str], None]
) -> Tower:
    """Train one tower; the result is a moving average of its weights. An interrupted run goes on after its last whole epoch."""
    torch.manual_seed(seed)
    chance = random.Random(seed)  # noqa: S311 - reproducible on purpose
    tower = Tower(load_pretrained()[0])
    tower.encoder.freeze_embeddings()
    epochs = Epochs(data, chance)
    first = epochs.draw()
    steps = recipe.epochs * sum(1 for _ in batches.shuffled(first, recipe.batch_tokens, chance))
    training = Training(tower, moving_average(tower), *_optimizer(tower, recipe, steps), chance)
    say(f"tower {seed}: {len(first)} pairs an epoch, {steps} steps")
    for number in range(checkpoints.restore(training) + 1, recipe.epochs + 1):
        tower.train()
        total, count, started = 0.0, 0, time.monotonic()
        for step, batch in enumerate(batches.shuffled(epochs.draw(), recipe.batch_tokens, chance), 1):
            truth = torch.tensor([pair.same for pair in batch]) * (1 - 2 * recipe.smoothing) + recipe.smoothing
            with with_bfloat16():
                logits = tower(*batches.tensors(batch))
            loss = F.binary_cross_entropy_with_logits(logits.float(), truth)
            training.step(loss)
            total, count = total + float(loss.detach()), count + len(batch)
            if step % 200 == 0:
                pace = count / (time.monotonic() - started)
                say(f"epoch {number}/{recipe.epochs} step {training.steps}/{steps}  loss {total / 200:.4f}  {pace:.0f} pairs/s")
                total = 0.0
        checkpoints.save(training, number)
    averaged: Tower = training.averaged
    return averaged.eval()


def _optimizer(tower: Tower, recipe: Recipe, steps: int) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    head = [*tower.hidden.parameters(), *tower.same.parameters()]
    heads = {id(weight) for weight in head}
    body = [weight for weight in tower.parameters() if weight.requires_grad and id(weight) not in heads]
    groups = [{"params": body, "lr": recipe.encoder_rate}, {"params": head, "lr": recipe.head_rate}]
    warm = max(1, round(steps * recipe.warmup))
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, max(0.0, (steps - step) / max(1, steps - warm)))
    )
    return optimizer, schedule


def scores(model: Verifier, pairs: Sequence[Pair], batches: Batches, size: int = 64) -> list[float]:
    """The logit of every pair, in order."""
    order = sorted(range(len(pairs)), key=lambda at: len(pairs[at].asked) + len(pairs[at].stored))
    found = [0.0] * len(pairs)
    with torch.inference_mode():
        for start in range(0, len(order), size):
            places = order[start : start + size]
            with with_bfloat16():
                logits = model(*batches.tensors([pairs[at] for at in places])).float().tolist()
            for at, logit in zip(places, logits, strict=True):
                found[at] = logit
    return found
