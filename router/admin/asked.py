"""The request that `explain` explains: headers and body, as given at a terminal or sent to the admin port."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from router.core.types import Endpoint
from router.errors import RequestError

ENDPOINTS = {endpoint.name.lower(): endpoint for endpoint in Endpoint}
"""By the word that people use."""
_MAX_DOCUMENT_BYTES = 1024 * 1024
"""A larger document is not parsed here, because that could delay traffic for seconds. The exchange parses it in steps."""
_AS_TEXT = b'{"body": "'
_FIELDS = ("body", "prompt", "headers", "endpoint")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to explain."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    """By lower-case name. Repeated headers are joined by `, `, as Envoy does."""
    endpoint: Endpoint = Endpoint.CHAT

    def as_document(self) -> dict[str, object]:
        """The document that `read_asked` reads. It holds the body as text, so that every byte arrives."""
        body = self.body.decode("utf-8", "surrogateescape")
        return {"body": body, "headers": dict(self.headers), "endpoint": self.endpoint.name.lower()}


def read_asked(data: bytes) -> Asked:
    """Read a document that was sent to the admin port.

    It is a chat request, `{"prompt": "..."}`, or an object with `prompt` or `body`, and optional `headers` and `endpoint`. `body`
    is a request as JSON or as text.

    Raises:
        RequestError: the document describes no request.
    """
    if len(data) > _MAX_DOCUMENT_BYTES and not data.startswith(_AS_TEXT):
        return Asked(data)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return Asked(data)  # the exchange reports the mistake, as it would to a client
    if not isinstance(document, dict) or "messages" in document or not {"prompt", "body"} & document.keys():
        return Asked(data)
    if unknown := next((name for name in document if name not in _FIELDS), ""):
        if not {"body", "headers", "endpoint"} & document.keys():
            return Asked(prompt_body(_text(document, "prompt")))
        raise RequestError(400, f"unknown field '{unknown[:64]}'; known fields are: {', '.join(_FIELDS)}", code="unknown_field")
    endpoint = endpoint_of(_text(document, "endpoint", "chat"))
    if "prompt" in document and "body" in document:
        raise RequestError(400, "give 'prompt' or 'body', not both", param="prompt", code="invalid_value")
    if "body" not in document:
        body = prompt_body(_text(document, "prompt"), endpoint)
    elif isinstance(document["body"], str):
        body = _bytes("body", document["body"])
    else:
        body = json.dumps(document["body"]).encode()
    return Asked(body, _headers(document.get("headers", {})), endpoint)


def read_header(line: str) -> tuple[str, str]:
    """Name and value of `name: value`.

    Raises:
        RequestError: a client cannot send this header.
    """
    name, colon, value = line.partition(":")
    if not colon or not name:
        message = "write a header as 'name: value', such as 'x-team: research'; pseudo-headers such as ':path' are not accepted"
        raise RequestError(400, message, param="headers", code="invalid_value")
    return _header(name, value)


def joined(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers by name. Repeated headers are joined."""
    found: dict[str, str] = {}
    for name, value in headers:
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def endpoint_of(word: str) -> Endpoint:
    """The endpoint that a word names.

    Raises:
        RequestError: it names no endpoint.
    """
    if word not in ENDPOINTS:
        raise RequestError(400, f"'endpoint' must be one of {', '.join(ENDPOINTS)}", param="endpoint", code="invalid_value")
    return ENDPOINTS[word]


def prompt_body(prompt: str, endpoint: Endpoint = Endpoint.CHAT) -> bytes:
    """The body of a request that asks `prompt` and leaves the choice of the model to the rules."""
    asks: dict[Endpoint, dict[str, object]] = {
        Endpoint.CHAT: {"messages": [{"role": "user", "content": prompt}]},
        Endpoint.COMPLETIONS: {"prompt": prompt},
        Endpoint.EMBEDDINGS: {"input": prompt},
    }
    return json.dumps({"model": "auto", **asks[endpoint]}).encode()


def _headers(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise RequestError(400, "'headers' must be an object of names and values", param="headers", code="invalid_type")
    pairs: list[tuple[str, str]] = []
    for name, given in value.items():
        values = given if isinstance(given, list) else [given]
        if not all(isinstance(one, str) for one in values):
            raise RequestError(400, "a header's value must be a string, or a list of them", param="headers", code="invalid_type")
        pairs += [_header(name, one) for one in values]
    return joined(pairs)


def _header(name: str, value: str) -> tuple[str, str]:
    # No message quotes the value, because it may be a secret.
    if not _NAME.fullmatch(name):
        message = f"'{name[:64]}' is not a header name; use letters, digits and hyphens, such as x-team"
        raise RequestError(400, message, param="headers", code="invalid_value")
    if _CONTROL.search(value):
        message = f"the value of '{name[:64]}' holds control characters, which no header can carry"
        raise RequestError(400, message, param="headers", code="invalid_value")
    _bytes("headers", value)
    return name.lower(), value.strip(" \t")


def _bytes(param: str, text: str) -> bytes:
    """The bytes that were sent. In the text, a byte that is not UTF-8 appears as half a surrogate pair."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise RequestError(
            400, f"'{param}' holds half a surrogate pair, which is not text", param=param, code="invalid_value"
        ) from None


def _text(document: Mapping[str, object], name: str, default: str | None = None) -> str:
    value = document.get(name, default)
    if not isinstance(value, str):
        raise RequestError(400, f"'{name}' must be a string", param=name, code="invalid_type")
    return value
