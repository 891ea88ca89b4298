"""The verifier's model at run time: a tiny one, exported as a large one would be."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.cache.checks import CHECKS_WITH_VERIFIER
from router.cache.verifier import Verifier
from router.core.lookup import CachePolicy, Verdict
from router.errors import BackendError
from router.inference.bundle import Bundle
from router.inference.cross_encoder import CrossEncoder
from router.inference.pool import InferencePool

TINY = Path(__file__).parents[1] / "tiny_models" / "verifier"
KIND, ALSO_KIND, RUDE = "help with my order please", "thanks for the order", "this is a stupid order"


@pytest.fixture
def passes() -> Iterator[InferencePool]:
    """The inference pool of one process."""
    made = InferencePool(1, 2)
    yield made
    made.close()


@pytest.fixture
def model(passes: InferencePool) -> CrossEncoder:
    """A model that compares the tone of two texts."""
    return CrossEncoder(Bundle.load(TINY), passes)


async def test_pairs_are_scored_in_either_order(model: CrossEncoder) -> None:
    """Same tone scores high, different tone low."""
    assert await model.score(KIND, ALSO_KIND) > 0.8
    assert await model.score(ALSO_KIND, KIND) > 0.8
    assert await model.score(KIND, RUDE) < 0.2
    assert await model.score(RUDE, KIND) < 0.2


async def test_what_cannot_be_read_whole_is_not_judged(model: CrossEncoder) -> None:
    """The difference could be in what was cut off."""
    with pytest.raises(BackendError, match="too_long"):
        await model.score("the order " * 30, "the order " * 30)
    with pytest.raises(BackendError, match="too_long"):
        await model.score("x" * 5000, "x")


async def test_what_the_model_has_no_words_for_is_not_judged(model: CrossEncoder) -> None:
    """All such words look alike to it. If both texts hold them, nothing is lost."""
    for asked, stored in (("order 😀", "order 😡"), ("order 😀", "order"), ("order " + "a" * 200, "order " + "b" * 200)):
        with pytest.raises(BackendError, match="unknown_words"):
            await model.score(asked, stored)
    assert 0 <= await model.score("order 😀", "my order 😀") <= 1


@pytest.mark.parametrize("text", ["", "half \ud83d", "\0", "😀"])
async def test_no_text_breaks_it(model: CrossEncoder, text: str) -> None:
    """This holds for whatever a client sends."""
    assert 0 <= await model.score(text, text) <= 1


async def test_all_models_share_the_bound_on_passes(
    model: CrossEncoder, passes: InferencePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process takes two passes at a time."""
    go = threading.Event()
    monkeypatch.setattr(model, "run", lambda *_: float(go.wait(5)))
    waiting = [asyncio.ensure_future(model.score("a", "b")), passes.submit(lambda: go.wait(5))]
    await asyncio.sleep(0)
    with pytest.raises(BackendError, match="overloaded"):
        await model.score("c", "d")
    go.set()
    await asyncio.gather(*waiting)


async def test_the_cache_asks_it_behind_the_checks(model: CrossEncoder) -> None:
    """Its probability goes with the verdict."""
    verify, terms = Verifier(model.score), CachePolicy(0.75, 3600.0, CHECKS_WITH_VERIFIER, verifier_threshold=0.5)
    served, refused = await verify(KIND, ALSO_KIND, terms), await verify(KIND, RUDE, terms)
    assert served.refusal == ""
    assert served.probability is not None
    assert served.probability > 0.8
    assert refused.refusal == "verifier"
    assert (await verify("order 1 please", "order 2 please", terms)) == Verdict("numbers")
