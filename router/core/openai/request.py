"""An OpenAI request body: what is asked, checked and named. Reads only; `rewrite` changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from router.core.openai.bodysize import DEFAULTS, BodyBounds, check_messages
from router.core.openai.jsontext import Members, Placed, read_document
from router.core.types import ChatRequest, Endpoint
from router.errors import RequestError

BYTES_PER_TOKEN = 4  # the field's rule of thumb for English; good enough to tell a short prompt from a long one
END_CHARS = 8192
"""Rules and signals see so much of each end of a longer text: searching megabytes would hold up every other request."""
SYSTEM_ROLES = frozenset({"system", "developer"})
_IMAGES = ("image_url", "input_image", "image", "image_pil", "image_embeds")
"""Types of parts, and keys: vLLM goes by the key where there is no type, or an id in `uuid`."""
_NONE = Placed(None, 0, 0)


@dataclass(frozen=True, slots=True)
class Body:
    """A request body as it was sent, with the place of every top-level value."""

    text: str
    members: Members

    def value(self, key: str) -> object:
        """The value of a top-level key; None when it is absent or null."""
        return self.members.get(key, _NONE).value


def parse(endpoint: Endpoint, data: bytes, headers: Mapping[str, str], bounds: BodyBounds = DEFAULTS) -> tuple[ChatRequest, Body]:
    """Read and check a request body that keeps the `bounds` on values, keys and depth (`bodysize.count`).

    Only what routing or a rewrite depends on is checked; everything else is the backend's to judge.

    Raises:
        RequestError: 400 that names the field; 413 for too many messages.
    """
    text, members = read_document(data)
    body = Body(text, members)
    model = _model(body)
    _expect(body, "stream", bool, "true or false")
    _expect(body, "stream_options", dict, "an object")
    is_stream, wants_usage = body.value("stream") is True, _wants_usage(body)
    if endpoint is Endpoint.CHAT:
        check_messages(_messages_and_parts(body.value("messages")), bounds)
        content = _read_messages(body)
    else:
        prompt = _prompt_text(body.value("prompt"))
        content = _Content(prompt, _size_bytes(prompt))
    request = ChatRequest(
        endpoint,
        model,
        excerpt(content.user_text),
        _tokens(content.size_bytes),
        len(content.user_text) <= 2 * END_CHARS,
        is_stream,
        content.has_tools,
        content.has_images,
        wants_usage,
        headers,
    )
    return request, body


@dataclass(frozen=True, slots=True)
class _Content:
    user_text: str
    size_bytes: int
    has_tools: bool = False
    has_images: bool = False


def _read_messages(body: Body) -> _Content:
    _expect(body, "chat_template_kwargs", dict, "an object")
    _expect(body, "tools", list, "an array")
    size_bytes, user_text = 0, ""
    has_tools, has_images = bool(body.value("tools")), False
    for index, message in enumerate(_messages(body)):
        role = _role(message, index)
        content = message.get("content")
        parts = list(_parts(content, f"messages[{index}].content"))
        texts = [part for part in parts if isinstance(part, str)]
        size_bytes += sum(map(_size_bytes, texts))
        has_images = has_images or (isinstance(content, list) and any(map(_is_image, content)))
        has_tools = has_tools or role == "tool" or bool(message.get("tool_calls"))
        if role == "user":
            user_text = "\n".join(texts)
    return _Content(user_text, size_bytes, has_tools, has_images)


def _is_image(part: object) -> bool:
    if not isinstance(part, dict):
        return False
    has_id = part.get("uuid") is not None
    return part.get("type") in _IMAGES or any(part.get(key) is not None or (has_id and key in part) for key in _IMAGES)


def excerpt(text: str) -> str:
    """A text of up to 16,384 characters as it is; of a longer one its start and its end, on lines of their own."""
    return text if len(text) <= 2 * END_CHARS else f"{text[:END_CHARS]}\n{text[-END_CHARS:]}"


def _bad(path: str, must: str) -> RequestError:
    return RequestError(400, f"'{path}' must be {must}", param=path, code="invalid_type")


def _missing(path: str, fix: str) -> RequestError:
    return RequestError(400, f"'{path}' is missing; {fix}", param=path, code="missing_field")


def _model(body: Body) -> str:
    model = body.value("model")
    if model is None:
        raise _missing("model", "send 'auto' to let the router choose")
    if not isinstance(model, str) or not model.strip():
        raise _bad("model", "a string that is not empty")
    return model


def _expect(body: Body, key: str, kind: type, words: str) -> None:
    value = body.value(key)
    if value is not None and not isinstance(value, kind):
        raise _bad(key, words)


def _wants_usage(body: Body) -> bool:
    options = body.value("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def _messages(body: Body) -> list[dict[str, object]]:
    messages = body.value("messages")
    if messages is None:
        raise _missing("messages", "send at least one message")
    if not isinstance(messages, list):
        raise _bad("messages", "an array")
    if not messages:
        raise RequestError(400, "'messages' is empty; send at least one message", param="messages", code="empty_array")
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise _bad(f"messages[{index}]", "an object")
    return messages


def _messages_and_parts(messages: object) -> int:
    if not isinstance(messages, list):
        return 0
    contents = (message.get("content") for message in messages if isinstance(message, dict))
    return len(messages) + sum(len(content) for content in contents if isinstance(content, list))


def _role(message: dict[str, object], index: int) -> str:
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise _bad(f"messages[{index}].role", "a string such as 'user', 'assistant', 'system' or 'tool'")
    return role


def _parts(content: object, path: str) -> Iterator[str | dict[str, object]]:
    """The text of each text part as a string, and every other part as it is."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for index, part in enumerate(content):
            yield _part(part, f"{path}[{index}]")
    elif content is not None:
        raise _bad(path, "a string or an array of parts")


def _part(part: object, path: str) -> str | dict[str, object]:
    if not isinstance(part, dict):
        raise _bad(path, "an object with a 'type'")
    kind = part.get("type")
    if kind is not None and not isinstance(kind, str):
        raise _bad(f"{path}.type", "a string such as 'text' or 'image_url'")
    if kind != "text":
        return part
    text = part.get("text")
    if not isinstance(text, str):
        raise _bad(f"{path}.text", "a string")
    return text


def _prompt_text(prompt: object) -> str:
    """The text of a completions prompt: a string or strings; token ids have no text."""
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list):
        return "\n".join(part for part in prompt if isinstance(part, str))
    return ""


def _size_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _tokens(size_bytes: int) -> int:
    return -(-size_bytes // BYTES_PER_TOKEN)
