"""`semantic-router train intent`: an operator's own labels on the frozen encoder, and texts outside of all labels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from router.cli.main import main
from router.config.load import load, parse
from router.core.types import Classification
from router.errors import ConfigError
from router.inference.bundle import SHIPPED, Bundle
from router.inference.encoder import Encoder
from router.inference.manifest import OUTSIDE, HeadManifest
from router.inference.pool import InferencePool
from router.signals.own.head import WEIGHTS, Head, HeadSignal
from router.training.head import fit, minimise, train
from tests.contract.signals import SignalContract
from tests.unit.builders import ask

TEXTS = {
    "billing": [
        "why was I charged twice this month", "I need a copy of my invoice", "my credit card was declined",
        "how do I get a refund for last month", "the amount on my bill is wrong", "can I pay by bank transfer",
        "when is my payment due", "please update my billing address",
    ],
    "technical": [
        "the app crashes when I open it", "I cannot log in to my account", "the page shows error 500",
        "my internet connection drops every hour", "how do I update the firmware of the router",
        "the sync does not work on my phone", "the installer stops at 90 percent", "the screen stays black after the update",
    ],
    "sales": [
        "which plan is best for a team of ten", "do you offer discounts for students", "I would like a demo of your product",
        "what does the enterprise plan include", "can I upgrade in the middle of the year", "is there a free trial",
        "how do your prices compare to others", "I want to talk to someone about buying licences",
    ],
}  # fmt: skip
OUTSIDE_TEXTS = [
    "what is the capital of Peru", "tell me a joke about cats", "how tall is the Eiffel tower", "write a poem about autumn",
    "who won the world cup in 1998", "translate good morning into French", "what is photosynthesis", "recommend me a movie",
]  # fmt: skip


@pytest.fixture(scope="module")
def encoder() -> Bundle:
    """The shipped encoder."""
    return Bundle.load(SHIPPED)


def write(path: Path, texts: dict[str, list[str]]) -> Path:
    """A file of texts as an operator labels them."""
    lines = [json.dumps({"text": text, "label": label}) for label, some in texts.items() for text in some]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head that the command made from eight texts per label and eight outside of all labels."""
    place = tmp_path_factory.mktemp("heads")
    data = write(place / "labelled.jsonl", {**TEXTS, OUTSIDE: OUTSIDE_TEXTS})
    assert main(["train", "intent", "--data", str(data), "--out", str(place / "department")]) == 0
    return place / "department"


@pytest.fixture(scope="module")
def signal(folder: Path, encoder: Bundle) -> Iterator[HeadSignal]:
    """The signal as it is served."""
    passes = InferencePool(1, 16)
    yield HeadSignal("department", Encoder(encoder, passes), Head.load(folder, encoder))
    passes.close()


class TestHead(SignalContract):
    @pytest.fixture(scope="class")
    @classmethod
    def signal(cls, folder: Path, encoder: Encoder, bundle: Bundle) -> HeadSignal:
        """The signal that the command made."""
        return HeadSignal("department", encoder, Head.load(folder, bundle))


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("there is a charge on my invoice that I do not know", "billing"),
        ("the program freezes and shows an error", "technical"),
        ("what would a plan for fifty users cost us", "sales"),
        ("who painted the Mona Lisa", OUTSIDE),
    ],
)
async def test_eight_texts_a_label_are_enough_for_clear_cases(signal: HeadSignal, text: str, label: str) -> None:
    """Texts outside of all labels are recognized as such."""
    reading = await signal.read(ask(text))
    assert isinstance(reading, Classification)
    assert reading.label == label
    assert sum(reading.probabilities.values()) == pytest.approx(1, abs=1e-4)


def test_the_manifest_tells_what_it_is(folder: Path, encoder: Bundle) -> None:
    """It has labels, encoder and cross-validated figures, and none of the operator's text."""
    facts = HeadManifest.of(folder)
    assert facts.labels == ("billing", "sales", "technical")
    assert facts.names == (*facts.labels, OUTSIDE)
    assert facts.encoder_sha256 == encoder.sha256["model.onnx"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["metrics"]) >= {"accuracy", "macro_f1", "calibration_error", "outside_roc_area"}
    assert "charged" not in (folder / "manifest.json").read_text()


def test_a_rule_can_ask_for_it(folder: Path) -> None:
    """`when.signal` does so. A label that it does not know is refused."""
    text = f"""
version: 1
models: {{ small: {{ cluster: small }} }}
signals: {{ custom: {{ department: {{ model_path: {folder} }} }} }}
rules:
- {{ name: money, when: {{ signal: {{ name: department, labels: [LABEL] }} }}, model: small }}
default: {{ model: small }}
"""
    config = parse(text.replace("LABEL", "billing"), "config.yaml")
    assert config.policy.signals == {"department"}
    with pytest.raises(ConfigError, match="no label 'biling'; did you mean 'billing'"):
        parse(text.replace("LABEL", "biling"), "config.yaml")


def test_a_head_without_outside_examples_has_no_outside_label(tmp_path: Path, encoder: Bundle) -> None:
    """It keeps no vectors of the operator's texts either."""
    data = write(tmp_path / "labelled.jsonl", TEXTS)
    list(train(data, encoder, tmp_path / "head", "head"))
    head = Head.load(tmp_path / "head", encoder)
    assert head.min_familiarity == -1
    assert head.examples.shape == (0, 384)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ({"a": ["one", "two"], "b": ["three"]}, "for b; every label needs two different texts"),
        ({"a": ["one", "two"], "b": ["three", "Three!"]}, "only one text, perhaps repeated, for b"),
        ({"a": ["one", "two"]}, "fewer than two labels"),
        ({"a": ["one", "two"], OUTSIDE: ["three", "four"]}, "fewer than two labels"),
        ({}, "is empty"),
    ],
)
def test_too_little_to_learn_from_is_refused(tmp_path: Path, encoder: Bundle, texts: dict, said: str) -> None:
    """The message names what is missing."""
    with pytest.raises(ConfigError, match=said):
        list(train(write(tmp_path / "labelled.jsonl", texts), encoder, tmp_path / "head", "head"))


def test_what_is_printed_can_be_pasted(encoder: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text fits the configuration that was named, from any working directory, or any configuration if none was named."""
    (tmp_path / "etc").mkdir()
    config = tmp_path / "etc" / "config.yaml"
    rest = "models: { small: { cluster: small } }\ndefault: { model: small }\n"
    config.write_text(f"version: 1\n{rest}")
    data = write(tmp_path / "labelled.jsonl", TEXTS)
    monkeypatch.chdir(tmp_path)
    for out, named in (("etc/department", Path("etc/config.yaml")), ("heads/of mine: #1", config), ("department", None)):
        *_, last = train(data, encoder, Path(out), "department", named)
        snippet = last.partition("\n\n")[2]
        config.write_text(f"version: 1\n{snippet}\n{rest}")
        assert load(config).signals.custom["department"].folder.resolve() == (tmp_path / out).resolve()


@pytest.mark.parametrize("name", ["intent", "jailbreak", "über uns", ""])
def test_a_name_that_the_configuration_would_refuse_is_refused_before_anything_is_fitted(
    encoder: Bundle, tmp_path: Path, name: str
) -> None:
    """The message says what to do."""
    with pytest.raises(ConfigError, match="--name"):
        list(train(write(tmp_path / "labelled.jsonl", TEXTS), encoder, tmp_path / "head", name))
    assert not (tmp_path / "head").exists()


def test_repeated_texts_are_reported_and_do_not_flatter_the_figures(encoder: Bundle, tmp_path: Path) -> None:
    """Spelling does not matter. A text in both training and measurement would make senseless labels look learnt."""
    chance = np.random.default_rng(3)
    texts = [text for some in [*TEXTS.values(), OUTSIDE_TEXTS] for text in some]
    nonsense = {"a": list[str](), "b": list[str]()}
    for text in texts:
        nonsense["ab"[int(chance.integers(2))]].append(text)
    once = list(train(write(tmp_path / "once.jsonl", nonsense), encoder, tmp_path / "once", "once"))
    twice = {label: [*some, *(f"  {text.upper()}?" for text in some)] for label, some in nonsense.items()}
    again = list(train(write(tmp_path / "twice.jsonl", twice), encoder, tmp_path / "twice", "twice"))
    assert not any("warning" in line for line in once)
    assert "32 of 64 texts repeat others" in again[0]
    manifest = json.loads((tmp_path / "twice" / "manifest.json").read_text())
    assert manifest["metrics"]["accuracy"][0] < 0.75


def test_the_same_text_with_two_labels_is_named_by_its_lines(encoder: Bundle, tmp_path: Path) -> None:
    """One of the two labels is a mistake."""
    data = write(tmp_path / "labelled.jsonl", {**TEXTS, "other": ["My credit card was declined!", "something else"]})
    said = list(train(data, encoder, tmp_path / "head", "head"))
    assert any("different labels: line 3 'billing', line 25 'other'" in line for line in said)


def test_damage_and_another_encoder_are_refused(folder: Path, encoder: Bundle, tmp_path: Path) -> None:
    """On other vectors, a head would give random labels."""
    import dataclasses
    import shutil

    other = dataclasses.replace(encoder, sha256={"model.onnx": "0" * 64})
    with pytest.raises(ConfigError, match="trained with another encoder"):
        Head.load(folder, other)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / WEIGHTS).write_bytes((copy / WEIGHTS).read_bytes()[:-10])
    with pytest.raises(ConfigError, match="damaged"):
        Head.load(copy, encoder)


def test_the_minimum_is_a_minimum() -> None:
    """No step in any direction lowers the penalised loss."""
    chance = np.random.default_rng(0)
    vectors = chance.standard_normal((200, 5)).astype(np.float32)
    truth = (vectors[:, 0] + 0.5 * chance.standard_normal(200) > 0).astype(np.int64)

    def loss(weights: np.ndarray, bias: np.ndarray) -> float:
        logits = vectors @ weights + bias
        logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        return float(-logs[np.arange(200), truth].mean() + 0.01 / 2 * (weights**2).sum())

    weights, bias = minimise(vectors, truth, 2, 0.01)
    best = loss(weights.astype(np.float64), bias)
    for _ in range(200):
        away = loss(weights + 0.01 * chance.standard_normal(weights.shape), bias + 0.01 * chance.standard_normal(2))
        assert best <= away + 1e-6


def test_the_same_texts_give_the_same_head() -> None:
    """No part of the fit is random."""
    chance = np.random.default_rng(1)
    layers = chance.standard_normal((60, 4, 384)).astype(np.float32)
    vectors = (layers / np.linalg.norm(layers, axis=2, keepdims=True) / 2).reshape(60, 4 * 384)
    truth = np.arange(60, dtype=np.int64) % 3
    one, other = fit(vectors, truth, ("a", "b", "c")), fit(vectors, truth, ("a", "b", "c"))
    assert np.array_equal(one.head.weights, other.head.weights)
    assert one.figures == other.figures


def test_two_heads_are_compared_side_by_side(
    folder: Path, encoder: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The output has both figures, and says whether the difference exceeds chance."""
    few = {label: texts[:2] for label, texts in {**TEXTS, OUTSIDE: OUTSIDE_TEXTS}.items()}
    list(train(write(tmp_path / "few.jsonl", few), encoder, tmp_path / "few", "few"))
    asked = write(
        tmp_path / "asked.jsonl",
        {"billing": ["my invoice is wrong"], "sales": ["is there a discount"], OUTSIDE: ["tell me a story"]},
    )
    assert main(["eval", "intent", str(asked), "--bundle", str(folder), "--baseline", str(tmp_path / "few")]) == 0
    said = capsys.readouterr().out
    assert "department" in said
    assert "few" in said
    assert "McNemar" in said
    assert main(["eval", "intent", str(asked), "--bundle", str(folder)]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert main(["eval", "intent", str(asked), "--baseline", str(folder)]) == 2
    assert "have different labels" in capsys.readouterr().err
