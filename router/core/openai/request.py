"""Parses and checks an OpenAI request body. Reads only; `rewrite` makes the changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from router.core.openai.bodysize import DEFAULTS, BodyBounds, check_messages
from router.core.openai.content import content_of_messages, content_of_prompt, count_messages_and_parts, invalid, missing
from router.core.openai.jsontext import Members, Placed, read_document
from router.core.types import ChatRequest, Endpoint

BYTES_PER_TOKEN = 4  # the usual estimate for English; good enough to tell short prompts from long ones
END_CHARS = 8192
"""Rules and signals see this much of each end of a longer text, because searching megabytes would delay all other requests."""
SYSTEM_ROLES = frozenset({"system", "developer"})
_NONE = Placed(None, 0, 0)


@dataclass(frozen=True, slots=True)
class Body:
    """A request body as the client sent it, with the place of every top-level value."""

    text: str
    members: Members

    def value(self, key: str) -> object:
        """The value of a top-level key; None when it is absent or null."""
        return self.members.get(key, _NONE).value


def parse(endpoint: Endpoint, data: bytes, headers: Mapping[str, str], bounds: BodyBounds = DEFAULTS) -> tuple[ChatRequest, Body]:
    """Read and check a request body that `bodysize.count` found within `bounds`.

    Checks only what routing or a rewrite depends on; the backend judges everything else.

    Raises:
        RequestError: 400 that names the field; 413 for too many messages.
    """
    text, members = read_document(data)
    body = Body(text, members)
    model = _model(body)
    _expect(body, "stream", bool, "true or false")
    _expect(body, "stream_options", dict, "an object")
    if endpoint is Endpoint.CHAT:
        check_messages(count_messages_and_parts(body.value("messages")), bounds)
        _expect(body, "chat_template_kwargs", dict, "an object")
        _expect(body, "tools", list, "an array")
        content = content_of_messages(body.value("messages"), offers_tools=bool(body.value("tools")))
    else:
        content = content_of_prompt(body.value("prompt"))
    request = ChatRequest(
        endpoint=endpoint,
        model=model,
        text=excerpt(content.user_text),
        prompt_tokens=-(-content.size_bytes // BYTES_PER_TOKEN),  # rounded up
        is_text_whole=len(content.user_text) <= 2 * END_CHARS,
        is_stream=body.value("stream") is True,
        has_tools=content.has_tools,
        has_images=content.has_images,
        wants_usage=_wants_usage(body),
        headers=headers,
    )
    return request, body


def excerpt(text: str) -> str:
    """The whole text up to 16,384 characters; of a longer text, its start and its end, separated by a newline."""
    return text if len(text) <= 2 * END_CHARS else f"{text[:END_CHARS]}\n{text[-END_CHARS:]}"


def _model(body: Body) -> str:
    model = body.value("model")
    if model is None:
        raise missing("model", "send 'auto' to let the router choose")
    if not isinstance(model, str) or not model.strip():
        raise invalid("model", "a string that is not empty")
    return model


def _expect(body: Body, key: str, kind: type, words: str) -> None:
    value = body.value(key)
    if value is not None and not isinstance(value, kind):
        raise invalid(key, words)


def _wants_usage(body: Body) -> bool:
    options = body.value("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True
