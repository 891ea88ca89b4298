"""Decides which requests the router reads: by method, path, headers, body size and the model that the client names."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

from router.core.events import RequestHeaders
from router.core.headers import CONTENT_ENCODING, CONTENT_LENGTH, METHOD, PATH
from router.core.openai.replies import unknown_model
from router.core.snapshot import Snapshot
from router.core.types import ChatRequest, Decision, Endpoint
from router.errors import RequestError

MODELS_PATH = "/v1/models"
_ENDPOINTS = {endpoint.value: endpoint for endpoint in Endpoint}
_MAX_DIGITS = 19  # Any limit fits in 19 digits; `int` refuses more than 4,300.


@dataclass(frozen=True, slots=True)
class ModelsAsked:
    """The client asks for the list of models, or for one model."""

    name: str | None
    """The requested model; None for the whole list."""


def asked_of(event: RequestHeaders) -> Endpoint | ModelsAsked | None:
    """What a request asks for; None for a path that the router does not serve. Such a request passes unchanged."""
    method = event.headers.get(METHOD, "")
    # Backends decode percent-encoded paths, too. A chat must not escape the rules by another spelling of its path.
    path = unquote(event.headers.get(PATH, "").partition("?")[0])
    if method == "GET" and (path == MODELS_PATH or path.startswith(f"{MODELS_PATH}/")):
        return ModelsAsked(path[len(MODELS_PATH) + 1 :] or None)
    endpoint = _ENDPOINTS.get(path)
    return None if method != "POST" and event.is_end else endpoint


def check_headers(event: RequestHeaders, max_body_bytes: int) -> None:
    """Refuse a request by its headers.

    Raises:
        RequestError: the method is not POST, or the body is compressed, empty or too large.
    """
    if event.headers.get(METHOD) != "POST":
        raise RequestError(405, "this path takes POST; a body sent by another method is not read", code="method_not_allowed")
    encoding = event.headers.get(CONTENT_ENCODING, "").strip().lower()
    if encoding not in ("", "identity"):
        message = f"this '{CONTENT_ENCODING}' is not supported; send the body uncompressed"
        raise RequestError(415, message, param=CONTENT_ENCODING, code="unsupported_encoding")
    if (length := number_of(event.headers.get(CONTENT_LENGTH, ""))) is not None:
        check_size(length, max_body_bytes)
    if event.is_end:
        raise RequestError(400, "the body is empty; a JSON object was expected", code="invalid_json")


def number_of(digits: str) -> int | None:
    """A header's value as a number; None when it is not one. Digits beyond the first 19 are ignored."""
    if not (digits.isascii() and digits.isdecimal()):
        return None
    return int(digits.lstrip("0")[:_MAX_DIGITS] or "0")


def check_size(size_bytes: int, max_body_bytes: int) -> None:
    """Raises `RequestError` for a body above the limit."""
    if size_bytes > max_body_bytes:
        message = f"the body is larger than this router's limit of {max_body_bytes} bytes"
        raise RequestError(413, message, code="body_too_large")


def check_model(request: ChatRequest, snapshot: Snapshot) -> None:
    """Raises `RequestError` for an embeddings request that leaves the choice of the model to the policy."""
    if request.endpoint is Endpoint.EMBEDDINGS and request.model in snapshot.virtual_models:
        names = ", ".join(snapshot.models)
        message = f"'{request.model}' chooses among chat models; name an embedding model itself. Known models: {names}"
        raise RequestError(400, message, param="model", code="model_not_supported")


def named_model(name: str, snapshot: Snapshot) -> Decision:
    """The decision for a client that names its model. Raises `RequestError`, a 404, for a model that is not configured."""
    model = snapshot.models.get(name)
    if model is None:
        raise unknown_model(name, snapshot.names)
    return Decision("explicit_model", model, "explicit_model")
