"""Makes the tiny Hugging Face models beside this file; needs transformers, torch and onnx.

They tell rude words from polite ones, find ticket numbers, and hold two texts against each other; they are exported like
large ones.
"""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification

HERE = Path(__file__).parent
POLITE, RUDE = ["please", "thanks", "kind", "welcome"], ["stupid", "idiot", "useless", "garbage"]
FILLERS = ["the", "a", "you", "this", "is", "my", "help", "with", "order", "it", "and", "for", "to", "in", "on"]
DIGITS = [f"##{digit}" for digit in range(10)]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *POLITE, *RUDE, *FILLERS, "tic", "ticket", "-", *map(str, range(10)), *DIGITS]
SHAPE = {
    "vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 64,
}  # fmt: skip


def tokenizer() -> Tokenizer:
    """A tokenizer of word pieces over a vocabulary of some dozens."""
    made = Tokenizer(models.WordPiece({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", [("[CLS]", 2), ("[SEP]", 3)])
    return made


def tone(chance: random.Random) -> tuple[str, int]:
    """Texts, and whether each is rude."""
    is_rude = chance.random() < 0.5
    words = [*chance.choices(FILLERS, k=6), chance.choice(RUDE if is_rude else POLITE)]
    chance.shuffle(words)
    return " ".join(words), int(is_rude)


def train(model: torch.nn.Module, step, steps: int = 400) -> None:
    """Train for a few seconds."""
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(steps):
        loss = step()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


def export(model: torch.nn.Module, folder: Path) -> None:
    """Write model.onnx, config.json and tokenizer.json."""
    folder.mkdir(exist_ok=True)
    tokenizer().save(str(folder / "tokenizer.json"))
    model.config.save_pretrained(folder)
    ids = torch.ones((1, 8), dtype=torch.int64)
    axes = {name: {0: "batch", 1: "sequence"} for name in ("input_ids", "attention_mask", "token_type_ids", "logits")}
    model.config.return_dict = False
    torch.onnx.export(
        model, (ids, ids, ids * 0), str(folder / "model.onnx"), input_names=list(axes)[:3], output_names=["logits"],
        dynamic_axes=axes, opset_version=17, dynamo=False,
    )  # fmt: skip


class Same(torch.nn.Module):
    """The probability that two questions share an answer, with the inputs and output that the cache expects."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
        """(n,)."""
        return self.model(ids, mask, kinds)[0][:, 0].sigmoid()


def make_verifier(chance: random.Random, reader: Tokenizer) -> None:
    """A bundle as `python -m router.training verifier` writes it. Two texts are the same when neither is rude."""
    model = BertForSequenceClassification(BertConfig(**SHAPE, num_labels=1, return_dict=False))

    def hold() -> torch.Tensor:
        rows = [(tone(chance), tone(chance)) for _ in range(64)]
        read = reader.encode_batch([(one, other) for (one, _), (other, _) in rows])
        parts = ([r.ids for r in read], [r.attention_mask for r in read], [r.type_ids for r in read])
        truth = torch.tensor([float(not first and not second) for (_, first), (_, second) in rows])
        logits = model(*map(torch.tensor, parts))[0][:, 0]
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, truth)

    train(model, hold, 500)
    folder = HERE / "verifier"
    folder.mkdir(exist_ok=True)
    plain = tokenizer()
    plain.save(str(folder / "tokenizer.json"))
    ids = torch.ones((2, 8), dtype=torch.int64)
    axes = {name: {0: "n", 1: "tokens"} for name in ("ids", "mask", "kinds")} | {"same": {0: "n"}}
    torch.onnx.export(
        Same(model).eval(), (ids, ids, ids * 0), str(folder / "model.onnx"), input_names=["ids", "mask", "kinds"],
        output_names=["same"], dynamic_axes=axes, opset_version=17, dynamo=False,
    )  # fmt: skip
    files = {
        name: {"sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(), "bytes": (folder / name).stat().st_size}
        for name in ("model.onnx", "tokenizer.json")
    }
    manifest = {"format": 2, "labels": ["same"], "name": "tiny-verifier", "version": "1", "max_tokens": 64, "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    torch.manual_seed(1)
    chance, reader = random.Random(1), tokenizer()
    reader.enable_padding()
    labels = {"id2label": {0: "polite", 1: "rude"}, "label2id": {"polite": 0, "rude": 1}}
    sequence = BertForSequenceClassification(BertConfig(**SHAPE, **labels, architectures=["BertForSequenceClassification"]))

    def tell() -> torch.Tensor:
        texts, truth = zip(*(tone(chance) for _ in range(32)), strict=True)
        read = reader.encode_batch(list(texts))
        ids, mask = torch.tensor([r.ids for r in read]), torch.tensor([r.attention_mask for r in read])
        return sequence(ids, mask, labels=torch.tensor(truth)).loss

    train(sequence, tell)
    export(sequence, HERE / "tone")
    names = ["O", "B-TICKET", "I-TICKET"]
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    tokens = BertForTokenClassification(BertConfig(**SHAPE, **labels, architectures=["BertForTokenClassification"]))

    def find() -> torch.Tensor:
        texts = []
        for _ in range(32):
            words = chance.choices(FILLERS, k=6)
            if chance.random() < 0.6:
                words.insert(chance.randrange(6), f"tic-{chance.randrange(10, 9999)}")
            texts.append(" ".join(words))
        read = reader.encode_batch(texts)
        truth = torch.zeros((len(read), len(read[0].ids)), dtype=torch.int64)
        for row, one in enumerate(read):
            is_inside = False
            for place, token in enumerate(one.tokens):
                is_ticket = token in ("tic", "-") or token.lstrip("#").isdigit()
                truth[row, place] = 2 if is_ticket and is_inside else int(is_ticket)
                is_inside = is_ticket
        ids, mask = torch.tensor([r.ids for r in read]), torch.tensor([r.attention_mask for r in read])
        return tokens(ids, mask, labels=truth).loss

    train(tokens, find)
    export(tokens, HERE / "tickets")
    make_verifier(chance, reader)


if __name__ == "__main__":
    main()
