"""Reads a request body as vLLM does, and keeps what an answer depends on. Pure; knows no HTTP."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from router.errors import RequestError

Fields = Mapping[str, Any]
"""The fields of an object in a request, before they are checked."""
T = TypeVar("T")

LEGACY_MAX_TOKENS = 16
"""vLLM's and OpenAI's default `max_tokens` of `/v1/completions`; chat has no limit but the context."""

EMBEDDING_SIZE = 384
"""The default size of an embedding, which is that of small sentence encoders."""

MAX_CHOICES = 128
"""The most answers to one request (`n` times prompts), which is OpenAI's limit of `n`."""

NO_THINKING_EFFORTS = ("none", "minimal")
"""Values of `reasoning_effort` that switch thinking off."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the client offers."""

    name: str
    description: str
    parameters: Fields
    """JSON schema of the arguments; may be empty."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Everything that an answer depends on, besides the model."""

    question: str
    """Text of the last user message, or the whole prompt of a legacy completion."""
    prompt_tokens: int
    """An estimate without a tokenizer: the UTF-8 bytes of all text divided by 4, rounded up, and 4 for each message."""
    system: str = ""
    """Text of all system and developer messages, joined by newlines."""
    tool_result: str | None = None
    """Text of the last message if it is the result of a tool."""
    image_count: int = 0
    tools: tuple[Tool, ...] = ()
    forced_tool: str | None = None
    """The tool that must be called: its name, or empty for any tool. None forces nothing."""
    chat_template_kwargs: Fields | None = None
    reasoning_effort: str | None = None
    response_format: Fields | None = None
    """Only the JSON kinds, `json_object` and `json_schema`."""

    @property
    def is_thinking(self) -> bool:
        """Whether the model thinks first. The template's switch decides, then the effort. Without both it does not."""
        switches = self.chat_template_kwargs or {}
        for name in ("enable_thinking", "thinking"):
            if name in switches:
                return bool(switches[name])
        return self.reasoning_effort is not None and self.reasoning_effort not in NO_THINKING_EFFORTS


@dataclass(frozen=True, slots=True)
class Generation:
    """A whole request: its prompts, and how to answer them."""

    model: str
    prompts: tuple[Prompt, ...]
    """One for chat; several for a legacy completion with a list of prompts."""
    choice_count: int = 1
    """Answers to each prompt (`n`)."""
    max_tokens: int | None = None
    stops: tuple[str, ...] = ()
    is_stream: bool = False
    wants_usage: bool = False
    """`stream_options.include_usage`: one more chunk at the end, with the usage and no choices."""
    wants_running_usage: bool = False
    """vLLM's `stream_options.continuous_usage_stats`: usage so far on every chunk."""


@dataclass(frozen=True, slots=True)
class Embedding:
    """A request for embeddings."""

    model: str
    texts: tuple[str, ...]
    prompt_tokens: int
    """As in `Prompt`."""
    dimension_count: int = EMBEDDING_SIZE
    is_base64: bool = False


def read_chat(body: bytes) -> Generation:
    """Read the body of `/v1/chat/completions`. Raises `RequestError` where vLLM answers 400."""
    fields = _fields(body)
    messages = _messages(fields)
    tools = tuple(_tool(tool) for tool in _optional(fields, "tools", list) or ())
    image_count = sum(part.get("type") == "image_url" for message in messages for part in _parts(message))
    texts = [_text(message) for message in messages]
    response_format = _optional(fields, "response_format", dict) or {}
    prompt = Prompt(
        question=next((_text(m) for m in reversed(messages) if m["role"] == "user"), ""),
        prompt_tokens=_count(texts) + 4 * len(messages),
        system="\n".join(_text(m) for m in messages if m["role"] in ("system", "developer")),
        tool_result=texts[-1] if messages[-1]["role"] == "tool" else None,
        image_count=image_count,
        tools=() if fields.get("tool_choice") == "none" else tools,
        forced_tool=_forced_tool(fields.get("tool_choice"), tools),
        chat_template_kwargs=_optional(fields, "chat_template_kwargs", dict),
        reasoning_effort=_optional(fields, "reasoning_effort", str),
        response_format=response_format if str(response_format.get("type")).startswith("json") else None,
    )
    limit = _positive(fields, "max_completion_tokens") or _positive(fields, "max_tokens")
    return _generation(fields, (prompt,), limit)


def read_completion(body: bytes) -> Generation:
    """Read the body of `/v1/completions`. Raises `RequestError` where vLLM answers 400."""
    fields = _fields(body)
    prompts = tuple(Prompt(question=text, prompt_tokens=_count([text])) for text in _inputs(fields, "prompt"))
    return _generation(fields, prompts, _positive(fields, "max_tokens") or LEGACY_MAX_TOKENS)


def read_embedding(body: bytes) -> Embedding:
    """Read the body of `/v1/embeddings`. Raises `RequestError` where vLLM answers 400."""
    fields = _fields(body)
    texts = _inputs(fields, "input")
    return Embedding(
        model=str(fields.get("model", "")),
        texts=texts,
        prompt_tokens=_count(texts),
        dimension_count=_positive(fields, "dimensions") or EMBEDDING_SIZE,
        is_base64=fields.get("encoding_format") == "base64",
    )


def _generation(fields: Fields, prompts: tuple[Prompt, ...], max_tokens: int | None) -> Generation:
    choice_count = _positive(fields, "n") or 1
    if choice_count * len(prompts) > MAX_CHOICES:
        raise RequestError(400, f"n must be at most {MAX_CHOICES}", param="n")
    is_stream = bool(fields.get("stream"))
    options = _optional(fields, "stream_options", dict) or {}
    if options and not is_stream:
        raise RequestError(400, "Stream options can only be defined when `stream=True`.", param="stream_options")
    return Generation(
        model=str(fields.get("model", "")),
        prompts=prompts,
        choice_count=choice_count,
        max_tokens=max_tokens,
        stops=_stops(fields.get("stop") or []),
        is_stream=is_stream,
        wants_usage=bool(options.get("include_usage")),
        wants_running_usage=bool(options.get("include_usage") and options.get("continuous_usage_stats")),
    )


def _fields(body: bytes) -> Fields:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"JSON decode error: {error}") from error
    if not isinstance(fields, dict):
        raise RequestError(400, "Input should be a valid dictionary")
    return fields


def _stops(stops: object) -> tuple[str, ...]:
    texts = [stops] if isinstance(stops, str) else stops
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise RequestError(400, "stop: a text or a list of texts is required", param="stop")
    return tuple(texts)


def _messages(fields: Fields) -> list[Fields]:
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError(400, "messages: a non-empty list is required", param="messages")
    for position, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise RequestError(400, "a message is an object with a role", param=f"messages[{position}]")
    return messages


def _parts(message: Fields) -> list[Fields]:
    content = message.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [part for part in content or () if isinstance(part, dict)]


def _text(message: Fields) -> str:
    return "\n".join(str(part.get("text", "")) for part in _parts(message) if part.get("type") == "text")


def _tool(tool: Fields) -> Tool:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RequestError(400, "a tool is {type: function, function: {name, ...}}", param="tools")
    parameters = _optional(function, "parameters", dict) or {}
    return Tool(function["name"], str(function.get("description") or ""), parameters)


def _forced_tool(choice: object, tools: tuple[Tool, ...]) -> str | None:
    if choice is None or choice in ("none", "auto"):
        return None
    function = choice.get("function") if isinstance(choice, dict) else None
    name = "" if choice == "required" else function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or (name and name not in {tool.name for tool in tools}) or not tools:
        raise RequestError(400, "tool_choice does not match any of the specified tools", param="tool_choice")
    return name


def _inputs(fields: Fields, name: str) -> tuple[str, ...]:
    """A text, a list of texts, token ids, or a list of token ids, as texts. Ids become numbers separated by spaces."""
    value = fields.get(name)
    if value is None or value == []:
        raise RequestError(400, f"{name}: a text or a non-empty list is required", param=name)
    items = [value] if isinstance(value, str) or (isinstance(value, list) and isinstance(value[0], int)) else value
    if not isinstance(items, list) or not all(isinstance(item, str | list) for item in items):
        raise RequestError(400, f"{name}: a text, a list of texts or token ids is required", param=name)
    return tuple(item if isinstance(item, str) else " ".join(map(str, item)) for item in items)


def _positive(fields: Fields, name: str) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise RequestError(400, f"{name} must be at least 1, got {value!r:.40}.", param=name)
    return value


def _optional(fields: Fields, name: str, kind: type[T]) -> T | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, kind):
        raise RequestError(400, f"{name}: Input should be a valid {kind.__name__}", param=name)
    return value


def _count(texts: Sequence[str]) -> int:
    return sum(-(-len(text.encode("utf-8", "replace")) // 4) for text in texts)
