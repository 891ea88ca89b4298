"""Renders the document of `explain` as lines for people. Adds nothing of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from router.core.headers import CACHE_ENTRY_HEADER

Node = Mapping[str, Any]
"""A part of the document that `admin/explain` made, perhaps in another process."""
_TOP_SCORES = 3
_ACROSS = {"all": "all decisions", "model": "decisions that ask the model alike", "decision": "requests of this decision"}
_MARKS = {"won": "=>", "not evaluated": "  "}


def render(document: Node) -> Iterator[str]:
    """The lines for a terminal."""
    if "request" in document:
        yield "request    " + ", ".join(f"{name} {value}" for name, value in document["request"].items())
    yield from _signal_lines(document)
    for rule in document.get("rules", ()):
        blocks = f", blocks {rule['blocks']}" if "blocks" in rule else ""
        about = f"{rule['name']} (priority {rule['priority']}{blocks})"
        yield f"rule    {_MARKS.get(rule['verdict'], ' -')} {about}: {rule['verdict']}"
        yield from _tree_lines(rule["when"], 1)
    if "decision" in document:
        yield _decision_line(document["decision"])
    yield from _selection_lines(document.get("selection"))
    yield from _cache_lines(document.get("cache"))
    if "reply" in document:
        yield from _reply_lines(document["reply"])
        return
    yield f"model      {document['decision']['model']} -> cluster {document['cluster']}"
    yield "body       " + ("unchanged" if not document["body_diff"] else "rewritten:")
    yield from (f"  {line}" for line in document["body_diff"])


def _signal_lines(document: Node) -> Iterator[str]:
    for name, reading in document.get("signals", {}).items():
        held = ", ".join(f"{threshold:.2f}" for threshold in reading.get("thresholds", ()))
        line = (
            "see selection" if name == "quality" and "selection" in document and "scores" in reading else _reading_line(reading)
        )
        yield f"signal     {name}: {line}" + (f"; threshold {held}" if held else "")
    for name, why in document.get("unread", {}).items():
        yield f"not read   {name}: {why}"


def _reading_line(reading: Node) -> str:
    if "missing" in reading:
        return f"missing ({reading['missing']})"
    if "scores" in reading:
        ranked = sorted(reading["scores"].items(), key=lambda item: -item[1])[:_TOP_SCORES]
        return ", ".join(f"{name} {score:.2f}" for name, score in ranked) or "nothing found"
    top = ", ".join(f"{label} {probability:.2f}" for label, probability in reading["top"].items())
    return f"{reading['label']} {reading['confidence']:.2f}  ({top})"


def _tree_lines(node: Node, depth: int) -> Iterator[str]:
    read = f" ({node['read']})" if "read" in node else ""
    yield f"{'':11}{'  ' * depth}{node['condition']}: {node['truth']}{read}"
    for part in node.get("parts", ()):
        yield from _tree_lines(part, depth + 1)


def _decision_line(decision: Node) -> str:
    if decision.get("blocks"):
        missing = f": {decision['missing']}" if "missing" in decision else ""
        return f"decision   {decision['name']} ({decision['reason']}{missing}) blocks the request"
    return f"decision   {decision['name']} ({decision['reason']}), reasoning {decision['reasoning']}"


def _selection_lines(selection: Node | None) -> Iterator[str]:
    if selection is None:
        return
    settings = ", ".join(f"{name} {value}" for name, value in selection.items() if name not in ("why", "candidates"))
    yield f"selection  {selection['why']} ({settings})"
    for one in selection["candidates"]:
        accuracy = f"accuracy {one['accuracy']:.2f}, " if "accuracy" in one else ""
        score = f", score {one['score']:.2f}" if "score" in one else ""
        like = f", quality profile {one['quality_profile']}" if one["quality_profile"] else ""
        yield f"{'':13}{one['model']}: {accuracy}cost {one['cost']:g}{score}{like}"


def _cache_lines(cache: Node | None) -> Iterator[str]:
    if cache is None or cache["status"] == "off":
        return
    if cache["status"] == "skipped":
        yield f"cache      skipped ({cache['reason']}): not looked up, not stored"
        return
    scope = f", scope {cache['scope']}" if "scope" in cache else ""
    policy = cache["policy"]
    if cache["reason"] == "unknown":
        outcome = "looked up; only the running router knows whether an answer is stored; ask it with --running"
    else:
        outcome = f"{cache['status']} ({cache['reason']})"
    yield f"cache      {outcome}" + (" before any signal was read" if cache["is_ahead"] else "")
    yield f"{'':13}shared by {cache['shared_by']}{scope}; across {_ACROSS[policy['share']]}"
    asked = f"{'':13}thresholds: similarity {policy['min_similarity']:.2f}, verifier {policy['min_probability']:.4f}"
    yield asked + ("; shadow mode: hits are counted, not served" if policy["is_shadow"] else "")
    yield f"{'':13}{_conversations_line(cache['conversations'], policy)}"
    if not policy["may_look_up"] or not policy["may_store"]:
        yield f"{'':13}not {'looked up' if not policy['may_look_up'] else 'stored'}, because the rule or the client says so"
    if cache.get("waits_for_equal_question"):
        longest = f"up to {policy['coalesce_timeout_s']:g} s"
        yield f"{'':13}an equal question is in flight; the request would wait {longest} for its answer"
    for one in cache.get("candidates", ()):
        yield f"{'':13}{_candidate_line(one)}"


def _conversations_line(how: str, policy: Node) -> str:
    if how != "compared":
        return "earlier turns have to be equal" + (f" ({how})" if how != "off" else "")
    least, sure = policy["min_similarity_of_conversations"], policy["min_probability_of_conversations"]
    return f"conversations are compared: similarity {least:.2f}, verifier {sure:.4f}"


def _candidate_line(one: Node) -> str:
    objections = f", object: {', '.join(one['objections'])}" if one["objections"] else ""
    verified = f", verifier {one['probability']:.4f}" if one["probability"] is not None else ""
    by = f"by {one['decision']}, {one['model']}"
    return f"{one['id']} ({one['tier']}, {by}) similarity {one['similarity']:.4f}{objections}{verified}: {one['verdict']}"


def _reply_lines(reply: Node) -> Iterator[str]:
    yield f"the router itself answers: {reply['status']}" + (f", unless {reply['unless']}" if "unless" in reply else "")
    for name, value in reply["headers"].items():
        yield f"  {name}: {value}"
    if "body" in reply:
        yield json.dumps(reply["body"], indent=2, ensure_ascii=False)
    else:
        entry = reply["headers"].get(CACHE_ENTRY_HEADER, "")
        yield f"to see the stored answer: semantic-router cache get {entry}"
