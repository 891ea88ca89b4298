"""The operator's own signals: exported Hugging Face models, and heads on the shipped encoder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.core.types import Classification, Scores
from router.errors import BackendError, ConfigError
from router.inference.manifest import ModelManifest, facts_of
from router.inference.pool import InferencePool
from router.signals.own.huggingface import HuggingFaceSignal
from tests.contract.signals import SignalContract
from tests.unit.builders import ask

TINY = Path(__file__).parents[1] / "tiny_models"


@pytest.fixture(scope="module")
def passes() -> Iterator[InferencePool]:
    """The pool that all models here share, as in one process."""
    made = InferencePool(2, 64)
    yield made
    made.close()


@pytest.fixture(scope="module")
def tone(passes: InferencePool) -> HuggingFaceSignal:
    """A model that separates polite from rude texts."""
    return HuggingFaceSignal("tone", TINY / "tone", passes, max_windows=4)


@pytest.fixture(scope="module")
def tickets(passes: InferencePool) -> HuggingFaceSignal:
    """A model that finds ticket numbers."""
    return HuggingFaceSignal("tickets", TINY / "tickets", passes, max_windows=4)


class TestSequenceClassifier(SignalContract):
    @pytest.fixture(scope="class")
    @classmethod
    def signal(cls, passes: InferencePool) -> HuggingFaceSignal:
        """A signal about texts."""
        return HuggingFaceSignal("tone", TINY / "tone", passes, max_windows=4)


class TestTokenClassifier(SignalContract):
    @pytest.fixture(scope="class")
    @classmethod
    def signal(cls, passes: InferencePool) -> HuggingFaceSignal:
        """A signal about tokens."""
        return HuggingFaceSignal("tickets", TINY / "tickets", passes, max_windows=4)


@pytest.mark.parametrize(("text", "label"), [("this is a stupid order", "rude"), ("help me with my order please", "polite")])
async def test_a_sequence_classifier_classifies(tone: HuggingFaceSignal, text: str, label: str) -> None:
    """Every label has a probability."""
    reading = await tone.read(ask(text))
    assert isinstance(reading, Classification)
    assert reading.label == label
    assert reading.confidence > 0.9
    assert sum(reading.probabilities.values()) == pytest.approx(1, abs=1e-5)


async def test_a_token_classifier_scores_each_kind_of_entity(tickets: HuggingFaceSignal) -> None:
    """Begin and inside count as one kind, and outside as none."""
    found, nothing = await tickets.read(ask("help with tic-4711 for me")), await tickets.read(ask("help with my order"))
    assert isinstance(found, Scores)
    assert isinstance(nothing, Scores)
    assert set(found.values) == {"TICKET"}
    assert found.values["TICKET"] > 0.9 > 0.1 > nothing.values["TICKET"]


async def test_long_texts_are_read_in_windows(tone: HuggingFaceSignal, tickets: HuggingFaceSignal) -> None:
    """The end of a text counts. A text beyond the last window is too long, and is not cut."""
    filler = "the order is for my help and it " * 15  # 120 tokens; a window has 64
    late = await tickets.read(ask(f"{filler} tic-12"))
    assert isinstance(late, Scores)
    assert late.values["TICKET"] > 0.9
    assert isinstance(await tone.read(ask(filler)), Classification)
    with pytest.raises(BackendError, match="too_long"):
        await tone.read(ask(filler * 3))


def test_a_multi_label_model_scores_each_label(passes: InferencePool, tmp_path: Path) -> None:
    """`problem_type` selects this. The scores need not sum to one."""
    folder = copy(tmp_path, problem_type="multi_label_classification")
    reading = HuggingFaceSignal("both", folder, passes, 4).run("stupid please")
    assert isinstance(reading, Scores)
    assert set(reading.values) == {"polite", "rude"}


def copy(tmp_path: Path, **changes: object) -> Path:
    """The tone model with another configuration."""
    folder = tmp_path / "model"
    shutil.copytree(TINY / "tone", folder)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return folder


def test_labels_that_do_not_fit_the_graph_are_refused(passes: InferencePool, tmp_path: Path) -> None:
    """Otherwise a rule would act on the wrong label."""
    with pytest.raises(ConfigError, match="do not fit the 3 labels"):
        HuggingFaceSignal("x", copy(tmp_path, id2label={"0": "a", "1": "b", "2": "c"}), passes, 4)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("config.json", None, "holds neither"),
        ("config.json", "{}", "id2label"),
        ("config.json", "not json", "id2label"),
        ("tokenizer.json", None, "not a tokenizer.json"),
        ("tokenizer.json", "{}", "not a tokenizer.json"),
        ("model.onnx", None, "holds no model"),
        ("model.onnx", "no graph", "not a model that can be run"),
    ],
)
def test_a_broken_folder_is_refused_by_name(
    passes: InferencePool, tmp_path: Path, file: str, content: str | None, said: str
) -> None:
    """The message says what was expected there."""
    folder = copy(tmp_path)
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    with pytest.raises(ConfigError, match=said):
        load(folder, passes)


def load(folder: Path, passes: InferencePool) -> HuggingFaceSignal:
    """Load it as `check` and the router do."""
    assert isinstance(facts_of(folder), ModelManifest)
    return HuggingFaceSignal("x", folder, passes, 4)


def test_roberta_counts_its_positions_from_two(tmp_path: Path) -> None:
    """Of 514 positions, 512 are for tokens."""
    assert ModelManifest.of(copy(tmp_path, max_position_embeddings=514)).max_tokens == 512
    assert ModelManifest.of(tmp_path / "model").max_tokens == 512
