"""What every signal must do. A new one inherits `SignalContract`, provides `signal`, and has these tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.core.types import Classification, Scores
from router.errors import BackendError
from router.inference.bundle import SHIPPED, Bundle
from router.inference.encoder import Encoder
from router.inference.pool import InferencePool
from router.runtime.build_signals import Models
from router.signals.base import Signal
from tests.unit.builders import ask

TINY = Path(__file__).parents[1] / "tiny_models"
ODD_TEXTS = {
    "emoji": "😀" * 300,
    "half a character": "what is \ud83d this",
    "null bytes": "a\0b\0c",
    "one endless word": "x" * 1_000_000,
    "ten megabytes": "hello " * 1_700_000,
    "combining marks": "e" + "\u0301" * 5000,
    "another language": "如何证明根号二是无理数？",
    "code": "def f(x):\n    return x ** 2\n" * 50,
}


class SignalContract:
    """What rules, metrics and the exchange rely on."""

    @pytest.fixture(scope="class")
    @classmethod
    def passes(cls) -> Iterator[InferencePool]:
        """The inference pool of one process."""
        made = InferencePool(2, 64)
        yield made
        made.close()

    @pytest.fixture(scope="class")
    @classmethod
    def bundle(cls) -> Bundle:
        """The shipped model."""
        return Bundle.load(SHIPPED)

    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls, bundle: Bundle, passes: InferencePool) -> Encoder:
        """The shipped model, loaded once."""
        return Encoder(bundle, passes)

    @pytest.fixture(scope="class")
    @classmethod
    def models(cls, passes: InferencePool, bundle: Bundle, encoder: Encoder) -> Models:
        """What the configuration gives to whoever makes a signal."""
        return Models(passes, bundle, encoder)

    async def test_a_question_gets_a_reading(self, signal: Signal) -> None:
        """It is the most probable of several labels whose probabilities sum to one, or a set of independent probabilities."""
        reading = await signal.read(ask("What is the derivative of x squared?"))
        if isinstance(reading, Scores):
            assert all(name and 0 <= score <= 1 for name, score in reading.values.items())
            return
        assert reading.label
        assert 0 < reading.confidence <= 1
        assert sum(reading.probabilities.values()) == pytest.approx(1, abs=1e-3)
        assert reading.confidence == reading.probabilities.get(reading.label, 1.0)  # certain that the text is outside all labels

    @pytest.mark.parametrize("text", ["", "   ", "\n\t"])
    async def test_nothing_to_read_is_a_backend_error(self, signal: Signal, text: str) -> None:
        """The error becomes `Missing`, and the request goes on."""
        with pytest.raises(BackendError, match="no_text"):
            await signal.read(ask(text))

    @pytest.mark.parametrize("name", ODD_TEXTS)
    async def test_no_text_breaks_it(self, signal: Signal, name: str) -> None:
        """Any text gives a reading, or the reason that it is too long to be read whole. A signal that reads
        the whole text needs five seconds to tokenise ten megabytes on an idle machine.
        """
        async with asyncio.timeout(40):
            try:
                assert isinstance(await signal.read(ask(ODD_TEXTS[name])), Classification | Scores)
            except BackendError as error:
                assert error.word == "too_long"  # noqa: PT017 - both are right

    async def test_the_same_text_reads_the_same(self, signal: Signal) -> None:
        """Concurrent readings and later ones agree."""
        first, second = await asyncio.gather(signal.read(ask("same text")), signal.read(ask("same text")))
        assert first == second == await signal.read(ask("same text"))

    async def test_a_cancelled_caller_takes_no_reading_from_another(self, signal: Signal) -> None:
        """A client that disconnects takes no reading from others that asked the same."""
        text = ask(f"a text that two ask for, and nobody before: {id(signal)}")
        first, second = (asyncio.create_task(signal.read(text)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert isinstance(await second, Classification | Scores)

    def test_its_name_can_stand_in_a_rule(self, signal: Signal) -> None:
        """Its name travels in headers and metrics."""
        assert signal.name.isidentifier()
