"""Checks the messages or the prompt of a request, and reads from them: text, size, tools and images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from router.core.openai.jsontext import JsonObject
from router.errors import RequestError

_IMAGES = ("image_url", "input_image", "image", "image_pil", "image_embeds")
"""Types and keys of image parts. vLLM looks at the key when there is no type, or an id in `uuid`."""


@dataclass(frozen=True, slots=True)
class Content:
    """What rules and signals know about the content of a body."""

    user_text: str
    """The text parts of the last user message, not shortened; for a completion, its prompt."""
    size_bytes: int
    """Size of all text in UTF-8."""
    has_tools: bool = False
    """The request offers tools, or holds tool calls or results."""
    has_images: bool = False


def invalid(path: str, must: str) -> RequestError:
    """The 400 for a field of the wrong type."""
    return RequestError(400, f"'{path}' must be {must}", param=path, code="invalid_type")


def missing(path: str, fix: str) -> RequestError:
    """The 400 for a required field that is missing."""
    return RequestError(400, f"'{path}' is missing; {fix}", param=path, code="missing_field")


def count_messages_and_parts(messages: object) -> int:
    """Number of messages and parts together; 0 when there is no list."""
    if not isinstance(messages, list):
        return 0
    contents = (message.get("content") for message in messages if isinstance(message, dict))
    return len(messages) + sum(len(content) for content in contents if isinstance(content, list))


def content_of_messages(value: object, *, offers_tools: bool) -> Content:
    """Check and read the `messages` of a chat.

    Raises:
        RequestError: 400 that names the field.
    """
    size_bytes, user_text = 0, ""
    has_tools, has_images = offers_tools, False
    for index, message in enumerate(_messages(value)):
        role = _role(message, index)
        content = message.get("content")
        parts = list(_parts(content, f"messages[{index}].content"))
        texts = [part for part in parts if isinstance(part, str)]
        size_bytes += sum(map(_size_bytes, texts))
        has_images = has_images or (isinstance(content, list) and any(map(_is_image, content)))
        has_tools = has_tools or role == "tool" or bool(message.get("tool_calls"))
        if role == "user":
            user_text = "\n".join(texts)
    return Content(user_text, size_bytes, has_tools, has_images)


def content_of_prompt(prompt: object) -> Content:
    """Read the prompt of a completion: a string or a list of strings. Token ids have no text."""
    text = ""
    if isinstance(prompt, str):
        text = prompt
    elif isinstance(prompt, list):
        text = "\n".join(part for part in prompt if isinstance(part, str))
    return Content(text, _size_bytes(text))


def _messages(messages: object) -> list[JsonObject]:
    if messages is None:
        raise missing("messages", "send at least one message")
    if not isinstance(messages, list):
        raise invalid("messages", "an array")
    if not messages:
        raise RequestError(400, "'messages' is empty; send at least one message", param="messages", code="empty_array")
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise invalid(f"messages[{index}]", "an object")
    return messages


def _role(message: JsonObject, index: int) -> str:
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise invalid(f"messages[{index}].role", "a string such as 'user', 'assistant', 'system' or 'tool'")
    return role


def _parts(content: object, path: str) -> Iterator[str | JsonObject]:
    """The text of each text part as a string, and every other part as it is."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for index, part in enumerate(content):
            yield _part(part, f"{path}[{index}]")
    elif content is not None:
        raise invalid(path, "a string or an array of parts")


def _part(part: object, path: str) -> str | JsonObject:
    if not isinstance(part, dict):
        raise invalid(path, "an object with a 'type'")
    kind = part.get("type")
    if kind is not None and not isinstance(kind, str):
        raise invalid(f"{path}.type", "a string such as 'text' or 'image_url'")
    if kind != "text":
        return part
    text = part.get("text")
    if not isinstance(text, str):
        raise invalid(f"{path}.text", "a string")
    return text


def _is_image(part: object) -> bool:
    if not isinstance(part, dict):
        return False
    has_id = part.get("uuid") is not None
    return part.get("type") in _IMAGES or any(part.get(key) is not None or (has_id and key in part) for key in _IMAGES)


def _size_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
