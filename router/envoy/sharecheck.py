"""Checks whose cached answers serve whom: rules that shape answers by what clients do not see, and share them all the same."""

from __future__ import annotations

from collections.abc import Iterator

from router.config.conditions import GUARDED_SIGNALS
from router.core.conditions import Condition, HeaderMatches, parts_of, signals_of
from router.core.policy import Default, Rule
from router.envoy.file import Place
from router.envoy.pair import Pair
from router.errors import Problem

_REMEDY = "add `share: model` to its `cache` to keep them apart, or `share: all` if that is meant (see semantic_cache.share)"


def hidden_terms_are_shared_on_purpose(pair: Pair) -> Iterator[Problem]:
    """With `share: all`, answers pass between decisions. A rule for which that may matter has to say `share` itself."""
    rules = {rule.name: rule for rule in pair.config.policy.rules}
    top = pair.settings.top
    for place in top.at("rules").items():
        if rule := rules.get(place.at("name").text):
            yield from _unsaid(pair, place, rule.name, _why_apart(pair, rule))
    yield from _unsaid(pair, top.at("default"), "default", _why_prompted(pair.config.policy.default))


def _unsaid(pair: Pair, place: Place, name: str, why: str) -> Iterator[Problem]:
    cache_policy = pair.config.cache.policies.get(name)
    if not why or not pair.config.cache.enabled or cache_policy is None or cache_policy.share != "all":
        return
    if not place.at("cache", "share"):
        message = f"{why}, and shares cached answers with the decisions that do not; {_REMEDY}"
        yield pair.settings.problem(place, message, "warning")


def _why_apart(pair: Pair, rule: Rule) -> str:
    """Why the answers of a rule may have to stay apart; empty when nothing speaks for it."""
    config = pair.config
    headers = {leaf.header for leaf in _leaves(rule.when) if isinstance(leaf, HeaderMatches)} - {config.cache.scope_header}
    detectors = {*GUARDED_SIGNALS, *(name for name, signal in config.signals.custom.items() if signal.is_detector)}
    if rule.block:
        return ""
    if why := _why_prompted(rule):
        return why
    if headers:
        return f"takes requests by the header {min(headers)}, by which clients may have been told apart"
    if found := signals_of(rule.when) & detectors:
        return f"takes requests by the signal {min(found)}"
    return ""


def _why_prompted(decides: Rule | Default) -> str:
    return "adds a system prompt that clients do not see" if decides.system_prompt else ""


def _leaves(condition: Condition) -> Iterator[Condition]:
    parts = parts_of(condition)
    for part in parts:
        yield from _leaves(part)
    if not parts:
        yield condition


RULES = (hidden_terms_are_shared_on_purpose,)
