"""The replies of the router itself: errors and the list of models, in OpenAI's format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from router.core.decision_headers import decision_headers
from router.core.events import Reply
from router.core.headers import (
    CACHE_CONTROL,
    CLUSTER_HEADER,
    CONTENT_TYPE,
    MODEL_HEADER,
    PATH_HEADER,
    REASONING_HEADER,
    RETRY_AFTER,
)
from router.core.openai.jsontext import JsonObject
from router.core.types import Block, Decision, Readings, ResponsePath
from router.errors import RequestError

OWNER = "semantic-router"
"""The `owned_by` of every listed model, because the router serves the name."""


def error_reply(error: RequestError) -> Reply:
    """An error in OpenAI's format, with the HTTP status of the error."""
    code = error.code or "invalid_request"
    kind = "server_error" if error.http_status == _UNAVAILABLE else "invalid_request_error"
    document = {"error": {"message": error.message, "type": kind, "param": error.param, "code": code}}
    reply = _reply(error.http_status, document, "error", f"sr_{code}")
    return replace(reply, headers={**reply.headers, RETRY_AFTER: "1"}) if error.http_status == _UNAVAILABLE else reply


def block_error(decision: Decision, block: Block) -> RequestError:
    """The error that a blocking rule sends to the client."""
    return unreadable(decision.missing) if decision.missing else blocked(block)


def block_reply(error: RequestError, decision: Decision, readings: Readings) -> Reply:
    """The reply to a blocked request. It names the rule and the reason, but no model, because none was chosen."""
    reply, headers = error_reply(error), decision_headers(decision, readings)
    for name in (CLUSTER_HEADER, MODEL_HEADER, REASONING_HEADER):
        del headers[name]
    return replace(reply, headers=headers | dict(reply.headers))


def models_reply(names: Sequence[str], wanted: str | None, created_s: int) -> Reply:
    """The list of all `names`, or the entry of `wanted`. `created_s` is a Unix time.

    Raises:
        RequestError: 404 when `wanted` is not among `names`.
    """
    if wanted is None:
        cards = [_card(name, created_s) for name in names]
        return _reply(200, {"object": "list", "data": cards}, "models", "sr_models")
    if wanted not in names:
        raise unknown_model(wanted, names)
    return _reply(200, _card(wanted, created_s), "models", "sr_models")


def unknown_model(name: str, names: Sequence[str]) -> RequestError:
    """The 404 for a model that is not configured. It lists the known models and shortens a long name of the client."""
    shown = name if len(name) <= 64 else f"{name[:61]}..."
    message = f"the model '{shown}' does not exist. Known models: {', '.join(names)}"
    return RequestError(404, message, param="model", code="model_not_found")


def not_cached() -> RequestError:
    """The 504 that `Cache-Control: only-if-cached` demands (RFC 9111, 5.2.1.7)."""
    message = "there is no stored answer to this question, and 'only-if-cached' forbids asking a model"
    return RequestError(504, message, param=CACHE_CONTROL, code="not_cached")


def overloaded() -> RequestError:
    """The 503 for a large body that could not be read in time. It is refused, because an unread body would pass every rule."""
    return RequestError(503, "too many large requests at once; try again in a second", code="overloaded")


def blocked(block: Block) -> RequestError:
    """The 403 of a blocking rule. It says what the operator wrote, and nothing about the prompt."""
    return RequestError(403, block.message, param="messages", code="blocked")


_UNAVAILABLE = 503
_UNREADABLE = {
    "too_long": ("messages", "is longer than what this server's safety rules read; shorten it"),
    "token_ids": ("prompt", "holds token ids, which this server's safety rules cannot read; send text"),
    "embeddings": ("prompt_embeds", "holds embeddings, which this server's safety rules cannot read; send text"),
    "chat_template": ("chat_template", "brings a chat template, which this server's safety rules cannot read; leave it out"),
}
"""Reasons that do not pass when the request is sent again, with the field at fault and the remedy."""


def unreadable(reason: str) -> RequestError:
    """The error of a rule that fails closed on an unreadable request: 400 if the request is at fault, 503 if the router is."""
    if reason in _UNREADABLE:
        param, words = _UNREADABLE[reason]
        return RequestError(400, f"the request {words}", param=param, code="unreadable")
    if reason == "deadline":
        message = "this server's safety rules could not read the request in time; try again, or shorten it"
    else:
        message = "this server's safety rules cannot read requests at the moment; try again"
    return RequestError(_UNAVAILABLE, message, code="unreadable")


def _card(name: str, created_s: int) -> JsonObject:
    return {"id": name, "object": "model", "created": created_s, "owned_by": OWNER}


def _reply(status: int, document: object, path: ResponsePath, details: str) -> Reply:
    headers = {CONTENT_TYPE: "application/json", PATH_HEADER: path}
    return Reply(status, headers, json.dumps(document).encode(), details, path)
