"""Derives facts about conditions: rules that can never win, and conditions that never or always hold.

It is sound but not complete: every derived fact is true, but not every true fact is derived. Conditions have three truth values,
so a condition that is not YES implies nothing.
"""

from __future__ import annotations

from router.core.conditions import AllOf, AnyOf, Condition, FlagIs, HeaderMatches, LabelIs, Not, TokensWithin, signals_of

_ONE_LABEL = "intent"
"""The signal that names one label at a time; scores such as `jailbreak` may name several."""


def follows(narrow: Condition, broad: Condition) -> bool:
    """Whether `broad` holds in every case in which `narrow` holds."""
    if narrow == broad or never_holds(narrow) or always_holds(broad):
        return True
    match narrow, broad:
        case AnyOf(parts), _:
            return all(follows(part, broad) for part in parts)
        case _, AllOf(parts):
            return all(follows(narrow, part) for part in parts)
        case AllOf(parts), _ if any(follows(part, broad) for part in parts):
            return True
        case _, AnyOf(parts):
            return any(follows(narrow, part) for part in parts)
        case LabelIs(), LabelIs():
            is_same = narrow.signal == broad.signal and narrow.threshold >= broad.threshold
            return is_same and narrow.labels <= broad.labels
        case TokensWithin(), TokensWithin():
            return narrow.min_tokens >= broad.min_tokens and _below(narrow.max_tokens, broad.max_tokens)
        case HeaderMatches(), HeaderMatches():
            return narrow.header == broad.header and broad.pattern.pattern in (".*", narrow.pattern.pattern)
        case _:
            return False


def _below(inner: int | None, outer: int | None) -> bool:
    return outer is None or (inner is not None and inner <= outer)


def always_holds(condition: Condition) -> bool:
    """Whether every request makes it hold."""
    match condition:
        case TokensWithin(min_tokens=0, max_tokens=None):
            return True
        case AllOf(parts):
            return all(map(always_holds, parts)) and bool(parts)
        case AnyOf(parts):
            flags = {(part.flag, part.expected) for part in parts if isinstance(part, FlagIs)}
            return any(map(always_holds, parts)) or any((flag, not expected) in flags for flag, expected in flags)
        case Not(part):
            return never_holds(part) and not signals_of(part)  # what a signal leaves unknown is unknown when negated
        case _:
            return False


def never_holds(condition: Condition) -> bool:
    """Whether no request makes it hold."""
    match condition:
        case AllOf(parts):
            return contradiction(condition) is not None or any(map(never_holds, parts))
        case AnyOf(parts):
            return all(map(never_holds, parts)) and bool(parts)
        case Not(part):
            return always_holds(part)
        case _:
            return False


def contradiction(condition: AllOf) -> tuple[Condition, Condition] | None:
    """Two parts that never hold together, or None."""
    parts = _flat(condition)
    for index, part in enumerate(parts):
        for other in parts[:index]:
            if _exclude(part, other) or _exclude(other, part):
                return other, part
    return None


def _flat(condition: AllOf) -> list[Condition]:
    return [leaf for part in condition.parts for leaf in (_flat(part) if isinstance(part, AllOf) else [part])]


def _exclude(one: Condition, other: Condition) -> bool:
    match one, other:
        case Not(part), _:
            return follows(other, part)
        case AnyOf(parts), _:
            return bool(parts) and all(_exclude(part, other) or _exclude(other, part) for part in parts)
        case FlagIs(), FlagIs():
            return one.flag == other.flag and one.expected is not other.expected
        case TokensWithin(), TokensWithin():
            return other.max_tokens is not None and one.min_tokens > other.max_tokens
        case LabelIs(), LabelIs():
            return one.signal == other.signal == _ONE_LABEL and one.labels.isdisjoint(other.labels)
        case HeaderMatches(), HeaderMatches():
            return one.header == other.header and _are_different_words(one.pattern.pattern, other.pattern.pattern)
        case _:
            return False


def in_words(condition: Condition) -> str:
    """A condition with all its parts, on one line."""
    match condition:
        case Not(part):
            return f"not {in_words(part)}"
        case AnyOf(parts):
            return f"({' or '.join(map(in_words, parts))})"
        case AllOf(parts):
            return f"({' and '.join(map(in_words, parts))})"
        case _:
            return str(condition)


def _are_different_words(one: str, other: str) -> bool:
    """Whether both patterns are plain words and differ."""
    plain = [pattern.replace("\\", "") for pattern in (one, other)]
    return plain[0] != plain[1] and all(word.replace("-", "").replace("_", "").isalnum() for word in plain)
