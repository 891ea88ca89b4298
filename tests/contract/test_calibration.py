"""`semantic-router calibrate cache` and `eval cache`: from labelled pairs to a limit on wrong hits, and back."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from router.cache.checks import CHECKS_ALONE, CHECKS_WITH_VERIFIER
from router.cli.main import main
from router.config.calibration import read_table
from router.config.load import parse
from router.errors import ConfigError
from router.evaluation.cache import Judged
from router.evaluation.calibration import _halves, table
from router.evaluation.measures import clopper_pearson
from router.runtime.build import build
from router.training.pairs import Maker

TINY = Path(__file__).parents[1] / "tiny_models"
VERIFIER = ("--verifier", str(TINY / "verifier"))
"""It knows three dozen words. Its verdict on others is random, but the calls to it are real."""


def pair(similarity: float, probability: float | None, *, is_same: bool, guard: str = "", text: str = "") -> Judged:
    """A labelled pair."""
    return Judged(f"asked {text}", f"stored {text}", is_same, "", similarity, guard, probability)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts of families that nothing was trained on, labelled as by an operator."""
    made = Maker(random.Random(5), held_back=True).make(700)
    path = tmp_path_factory.mktemp("pairs") / "mine.jsonl"
    path.write_text("".join(json.dumps({"a": p.asked, "b": p.stored, "y": int(p.same), "tag": p.source}) + "\n" for p in made))
    return path


@pytest.fixture(scope="module")
def mine(pairs: Path) -> Path:
    """The operator's own table."""
    out = pairs.parent / "table.json"
    assert main(["calibrate", "cache", str(pairs), "--out", str(out), *VERIFIER]) == 0
    return out


def test_a_served_pair_has_passed_all_three() -> None:
    """These are similarity, checks and verifier. Where the verifier is not asked, the wording is the same."""
    assert pair(0.8, 0.9, is_same=True).is_served(0.8, 0.9)
    assert not pair(0.79, 0.9, is_same=True).is_served(0.8, 0.9)
    assert not pair(0.8, 0.89, is_same=True).is_served(0.8, 0.9)
    assert not pair(0.8, 0.9, is_same=True, guard="numbers").is_served(0.8, 0.9)
    assert pair(0.8, None, is_same=True).is_served(0.8, 0.9)


def test_the_table_holds_the_upper_bound_for_every_threshold() -> None:
    """Of 400 pairs that need two answers, the threshold 0.9 accepts 4."""
    different = [pair(0.9, 0.95 if number < 4 else 0.1, is_same=False) for number in range(400)]
    same = [pair(0.9, 0.2 + 0.008 * number, is_same=True) for number in range(100)]
    points = table([*different, *same], by_verifier=True)
    bar, at_most, recall = min(points, key=lambda point: abs(point[0] - 0.9))
    assert at_most == pytest.approx(clopper_pearson(4, 400))
    assert recall == sum(0.2 + 0.008 * number >= bar for number in range(100)) / 100


def test_the_halves_share_no_question() -> None:
    """Pairs that are connected over any number of steps stay together."""
    chain = [Judged(f"q{n}", f"q{n + 1}", True, "", 0.9, "", 0.9) for n in range(50)]
    others = [pair(0.9, 0.9, is_same=False, text=str(number)) for number in range(200)]
    first, second = _halves([*chain, *others])
    assert not {p.asked for p in first} & {p.asked for p in second}
    assert len({p in first for p in chain}) == 1
    assert 50 < len(first) < 200


def test_an_operators_table_is_one_that_the_router_reads(mine: Path) -> None:
    """It names its models and data."""
    document = json.loads(mine.read_text())
    assert {"encoder_sha256", "verifier_sha256", "data_sha256", "different_pairs", "same_pairs"} <= document.keys()
    for has_verifier, checks in ((True, CHECKS_WITH_VERIFIER), (False, CHECKS_ALONE)):
        table = read_table(mine, has_verifier=has_verifier)
        assert table.checks == checks
        rates = [point.max_false_hit_rate for point in table.points]
        assert rates == sorted(rates, reverse=True)


def test_the_report_tells_how_often_a_hit_is_wrong(pairs: Path, mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The report goes by the threshold of the requested limit, by tag, and for each model alone."""
    assert main(["eval", "cache", str(pairs), "--calibration", str(mine), "--max-false-hit-rate", "0.4", *VERIFIER]) == 0
    said = capsys.readouterr().out
    for word in ("recall", "precision", "false-hit rate", "verifier alone", "similarity alone", "by tag", "vetoes"):
        assert word in said
    rate = float(next(line for line in said.splitlines() if line.startswith("false-hit rate")).split()[2])
    assert rate <= 0.4


def test_without_a_verifier_the_similarity_threshold_decides(pairs: Path, mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All checks judge as well."""
    asked = ["eval", "cache", str(pairs), "--calibration", str(mine), "--max-false-hit-rate", "0.2", "--no-verifier"]
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert "content" in said
    assert "verifier alone" not in said


def test_too_few_pairs_prove_no_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not even no error in a hundred pairs suffices."""
    path = tmp_path / "few.jsonl"
    path.write_text("".join(json.dumps({"a": f"a{n}", "b": f"b{n}", "y": 0}) + "\n" for n in range(20)))
    assert main(["calibrate", "cache", str(path), "--out", str(tmp_path / "out.json"), *VERIFIER]) == 2
    assert "at least 300" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


def test_an_unknown_check_is_refused(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message lists the existing ones."""
    assert main(["eval", "cache", str(pairs), "--checks", "spelling"]) == 2
    assert "known are: numbers" in capsys.readouterr().err


def test_a_table_of_other_models_is_refused_at_start() -> None:
    """It says nothing about these models."""
    text = f"""
version: 1
models: {{ small: {{ cluster: small }} }}
semantic_cache: {{ enabled: true, backend_type: memory, calibration: {TINY / "calibration.json"},
  verifier: {{ enabled: true, model_path: {TINY / "verifier"} }}, shadow: true }}
default: {{ model: small }}
"""
    with pytest.raises(ConfigError, match="made with other models"):
        build(parse(text, "config.yaml"))
