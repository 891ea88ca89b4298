"""`similar_conversations` in the configuration: which thresholds it has, and when it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from router.cache.checks import CHECKS_WITH_VERIFIER
from router.config.calibration import CALIBRATION, read_table
from router.config.load import parse
from router.core.lookup import CachePolicy, ConversationThresholds
from router.errors import ConfigError, Problem

TINY = Path(__file__).parents[1] / "tiny_models"
POINTS = [[0.4, 0.3, 0.9], [0.7, 0.05, 0.6], [0.97, 0.008, 0.3]]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table that was measured on conversations, too."""
    document = json.loads((TINY / "calibration.json").read_text())
    path = tmp_path / "table.json"
    path.write_text(json.dumps(document | {"conversations": {"points": POINTS}}))
    return path


def config_text(cache: str, rule: str = "", table: Path = TINY / "calibration.json") -> str:
    """A configuration with a rule."""
    return f"""
version: 1
models: {{ small: {{ cluster: small }} }}
signals: {{ encoder: {{ enabled: false }} }}
semantic_cache:
  enabled: true
  backend_type: memory
  calibration: {table}
  verifier: {{ model_path: {TINY / "verifier"} }}
{cache}
rules:
- name: streams
  when: {{ is_stream: true }}
  model: small
  cache: {{ ttl_seconds: 60 {rule} }}
default: {{ model: small }}
"""


def policies(cache: str, rule: str = "", table: Path = TINY / "calibration.json") -> dict[str, CachePolicy]:
    """The cache policies of the rule and the default."""
    return dict(parse(config_text(cache, rule, table), "config.yaml").cache.policies)


def problems(cache: str, rule: str = "", table: Path = TINY / "calibration.json") -> list[Problem]:
    """What is wrong with a configuration."""
    with pytest.raises(ConfigError) as caught:
        parse(config_text(cache, rule, table), "config.yaml")
    return caught.value.problems


def test_it_is_off_by_default(table: Path) -> None:
    """Also with a table that would allow it."""
    assert [policy.conversations for policy in policies("", table=table).values()] == [None, None]


@pytest.mark.parametrize(
    ("cache", "similarity", "threshold"),
    [
        ("", 0.5, 0.97),
        ("  max_false_hit_rate: 0.05", 0.5, 0.7),
        ("  max_false_hit_rate: 0.3", 0.5, 0.4),
        ("  similarity_threshold: 0.8", 0.8, 0.97),
    ],
)
def test_the_limit_on_wrong_hits_sets_its_threshold(table: Path, cache: str, similarity: float, threshold: float) -> None:
    """By the part of the table for conversations: 0.01 unless another limit is set. A written similarity holds for all."""
    found = policies(f"  similar_conversations: true\n{cache}", table=table)
    assert {policy.conversations for policy in found.values()} == {ConversationThresholds(similarity, threshold)}
    assert {policy.lexical_checks for policy in found.values()} == {CHECKS_WITH_VERIFIER}


def test_a_rule_may_say_otherwise(table: Path) -> None:
    """Its limit and its similarity are those of the cache unless it names its own."""
    on = ConversationThresholds(0.5, 0.97)
    assert policies("", ", similar_conversations: true", table)["streams"].conversations == on
    assert policies("", ", similar_conversations: true", table)["default"].conversations is None
    off = policies("  similar_conversations: true", ", similar_conversations: false", table)
    assert (off["streams"].conversations, off["default"].conversations) == (None, on)
    own = policies("  similar_conversations: true\n  similarity_threshold: 0.7", ", max_false_hit_rate: 0.3", table)
    assert own["streams"].conversations == ConversationThresholds(0.7, 0.4)
    assert own["default"].conversations == ConversationThresholds(0.7, 0.97)


@pytest.mark.parametrize("cache", ["  similar_conversations: true", "  similar_conversations: true\n  max_false_hit_rate: 0.2"])
def test_a_table_without_conversations_is_refused_with_the_command_that_makes_one(cache: str) -> None:
    """Once, though each rule inherits the key."""
    (problem,) = problems(cache)
    assert (problem.path, problem.line) == ("semantic_cache.similar_conversations", 10)
    assert "calibrate cache PAIRS --conversations CONVERSATIONS --out FILE" in problem.message
    assert "calibration.json was not measured on conversations" in problem.message


def test_the_shipped_table_decides_whether_the_shipped_models_may() -> None:
    """No promise is made that was not measured."""
    has_part = bool(read_table(CALIBRATION, has_verifier=True).conversation_points)
    text = """
version: 1
models: { small: { cluster: small } }
semantic_cache: { enabled: true, backend_type: memory, similar_conversations: true, max_false_hit_rate: 0.5 }
default: { model: small }
"""
    if has_part:
        assert parse(text, "config.yaml").cache.policies["default"].conversations
    else:
        with pytest.raises(ConfigError, match="was not measured on conversations"):
            parse(text, "config.yaml")


def test_a_rule_that_asks_for_it_is_refused_itself() -> None:
    """The problem stands at the rule."""
    (problem,) = problems("", ", similar_conversations: true")
    assert problem.path == "rules[0].cache.similar_conversations"


def test_it_needs_the_verifier(table: Path) -> None:
    """No check reads conversations in its place."""
    text = config_text("  similar_conversations: true", table=table).replace("verifier: {", "verifier: { enabled: false } #")
    with pytest.raises(ConfigError) as caught:
        parse(text, "config.yaml")
    (problem,) = caught.value.problems
    assert problem.message.startswith("needs the verifier, which reads both conversations")


@pytest.mark.parametrize(
    ("cache", "rule", "path"),
    [
        ("  similar_conversations: true\n  scope: global", "", "semantic_cache.similar_conversations"),
        ("  similar_conversations: true\n  scope: { require_header: x-key }", "", "semantic_cache.similar_conversations"),
        ("  scope: global", ", similar_conversations: true", "rules[0].cache.similar_conversations"),
        (f"  similar_conversations: true\n  lexical_checks: [{', '.join(CHECKS_WITH_VERIFIER)}, unasked]", "",
         "semantic_cache.similar_conversations"),
        ("  similar_conversations: true", f", lexical_checks: [{', '.join(CHECKS_WITH_VERIFIER)}, unasked]",
         "rules[0].cache.lexical_checks"),
    ],
)  # fmt: skip
def test_among_strangers_it_is_refused(table: Path, cache: str, rule: str, path: str) -> None:
    """A client may put any words into an assistant's turn: one stranger would steer what others get."""
    (problem,) = problems(cache, rule, table)
    assert problem.path == path
    assert "a client may put any words into an assistant's turn" in problem.message


def test_where_all_share_and_trust_each_other_the_operator_may_say_so(table: Path) -> None:
    """By a list of checks without `unasked`."""
    cache = f"  similar_conversations: true\n  scope: global\n  lexical_checks: [{', '.join(CHECKS_WITH_VERIFIER)}]"
    assert policies(cache, table=table)["default"].conversations


def test_a_limit_that_no_threshold_keeps_is_refused(table: Path) -> None:
    """The message gives the smallest one. A rule is refused by the key that it names."""
    (problem,) = problems("  similar_conversations: true\n  max_false_hit_rate: 0.005", table=table)
    assert problem.path == "semantic_cache.similar_conversations"
    assert "cannot be promised at a max_false_hit_rate of 0.005; name at least 0.008" in problem.message
    (problem,) = problems("  similar_conversations: true", ", max_false_hit_rate: 0.005", table)
    assert problem.path == "rules[0].cache.max_false_hit_rate"


def test_without_conversations_it_could_do_nothing(table: Path) -> None:
    """Where they are not cached at all."""
    (problem,) = problems("  similar_conversations: true\n  eligibility: { multi_turn: false }", table=table)
    assert (problem.path, problem.message) == (
        "semantic_cache.similar_conversations",
        "could do nothing: semantic_cache.eligibility.multi_turn is false",
    )


@pytest.mark.parametrize("part", [[], {"points": [[1]]}, {}, "x", {"points": {"a": 1}}])
def test_a_part_that_is_no_table_is_refused(tmp_path: Path, part: Any) -> None:
    """As the rest of the file is."""
    document = json.loads((TINY / "calibration.json").read_text())
    path = tmp_path / "table.json"
    path.write_text(json.dumps(document | {"conversations": part}))
    (problem,) = problems("  similar_conversations: true", table=path)
    assert "is no table that `semantic-router calibrate cache` made" in problem.message
