"""Explains where a request goes and why. It runs the same exchange that serves traffic, and reports what decided.

The result is a document; `cli/explaintext` renders it for people. It holds no stored answer, and of the prompt only the lines of
the body that the router changes.
"""

from __future__ import annotations

import asyncio
import difflib
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping

from router.admin.asked import Asked
from router.core.conditions import Condition, HeaderMatches, LabelIs, parts_of, signals_of
from router.core.decision_headers import reasoning_word
from router.core.events import (
    Action,
    LookedUp,
    Lookup,
    Pause,
    ReadSignals,
    Reply,
    RequestBody,
    RequestHeaders,
    Resumed,
    Route,
    SignalsRead,
)
from router.core.exchange import Exchange
from router.core.headers import CACHE_HEADERS, CLUSTER_HEADER, METHOD, PATH, PATH_HEADER, SECRET_HEADERS
from router.core.lookup import CachePolicy, Found, Miss
from router.core.policy import Default, Rule
from router.core.selection import QUALITY, Selector
from router.core.snapshot import Snapshot
from router.core.types import ChatRequest, Classification, Decision, Reading, Readings, Scores

SignalReader = Callable[[ReadSignals], Awaitable[Readings]]
Peek = Callable[[Lookup], Awaitable[tuple[Found, Mapping[str, object]]]]
"""Asks the cache what it would answer and why, without changing it."""
_TOP_LABELS = 3
_MAX_DIFF_BYTES, _MAX_DIFF_LINES = 1024 * 1024, 10_000
"""A larger body gets no diff: the time is quadratic in the lines, and traffic waits meanwhile."""
_UNKNOWN = Miss("unknown")
"""Stands for the answer of a cache that only the running router has."""


async def explain(snapshot: Snapshot, read_signals: SignalReader, asked: Asked, peek: Peek | None = None) -> dict[str, object]:
    """What the router would do with a request, as a JSON document.

    Keys: `request`, `signals`, `unread`, `rules` (each with its verdict and the tree of its condition), `decision`, `selection`
    (if a model was selected by predicted accuracy and cost) and `cache`, as far as the request got. A routed request also has
    `cluster`, `headers` and `body_diff`; a request that the router answers itself has `reply`.

    Without `peek` the document leaves open whether the cache has an answer.
    """
    exchange = Exchange(snapshot)
    headers = {**asked.headers, METHOD: "POST", PATH: asked.endpoint.value}
    exchange.receive(RequestHeaders(headers, is_end=False))
    action, lookup, weighed = exchange.receive(RequestBody(asked.body)), None, None
    while isinstance(action, Pause | ReadSignals | Lookup):
        if isinstance(action, Pause):
            await asyncio.sleep(0)  # traffic gets a turn
            action = exchange.receive(Resumed())
        elif isinstance(action, ReadSignals):
            action = exchange.receive(SignalsRead(await read_signals(action)))
        else:
            found, weighed = await peek(action) if peek else (_UNKNOWN, None)
            lookup, action = action, exchange.receive(LookedUp(found, now_s=0, reply_id="explained"))
    is_cache_known = peek is not None or lookup is None
    return _weighing(exchange, lookup, weighed) | _result(action, asked.body, is_cache_known=is_cache_known)


def _weighing(exchange: Exchange, lookup: Lookup | None, weighed: Mapping[str, object] | None) -> dict[str, object]:
    """The part of the document before the result. Empty for a request that could not be read."""
    snapshot, request, decision, readings = exchange.snapshot, exchange.request, exchange.decision, exchange.readings
    if request is None:
        return {}
    document: dict[str, object] = {"request": _facts(request)}
    if decision is None:  # refused before any rule was evaluated
        return document
    secrets = SECRET_HEADERS | ({snapshot.cache.scope.header} if snapshot.cache else set())
    wanted = _asked_of(snapshot, request, decision)
    document["signals"] = {name: _reading(reading) | _thresholds(name, wanted) for name, reading in readings.items()}
    document["unread"] = _unread(snapshot, request, decision, readings)
    document["rules"] = _rules(snapshot, request, decision, readings, secrets)
    document["decision"] = _decision(decision)
    chosen = next((rule for rule in snapshot.policy.rules if rule.name == decision.name), None) or snapshot.policy.default
    if decision.reason not in ("explicit_model", "cached") and chosen.selection:
        document["selection"] = _selection(chosen, chosen.selection, decision, readings)
    document["cache"] = _cache(exchange, lookup, weighed)
    return document


def _result(action: Action, body: bytes, *, is_cache_known: bool) -> dict[str, object]:
    if isinstance(action, Reply):
        reply: dict[str, object] = {"status": action.http_status, "headers": dict(action.headers)}
        if action.headers.get(PATH_HEADER) != "cache":  # `cache get` shows a stored answer
            reply["body"] = json.loads(action.body)
        if not is_cache_known:  # the request says `only-if-cached`
            reply["unless"] = "an answer is stored"
        return {"reply": reply}
    if not isinstance(action, Route):
        raise TypeError(f"a request body cannot be answered by {type(action).__name__}")
    headers = {name: value for name, value in action.set_headers.items() if is_cache_known or name not in CACHE_HEADERS}
    return {"cluster": action.set_headers[CLUSTER_HEADER], "headers": headers, "body_diff": _diff(body, action.body)}


def _facts(request: ChatRequest) -> dict[str, object]:
    return {
        "endpoint": request.endpoint.name.lower(),
        "model": request.model,
        "text_chars": len(request.text),
        "prompt_tokens": request.prompt_tokens,
        "is_stream": request.is_stream,
        "has_tools": request.has_tools,
        "has_images": request.has_images,
    }


def _decision(decision: Decision) -> dict[str, object]:
    document: dict[str, object] = {"name": decision.name, "reason": decision.reason}
    if decision.block:
        return document | {"blocks": True} | ({"missing": decision.missing} if decision.missing else {})
    return document | {"model": decision.model.name, "reasoning": reasoning_word(decision)}


# -- signals -----------------------------------------------------------------------------------------------------------


def _reading(reading: Reading) -> dict[str, object]:
    if isinstance(reading, Scores):
        return {"scores": {name: round(score, 4) for name, score in reading.values.items()}}
    if not isinstance(reading, Classification):
        return {"missing": reading.reason}
    ranked = sorted(reading.probabilities.items(), key=lambda item: -item[1])[:_TOP_LABELS]
    return {
        "label": reading.label,
        "confidence": round(reading.confidence, 4),
        "top": {label: round(probability, 4) for label, probability in ranked},
    }


def _asked_of(snapshot: Snapshot, request: ChatRequest, decision: Decision) -> list[Rule]:
    """The rules that apply to a request. If it names its model, or is answered before signals are read, only rules that block."""
    if decision.reason == "cached":
        return [rule for rule in snapshot.policy.rules if rule.block]
    is_open = request.model in snapshot.virtual_models
    return [rule for rule in snapshot.policy.rules if is_open or rule.block]


def _thresholds(name: str, rules: Iterable[Rule]) -> dict[str, object]:
    """The thresholds that the rules compare a reading with."""
    found = {leaf.threshold for rule in rules for leaf in _leaves(rule.when) if isinstance(leaf, LabelIs) and leaf.signal == name}
    return {"thresholds": sorted(found)} if found else {}


def _leaves(condition: Condition) -> list[Condition]:
    parts = parts_of(condition)
    return [leaf for part in parts for leaf in _leaves(part)] if parts else [condition]


def _unread(snapshot: Snapshot, request: ChatRequest, decision: Decision, readings: Readings) -> dict[str, str]:
    """Each signal that rules use and that was not read, with the reason."""
    rules, wanted = snapshot.policy.rules, _asked_of(snapshot, request, decision)
    if decision.reason == "cached":
        return dict.fromkeys(sorted(snapshot.policy.signals), "the same text has an answer in the cache")
    names = [rule.name for rule in rules]
    won = names.index(decision.name) if decision.name in names else len(names)
    found: dict[str, str] = {}
    for name in sorted(snapshot.policy.signals - readings.keys()):
        askers = [rule for rule in wanted if name in signals_of(rule.when)]
        if not askers and name != QUALITY:
            found[name] = "the request names its model, so only blocking rules apply"
        elif all(names.index(rule.name) > won for rule in askers):
            found[name] = f"{decision.name} decided before it was needed" if won < len(names) else "the choice does not need it"
        else:
            found[name] = f"{', '.join(rule.name for rule in askers)}: decided without it"
    return found


# -- rules -------------------------------------------------------------------------------------------------------------


def _rules(
    snapshot: Snapshot, request: ChatRequest, decision: Decision, readings: Readings, secrets: Iterable[str]
) -> list[dict[str, object]]:
    """All rules in their order, each with its verdict. Rules after the winner show what they would say, as `not evaluated`."""
    traced: list[dict[str, object]] = []
    wanted, is_won = _asked_of(snapshot, request, decision), False
    for rule in snapshot.policy.rules:
        truth = rule.when.judge(request, readings).value
        is_asked = rule in wanted and not is_won
        verdict = "not evaluated" if not is_asked else "won" if rule.name == decision.name else truth
        is_won = is_won or verdict == "won"
        traced.append({"name": rule.name, "priority": rule.priority, "verdict": verdict, **_blocks(rule)})
        traced[-1]["when"] = _tree(rule.when, request, readings, frozenset(secrets))
    return traced


def _blocks(rule: Rule) -> dict[str, str]:
    if rule.block is None:
        return {}
    return {"blocks": "also what cannot be read" if rule.block.fails_closed else "only what was read"}


def _tree(condition: Condition, request: ChatRequest, readings: Readings, secrets: frozenset[str]) -> dict[str, object]:
    node: dict[str, object] = {"condition": str(condition), "truth": condition.judge(request, readings).value}
    if read := _read(condition, request, readings, secrets):
        node["read"] = read
    if parts := parts_of(condition):
        node["parts"] = [_tree(part, request, readings, secrets) for part in parts]
    return node


def _read(condition: Condition, request: ChatRequest, readings: Readings, secrets: frozenset[str]) -> str:
    """The value that a condition was compared with: a label, a score, or a header's value."""
    match condition:
        case LabelIs(signal=name, labels=labels):
            return _read_label(readings.get(name), labels)
        case HeaderMatches(header=header):
            value = request.headers.get(header)
            return "no such header" if value is None else "a secret" if header in secrets else _shown(value)
        case _:
            return ""


def _read_label(reading: Reading | None, labels: frozenset[str]) -> str:
    match reading:
        case None:
            return "not read"
        case Classification(label=label, confidence=confidence):
            return f"{label} {confidence:.2f}"
        case Scores(values=values):
            scored = max(((values.get(label, 0.0), label) for label in sorted(labels)), key=lambda item: item[0])
            return f"{scored[1]} {scored[0]:.2f}"
        case _:
            return f"missing ({reading.reason})"


def _shown(value: str) -> str:
    """The value in one line, without half surrogate pairs."""
    return repr(value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))


# -- selection ---------------------------------------------------------------------------------------------------------


def _selection(chosen: Rule | Default, selection: Selector, decision: Decision, readings: Readings) -> dict[str, object]:
    """The candidates with their scores, best first."""
    scores = readings.get(QUALITY)
    document: dict[str, object] = dict(selection.settings())
    if not isinstance(scores, Scores):
        why = f"{chosen.model.name}: the fallback, because accuracy could not be predicted ({_read_label(scores, frozenset())})"
        models = [
            {"model": model.name, "quality_profile": model.quality_profile, "cost": model.cost} for model in selection.models
        ]
        return document | {"why": why, "candidates": models}
    ranked = sorted(selection.weigh(scores), key=lambda candidate: (-candidate.score, candidate.model.cost))
    document["candidates"] = [
        {
            "model": candidate.model.name,
            "quality_profile": candidate.model.quality_profile,
            "accuracy": round(candidate.accuracy, 4),
            "cost": candidate.model.cost,
            "score": round(candidate.score, 4),
        }
        for candidate in ranked
    ]
    is_tie = len(ranked) > 1 and ranked[0].score == ranked[1].score
    why = "the cheaper of equal scores" if is_tie else selection.why
    return document | {"why": f"{decision.model.name}: {why}"}


# -- cache -------------------------------------------------------------------------------------------------------------


def _cache(exchange: Exchange, lookup: Lookup | None, weighed: Mapping[str, object] | None) -> dict[str, object]:
    """Whether the cache may answer the request, the settings of the lookup, and its result."""
    plan, decision = exchange.snapshot.cache, exchange.decision
    if plan is None:
        return {"status": "off"}
    if decision is not None and decision.block:
        return {"status": "skipped", "reason": "blocked"}
    document: dict[str, object] = {"status": exchange.cache.status, "reason": exchange.cache.reason}
    scope = plan.scope
    document["shared_by"] = f"equal values of {scope.header}" if scope.header else "all"
    if lookup is None:
        return document
    document["is_ahead"] = lookup.is_ahead
    if weighed is None:
        document = {**document, "status": "looked up", "reason": "unknown"}
    elif scope.header:
        document["scope"] = lookup.query.scope
    cache_policy, query = lookup.cache_policy, lookup.query
    document["conversations"] = "compared" if query.with_turns else query.not_compared or "off"
    document["policy"] = {
        "share": cache_policy.share,
        "min_similarity": cache_policy.similarity_threshold,
        "min_probability": cache_policy.verifier_threshold,
        "lexical_checks": list(cache_policy.lexical_checks),
        "ttl_s": cache_policy.ttl_s,
        "max_age_s": cache_policy.max_age_s,
        "coalesce_timeout_s": cache_policy.coalesce_timeout_s,
        "is_shadow": cache_policy.shadow,
        "may_look_up": cache_policy.may_look_up,
        "may_store": cache_policy.may_store,
        **_conversation_thresholds(cache_policy),
    }
    return document | dict(weighed or {})


def _conversation_thresholds(cache_policy: CachePolicy) -> dict[str, float]:
    thresholds = cache_policy.conversations
    if thresholds is None:
        return {}
    return {
        "min_similarity_of_conversations": thresholds.similarity,
        "min_probability_of_conversations": thresholds.verifier,
    }


def _diff(before: bytes, after: bytes | None) -> list[str]:
    if after is None:
        return []
    too_large = [f"too large to show: {len(before)} bytes become {len(after)}"]
    if len(before) > _MAX_DIFF_BYTES:
        return too_large
    old, new = (json.dumps(json.loads(body), indent=2, ensure_ascii=False).splitlines() for body in (before, after))
    if len(old) > _MAX_DIFF_LINES:
        return too_large
    return [line for line in difflib.unified_diff(old, new, n=1, lineterm="") if not line.startswith(("---", "+++"))]
