"""What `explain` is asked about: a request's headers and body, as a person gives them at a terminal or to the admin port."""

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
"""A larger one is not parsed here: that could hold up traffic for seconds. The exchange reads it in turns, within its bounds."""
_AS_TEXT = b'{"body": "'
_FIELDS = ("body", "prompt", "headers", "endpoint")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to explain."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    """By lower-case name; repeated ones joined by `, `, as Envoy gives them to the router."""
    endpoint: Endpoint = Endpoint.CHAT

    def as_document(self) -> dict[str, object]:
        """What `read_asked` reads. The body stands there as text: every byte of it arrives."""
        body = self.body.decode("utf-8", "surrogateescape")
        return {"body": body, "headers": dict(self.headers), "endpoint": self.endpoint.name.lower()}


def read_asked(data: bytes) -> Asked:
    """What the admin port was sent: a chat request, `{"prompt": "..."}`, or a document with `headers` and `endpoint` beside
    the `prompt` or the `body`, which is a request as JSON or as its text.

    Raises:
        RequestError: the document makes no request.
    """
    if len(data) > _MAX_DOCUMENT_BYTES and not data.startswith(_AS_TEXT):
        return Asked(data)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return Asked(data)  # the exchange says what is wrong with it, as it would to a client
    if not isinstance(document, dict) or "messages" in document or not {"prompt", "body"} & document.keys():
        return Asked(data)
    if unknown := next((name for name in document if name not in _FIELDS), ""):
        if not {"body", "headers", "endpoint"} & document.keys():
            return Asked(prompt_body(_text(document, "prompt")))
        raise RequestError(400, f"unknown field '{unknown[:64]}'; known are: {', '.join(_FIELDS)}", code="unknown_field")
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
        RequestError: it is no header that a client can send.
    """
    name, colon, value = line.partition(":")
    if not colon or not name:
        message = "a header is written 'name: value', such as 'x-team: research'; pseudo-headers such as ':path' are not taken"
        raise RequestError(400, message, param="headers", code="invalid_value")
    return _header(name, value)


def joined(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers by name, repeated ones as one."""
    found: dict[str, str] = {}
    for name, value in headers:
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def endpoint_of(word: str) -> Endpoint:
    """The endpoint that a word names.

    Raises:
        RequestError: it names none.
    """
    if word not in ENDPOINTS:
        raise RequestError(400, f"'endpoint' must be one of {', '.join(ENDPOINTS)}", param="endpoint", code="invalid_value")
    return ENDPOINTS[word]


def prompt_body(prompt: str, endpoint: Endpoint = Endpoint.CHAT) -> bytes:
    """The request that leaves the model open and asks `prompt`."""
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
    # The value is not quoted: it may be a secret.
    if not _NAME.fullmatch(name):
        message = f"'{name[:64]}' is no header name; letters, digits and hyphens are, such as x-team"
        raise RequestError(400, message, param="headers", code="invalid_value")
    if _CONTROL.search(value):
        message = f"the value of '{name[:64]}' holds control characters, which no header can carry"
        raise RequestError(400, message, param="headers", code="invalid_value")
    _bytes("headers", value)
    return name.lower(), value.strip(" \t")


def _bytes(param: str, text: str) -> bytes:
    """As they were sent: a byte that is no UTF-8 stands in a text as half a surrogate pair of its own."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise RequestError(
            400, f"'{param}' holds half a surrogate pair, which is no text", param=param, code="invalid_value"
        ) from None


def _text(document: Mapping[str, object], name: str, default: str | None = None) -> str:
    value = document.get(name, default)
    if not isinstance(value, str):
        raise RequestError(400, f"'{name}' must be a string", param=name, code="invalid_type")
    return value
