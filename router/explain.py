"""Why a request goes where it goes: the same exchange that serves it, run by hand, with every rule's verdict beside it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from router.core.exchange import Exchange, Snapshot
from router.core.policy import Condition, Readings, parts_of
from router.core.types import (
    ChatRequest,
    Classification,
    Endpoint,
    Pause,
    Reading,
    Reply,
    RequestBody,
    RequestHeaders,
    Resumed,
    Route,
    Scores,
    Sense,
    Sensed,
)

Sensor = Callable[[Sense], Awaitable[Readings]]
_TOP_LABELS = 3


async def explain(snapshot: Snapshot, sense: Sensor, data: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
    """What would become of the chat request `data`, as a document that JSON can hold.

    Keys: `request`, `signals`, `rules` (each with its verdict and its condition's tree), then `decision`, `cluster`, `headers`
    and `body_diff` when it is routed, or `reply` when the router answers it itself.
    """
    exchange = Exchange(snapshot)
    request_headers = {**headers, ":method": "POST", ":path": Endpoint.CHAT.value}
    exchange.receive(RequestHeaders(request_headers, is_end=False))
    action = exchange.receive(RequestBody(data))
    readings: Readings = {}
    while isinstance(action, Pause | Sense):
        if isinstance(action, Pause):
            action = exchange.receive(Resumed())
            continue
        brought = await sense(action)
        readings = {**readings, **brought}
        action = exchange.receive(Sensed(brought))
    if isinstance(action, Reply):
        return {"reply": {"status": action.http_status, "body": json.loads(action.body)}}
    request = exchange.request
    if not isinstance(action, Route) or request is None:
        raise TypeError(f"a request body cannot be answered by {type(action).__name__}")
    return {
        "request": _facts(request),
        "signals": {name: _reading(reading) for name, reading in readings.items()},
        "rules": _rules(snapshot, request, readings) if request.model in snapshot.auto_models else [],
        "decision": {
            "name": action.set_headers["x-vsr-selected-decision"],
            "reason": action.set_headers["x-vsr-decision-reason"],
            "model": action.set_headers["x-vsr-selected-model"],
            "reasoning": action.set_headers["x-vsr-selected-reasoning"],
        },
        "cluster": action.cluster,
        "headers": dict(action.set_headers),
        "body_diff": _diff(data, action.body),
    }


def render(document: Mapping[str, Any]) -> Iterator[str]:
    """`explain`'s document as lines for a terminal."""
    if "reply" in document:
        yield f"the router answers itself: {document['reply']['status']}"
        yield json.dumps(document["reply"]["body"], indent=2, ensure_ascii=False)
        return
    yield "request    " + ", ".join(f"{name} {value}" for name, value in document["request"].items())
    for name, reading in document["signals"].items():
        yield f"signal     {name}: {_reading_line(reading)}"
    for rule in document["rules"]:
        mark = {"won": "=>", "not asked": "  "}.get(rule["verdict"], " -")
        yield f"rule    {mark} {rule['name']} (priority {rule['priority']}): {rule['verdict']}"
        yield from _tree_lines(rule["when"], 1)
    decision = document["decision"]
    yield f"decision   {decision['name']} ({decision['reason']}), reasoning {decision['reasoning']}"
    yield f"model      {decision['model']} -> cluster {document['cluster']}"
    yield "body       " + ("unchanged" if not document["body_diff"] else "rewritten:")
    yield from (f"  {line}" for line in document["body_diff"])


def _facts(request: ChatRequest) -> dict[str, object]:
    return {
        "model": request.model,
        "text_chars": len(request.text),
        "prompt_tokens": request.prompt_tokens,
        "is_stream": request.is_stream,
        "has_tools": request.has_tools,
        "has_images": request.has_images,
    }


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


def _reading_line(reading: Mapping[str, Any]) -> str:
    if "missing" in reading:
        return f"missing ({reading['missing']})"
    if "scores" in reading:
        ranked = sorted(reading["scores"].items(), key=lambda item: -item[1])[:_TOP_LABELS]
        return ", ".join(f"{name} {score:.2f}" for name, score in ranked) or "nothing found"
    top = ", ".join(f"{label} {probability:.2f}" for label, probability in reading["top"].items())
    return f"{reading['label']} {reading['confidence']:.2f}  ({top})"


def _rules(snapshot: Snapshot, request: ChatRequest, readings: Readings) -> list[dict[str, Any]]:
    """Every rule in the order in which it is asked. After one has won, the others are judged but were not asked."""
    traced: list[dict[str, Any]] = []
    is_won = False
    for rule in snapshot.policy.rules:
        truth = rule.when.judge(request, readings).value
        verdict = "not asked" if is_won else "won" if truth == "yes" else truth
        is_won = is_won or truth == "yes"
        tree = _tree(rule.when, request, readings)
        traced.append({"name": rule.name, "priority": rule.priority, "verdict": verdict, "when": tree})
    return traced


def _tree(condition: Condition, request: ChatRequest, readings: Readings) -> dict[str, Any]:
    node: dict[str, Any] = {"condition": str(condition), "truth": condition.judge(request, readings).value}
    if parts := parts_of(condition):
        node["parts"] = [_tree(part, request, readings) for part in parts]
    return node


def _tree_lines(node: Mapping[str, Any], depth: int) -> Iterator[str]:
    yield f"{'':11}{'  ' * depth}{node['condition']}: {node['truth']}"
    for part in node.get("parts", ()):
        yield from _tree_lines(part, depth + 1)


def _diff(before: bytes, after: bytes | None) -> list[str]:
    if after is None:
        return []
    old, new = (json.dumps(json.loads(body), indent=2, ensure_ascii=False).splitlines() for body in (before, after))
    return [line for line in difflib.unified_diff(old, new, n=1, lineterm="") if not line.startswith(("---", "+++"))]
