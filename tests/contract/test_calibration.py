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
from router.evaluation.pairs import read_pairs
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


# -- conversations -----------------------------------------------------------------------------------------------------

WORDS = ("please", "help", "ticket", "order", "thanks", "stupid", "this", "you")
"""Words that the tiny verifier knows. It reads 64 tokens of both conversations together."""


def turns(*texts: str, system: str = "") -> list[dict[str, str]]:
    """A conversation."""
    said = [{"role": "assistant" if place % 2 else "user", "content": text} for place, text in enumerate(texts)]
    return [{"role": "system", "content": system}, *said] if system else said


def line(a: object, b: object, y: int, tag: str) -> str:
    """A line of a file of pairs."""
    return json.dumps({"a": a, "b": b, "y": y, "tag": tag}) + "\n"


@pytest.fixture(scope="module")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of conversations: 320 whose earlier turns differ need two answers, and 80 need one."""
    chance = random.Random(8)
    lines = []
    for number in range(400):
        first, second, third, another = (" ".join(chance.choices(WORDS, k=4)) for _ in range(4))
        other = turns(another, second, third) if number % 5 else turns(f"please {first}", second, third)
        lines.append(line(turns(first, second, third), other, int(number % 5 == 0), f"conversation {number % 3}"))
    path = tmp_path_factory.mktemp("conversations") / "conversations.jsonl"
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="module")
def with_conversations(pairs: Path, conversations: Path) -> Path:
    """A table that was measured on conversations, too."""
    out = conversations.parent / "table.json"
    asked = ["calibrate", "cache", str(pairs), "--conversations", str(conversations), "--out", str(out), *VERIFIER]
    assert main(asked) == 0
    return out


def test_a_table_has_a_part_of_its_own_for_conversations(with_conversations: Path, mine: Path) -> None:
    """When it was measured on them. Lexical checks had no part in it, and the rest of the table is the same."""
    document, other = json.loads(with_conversations.read_text()), json.loads(mine.read_text())
    part = document.pop("conversations")
    assert document == other
    assert (part["data"], part["different_pairs"], part["same_pairs"]) == ("conversations.jsonl", 320, 80)
    table = read_table(with_conversations, has_verifier=True)
    rates = [point.max_false_hit_rate for point in table.conversation_points]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(clopper_pearson(0, 320), abs=1e-6)
    assert table.conversation_point(0.02) == table.conversation_points[-1]
    assert read_table(mine, has_verifier=True).conversation_points == ()
    assert read_table(with_conversations, has_verifier=False).conversation_points == ()


def test_the_limit_for_conversations_is_one_that_the_router_takes(with_conversations: Path) -> None:
    """The key is refused with a table without that part."""
    text = f"""
version: 1
models: {{ small: {{ cluster: small }} }}
semantic_cache: {{ enabled: true, backend_type: memory, calibration: {with_conversations}, max_false_hit_rate: 0.5,
  verifier: {{ enabled: true, model_path: {TINY / "verifier"} }}, similar_conversations: true }}
default: {{ model: small }}
"""
    found = build(parse(text, "config.yaml")).caching
    assert found
    point = read_table(with_conversations, has_verifier=True).conversation_point(0.5)
    policy = found.plan(b"key").policies["default"]
    assert point
    assert policy.conversations
    assert policy.conversations.verifier == point.threshold


def test_eval_measures_conversations_by_their_own_threshold(
    with_conversations: Path, conversations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The figures are those of the point in the table."""
    asked = ["eval", "cache", str(conversations), "--calibration", str(with_conversations), "--max-false-hit-rate", "0.4"]
    assert main([*asked, *VERIFIER]) == 0
    said = capsys.readouterr().out
    point = read_table(with_conversations, has_verifier=True).conversation_point(0.4)
    assert point
    assert f"conversations at similarity 0.50 and verifier {point.threshold:.3f}:" in said
    recall = float(next(line for line in said.splitlines() if line.startswith("recall")).split()[1])
    assert recall == pytest.approx(point.recall, abs=1e-4)
    assert "conversation 2" in said


def test_eval_needs_a_table_for_conversations(mine: Path, conversations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message names the command."""
    asked = ["eval", "cache", str(conversations), "--calibration", str(mine), "--max-false-hit-rate", "0.4", *VERIFIER]
    assert main(asked) == 2
    assert "calibrate cache PAIRS --conversations CONVERSATIONS" in capsys.readouterr().err


def test_what_never_meets_in_the_cache_counts_as_not_served(
    tmp_path: Path, with_conversations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other system messages, turns that are too long or could be several; and earlier turns that are equal count as questions."""
    path = tmp_path / "apart.jsonl"
    alike = turns("please help", "thanks", "this order")
    path.write_text(
        line(alike, turns("please help", "thanks", "this order", system="x"), 1, "system")
        + line(turns("a", "b", "c", system="x"), turns("a", "x", "c", system="x"), 1, "turns")
        + line(turns("user: a", "b", "c"), turns("a", "b", "c"), 1, "unclear")
        + line(turns("a" * 4000, "b", "c"), turns("a", "b", "c"), 1, "long")
        + line(turns("a" * 4000, "b", "this is 1 order"), turns("a" * 4000, "b", "this is 2 order"), 0, "equal")
        + line(
            [{"role": "developer", "content": "x"}, *alike], turns("please help", "thanks", "this order", system="x"), 1, "role"
        )
    )
    assert [(pair.is_of_conversations, pair.apart) for pair in read_pairs(path)] == [
        (True, "other_namespace"),
        (True, ""),
        (True, "unclear_turns"),
        (True, "verifier_too_long"),
        (False, ""),
        (True, "other_namespace"),
    ]
    asked = ["eval", "cache", str(path), "--calibration", str(with_conversations), "--max-false-hit-rate", "0.4", *VERIFIER]
    assert main(asked) == 0
    said = capsys.readouterr().out.partition("vetoes")[2]
    vetoes = {words[0]: words[1:] for words in map(str.split, said.splitlines()[1:])}
    assert vetoes["numbers"] == ["1", "0"]
    assert vetoes["unclear_turns"][0] == "0"


@pytest.mark.parametrize(
    "a",
    [
        "text",
        [],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        [{"role": "tool", "content": "a"}, {"role": "user", "content": "b"}],
        [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
        [{"role": "user"}],
        ["a"],
    ],
    ids=json.dumps,
)
def test_a_line_that_is_no_pair_of_conversations_is_named(a: object, tmp_path: Path) -> None:
    """With what was expected."""
    path = tmp_path / "bad.jsonl"
    path.write_text(line(turns("a"), turns("b"), 1, "") + line(a, turns("b"), 1, ""))
    with pytest.raises(ConfigError, match='"a" and "b" are texts, or conversations') as caught:
        read_pairs(path)
    assert [problem.line for problem in caught.value.problems] == [2]


def test_too_few_conversations_prove_no_limit(pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those with equal earlier turns are judged as questions, and prove nothing here. Without a verifier there is no part."""
    path, out = tmp_path / "few.jsonl", tmp_path / "out.json"
    path.write_text("".join(line(turns("a", "b", f"c{n}"), turns("a", "b", f"d{n}"), 0, "") for n in range(400)))
    asked = ["calibrate", "cache", str(pairs), "--conversations", str(path), "--out", str(out)]
    assert main([*asked, *VERIFIER]) == 2
    assert "holds 0 pairs of conversations whose earlier turns differ" in capsys.readouterr().err
    assert main([*asked, "--no-verifier"]) == 2
    assert "without a verifier, no conversations are compared" in capsys.readouterr().err
    assert not out.exists()
