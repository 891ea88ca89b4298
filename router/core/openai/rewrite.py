"""Changes a request body to fit a decision: model, reasoning, system prompt, usage. All other bytes stay as sent."""

from __future__ import annotations

import json

from router.core.models import Reasoning, ReasoningFamily, SystemPrompt
from router.core.openai.jsontext import Placed, Splice, apply, read_array, read_object
from router.core.openai.request import SYSTEM_ROLES, Body
from router.core.types import ChatRequest, Decision, Endpoint


def rewrite(
    body: Body,
    request: ChatRequest,
    decision: Decision,
    family: ReasoningFamily | None,
    needs_usage: bool,
) -> bytes | None:
    """The body for the chosen model, or None when nothing has to change.

    `family` is the reasoning family of the chosen model. `needs_usage` asks a streaming backend for its token counts. The caller
    must then remove the extra chunk from the answer when `request.wants_usage` is false.
    """
    splices = _model(body, decision)
    if request.endpoint is Endpoint.CHAT:
        if decision.reasoning and family:
            splices += _reasoning(body, decision.reasoning, family)
        if decision.system_prompt:
            splices += _system_prompt(body, decision.system_prompt)
    if needs_usage and request.is_stream and not request.wants_usage:
        splices += _set_inside(body, "stream_options", "include_usage", True)
    return apply(body.text, splices).encode() if splices else None


def effort_of(reasoning: Reasoning, family: ReasoningFamily) -> str:
    """The effort to send to a family that has efforts. When reasoning is off, the effort that the family uses for "off"."""
    if not reasoning.enabled:
        return family.off_effort
    return reasoning.effort or family.default_effort


def _model(body: Body, decision: Decision) -> list[Splice]:
    placed = body.members["model"]
    if placed.value == decision.model.served_name:
        return []
    return [_replace(placed, decision.model.served_name)]


def _reasoning(body: Body, reasoning: Reasoning, family: ReasoningFamily) -> list[Splice]:
    # "Off" is sent as well, because these templates switch reasoning on by default.
    if family.kind == "chat_template_kwargs":
        return _set_inside(body, "chat_template_kwargs", family.parameter, reasoning.enabled)
    return _set(body, family.parameter, effort_of(reasoning, family))


def _system_prompt(body: Body, prompt: SystemPrompt) -> list[Splice]:
    # The iterator reads only as far as needed: finding the places of a million messages takes a second.
    messages = read_array(body.text, body.members["messages"])
    message = _dump({"role": "system", "content": prompt.text})
    if prompt.mode == "replace":
        # All system messages of the client are removed: one that stays could override the operator's.
        kept = [body.text[placed.start : placed.end] for placed in messages if not _is_system(placed)]
        placed = body.members["messages"]
        return [Splice(placed.start, placed.end, f"[{', '.join([message, *kept])}]")]
    first = next(messages)
    if not _is_system(first):
        return [Splice(first.start, first.start, f"{message}, ")]
    # Many chat templates accept only one system message, at the start. So ours is put into the client's.
    return [_prepend(body, first, prompt.text)]


def _prepend(body: Body, message: Placed, text: str) -> Splice:
    members = read_object(body.text, message)
    content = members.get("content")
    if content is None:
        end = list(members.values())[-1].end
        return Splice(end, end, f', "content": {_dump(text)}')
    if isinstance(content.value, str) and content.value:
        inner = _dump(text + "\n\n")[1:-1]
        return Splice(content.start + 1, content.start + 1, inner)
    if isinstance(content.value, list) and content.value:
        part = _dump({"type": "text", "text": text})
        return Splice(content.start + 1, content.start + 1, f"{part}, ")
    return _replace(content, text)


def _is_system(message: Placed) -> bool:
    return isinstance(message.value, dict) and message.value.get("role") in SYSTEM_ROLES


def _set(body: Body, key: str, value: object) -> list[Splice]:
    placed = body.members.get(key)
    if placed is None:
        end = list(body.members.values())[-1].end
        return [Splice(end, end, f", {_dump(key)}: {_dump(value)}")]
    return [] if placed.value == value else [_replace(placed, value)]


def _set_inside(body: Body, outer: str, key: str, value: object) -> list[Splice]:
    """Set `outer.key` and keep the other members of `outer`."""
    placed = body.members.get(outer)
    if placed is None or not placed.value:
        return _set(body, outer, {key: value})
    members = read_object(body.text, placed)
    if key not in members:
        end = list(members.values())[-1].end
        return [Splice(end, end, f", {_dump(key)}: {_dump(value)}")]
    return [] if members[key].value is value else [_replace(members[key], value)]


def _replace(placed: Placed, value: object) -> Splice:
    return Splice(placed.start, placed.end, _dump(value))


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
