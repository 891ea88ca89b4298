"""`max_false_hit_rate`: which threshold it sets, with and without a verifier, and which values are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.cache.checks import CHECKS_ALONE, CHECKS_AMONG_STRANGERS, CHECKS_WITH_VERIFIER
from router.config.calibration import CALIBRATION, CalibrationTable, OperatingPoint, read_table
from router.config.load import parse
from router.core.lookup import CachePolicy
from router.errors import ConfigError

POINTS = (OperatingPoint(0.5, 0.2, 0.6), OperatingPoint(0.8, 0.02, 0.4), OperatingPoint(0.95, 0.004, 0.2))
TABLE = CalibrationTable(True, CALIBRATION, CHECKS_WITH_VERIFIER, POINTS)


TINY = Path(__file__).parents[1] / "tiny_models"
ON = f"verifier: {{ enabled: true, model_path: {TINY / 'verifier'} }}, "


def cache_policy(cache: str, rule: str = "") -> CachePolicy:
    """The cache policy of the default decision, with a table that has the points above."""
    text = f"""
version: 1
models: {{ small: {{ cluster: small }} }}
signals: {{ encoder: {{ enabled: false }} }}
semantic_cache: {{ enabled: true, backend_type: memory, calibration: {TINY / "calibration.json"}, {cache} }}
default: {{ model: small{rule} }}
"""
    return parse(text, "config.yaml").cache.policies["default"]


@pytest.mark.parametrize(("budget", "bar"), [(0.5, 0.5), (0.2, 0.5), (0.1, 0.8), (0.02, 0.8), (0.01, 0.95), (0.004, 0.95)])
def test_a_limit_takes_the_lowest_threshold_that_keeps_it(budget: float, bar: float) -> None:
    """Any higher threshold would lose hits."""
    point = TABLE.point(budget)
    assert point is not None
    assert point.threshold == bar


def test_a_limit_that_no_threshold_keeps_has_none() -> None:
    """Such a limit is refused, not rounded."""
    assert TABLE.point(0.003) is None


def test_beside_a_verifier_the_limit_sets_its_threshold() -> None:
    """The similarity threshold then only chooses the candidates that the verifier sees."""
    found = cache_policy(ON + "max_false_hit_rate: 0.02, similarity_threshold: 0.85")
    assert (found.verifier_threshold, found.similarity_threshold, found.max_false_hit_rate) == (0.8, 0.85, 0.02)
    assert found.lexical_checks == CHECKS_WITH_VERIFIER


def test_one_percent_is_promised_unless_another_limit_is_set() -> None:
    """An operator who sets nothing gets this default."""
    found = cache_policy(ON)
    assert (found.verifier_threshold, found.similarity_threshold, found.max_false_hit_rate) == (0.95, 0.75, 0.01)


def test_other_checks_than_the_measured_promise_nothing() -> None:
    """The threshold stays. The limit on false hits is not claimed, and a configuration that asks for it is refused."""
    found = cache_policy(ON + "lexical_checks: [numbers]")
    assert (found.verifier_threshold, found.max_false_hit_rate) == (0.95, None)
    with pytest.raises(ConfigError, match="was calibrated with the lexical checks"):
        cache_policy(ON + "lexical_checks: [numbers], max_false_hit_rate: 0.02")


@pytest.mark.parametrize("scope", ["global", "{ require_header: authorization }"])
def test_a_cache_that_all_share_adds_the_check_unasked(scope: str) -> None:
    """This holds with and without a verifier, also for rules. The limit is kept. An operator's own list stays as it is."""
    shared = f"scope: {scope}, "
    for rule in ("", ", cache: { ttl_seconds: 5 }"):
        found = cache_policy(ON + shared + "max_false_hit_rate: 0.02", rule)
        assert (found.lexical_checks, found.verifier_threshold, found.max_false_hit_rate) == (
            (*CHECKS_WITH_VERIFIER, *CHECKS_AMONG_STRANGERS),
            0.8,
            0.02,
        )
    assert cache_policy(shared + "verifier: { enabled: false }").lexical_checks == (*CHECKS_ALONE, *CHECKS_AMONG_STRANGERS)
    assert (
        cache_policy(ON + shared + f"lexical_checks: [{', '.join(CHECKS_WITH_VERIFIER)}]").lexical_checks == CHECKS_WITH_VERIFIER
    )
    assert cache_policy(ON + "scope: { header: x-team }").lexical_checks == CHECKS_WITH_VERIFIER


def test_without_a_verifier_the_limit_sets_the_similarity_threshold() -> None:
    """An operator sets the limit or the similarity threshold, not both."""
    off = "verifier: { enabled: false }"
    found = cache_policy(f"{off}, max_false_hit_rate: 0.01")
    assert (found.verifier_threshold, found.similarity_threshold, found.max_false_hit_rate, found.lexical_checks) == (
        0.0,
        0.9,
        0.01,
        CHECKS_ALONE,
    )
    plain = cache_policy(off)
    assert (plain.verifier_threshold, plain.similarity_threshold, plain.max_false_hit_rate) == (0.0, 0.8, None)
    with pytest.raises(ConfigError, match="remove one of them"):
        cache_policy(f"{off}, max_false_hit_rate: 0.01, similarity_threshold: 0.9")


def test_a_rule_may_have_a_limit_of_its_own() -> None:
    """Its other settings are those of the cache."""
    found = cache_policy(ON + "max_false_hit_rate: 0.02", ", cache: { max_false_hit_rate: 0.3 }")
    assert (found.verifier_threshold, found.max_false_hit_rate, found.similarity_threshold) == (0.5, 0.3, 0.75)


def test_a_limit_of_a_rule_does_not_replace_the_similarity_that_is_written() -> None:
    """Without a verifier it would serve what the operator's threshold keeps back. A limit replaces a limit."""
    off = "verifier: { enabled: false }"
    own = ", cache: { max_false_hit_rate: 0.5 }"
    with pytest.raises(ConfigError, match=r"would replace semantic_cache.similarity_threshold \(0\.95\)") as caught:
        cache_policy(f"{off}, similarity_threshold: 0.95", own)
    assert [problem.path for problem in caught.value.problems] == ["default.cache.max_false_hit_rate"]
    cache_policy(f"{off}, max_false_hit_rate: 0.01", own)
    cache_policy(off, own)
    cache_policy(f"{ON}similarity_threshold: 0.95", own)
    assert (
        cache_policy(f"{off}, similarity_threshold: 0.95", ", cache: { similarity_threshold: 0.9 }").similarity_threshold == 0.9
    )


def test_a_limit_that_no_threshold_keeps_is_refused() -> None:
    """The message gives the smallest limit that can be kept."""
    with pytest.raises(ConfigError, match=r"cannot be promised below 0\.004"):
        cache_policy(ON + "max_false_hit_rate: 0.001")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"with_verifier": {"checks": [], "points": [[1]]}}', "{"])
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, content: str) -> None:
    """The message names the file."""
    file = tmp_path / "mine.json"
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"mine\.json is no table"):
        read_table(file, has_verifier=True)


def test_the_shipped_table_has_fewer_false_hits_for_a_higher_threshold() -> None:
    """The table can also keep one percent."""
    table = read_table(CALIBRATION, has_verifier=False)
    assert [point.threshold for point in table.points] == sorted({point.threshold for point in table.points})
    rates = [point.max_false_hit_rate for point in table.points]
    assert rates == sorted(rates, reverse=True)
    assert table.point(0.01) is not None
