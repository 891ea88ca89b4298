"""Composes the answers of mock models: a `Prompt` in, an `Answer` of tokens out. Pure: no HTTP, no clock."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from router.devstack.vllm import texts
from router.devstack.vllm.requests import Generation, Prompt, Tool

TOKEN = re.compile(r"\s?\w{1,6}|\s?[^\w\s]|\s+")
"""Splits any text into pieces about as long as a tokenizer's. Joined, they give the text again."""

WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")

BREAK = re.compile(r"[.?!,;:\n]+")

SHOWN_CHARACTERS = 240
"""How much of a system prompt, question or tool result an answer quotes."""

SMALL_TALK_WORDS = 8
"""A longer message is not small talk."""

THOUGHT_COUNTS = {"low": 1, "medium": 3, "high": 5}
"""Sentences of thinking by `reasoning_effort`; `medium` when thinking is on without an effort."""


@dataclass(frozen=True, slots=True)
class Token:
    """One step of generation."""

    text: str
    channel: str
    """`reasoning`, `content` or `arguments` (of the tool call)."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    call_id: str
    name: str
    arguments: str
    """JSON text."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One choice: its tokens in order, and why it ended."""

    tokens: tuple[Token, ...]
    finish_reason: str
    """`stop`, `length` or `tool_calls`."""
    stop_reason: str | None = None
    """The stop text that ended it."""
    tool_call: ToolCall | None = None

    def text(self, channel: str = "content") -> str:
        """Everything said on one channel."""
        return "".join(token.text for token in self.tokens if token.channel == channel)


def answer_all(generation: Generation, model: str, answer_tokens: int | None = None) -> list[Answer]:
    """One answer for each choice of each prompt, in OpenAI's order of indices.

    `answer_tokens` repeats or cuts the text to exactly that many tokens, before `max_tokens` and `stop` act.
    """
    pairs = itertools.product(generation.prompts, range(generation.choice_count))
    return [answer(prompt, model, choice, generation, answer_tokens) for prompt, choice in pairs]


def answer(prompt: Prompt, model: str, choice: int, generation: Generation, answer_tokens: int | None) -> Answer:
    """The answer of `model` to `prompt` with the index `choice`."""
    seed = hashlib.sha256(repr((model, prompt, choice)).encode("utf-8", "replace")).hexdigest()
    rng = random.Random(seed)  # noqa: S311 - variety, not secrecy
    tool = _tool_to_call(prompt)
    if tool is not None:
        call = ToolCall(f"chatcmpl-tool-{seed[:32]}", tool.name, json.dumps(fill(tool.parameters, prompt.question)))
        reason = "stop" if prompt.forced_tool else "tool_calls"  # as vLLM and OpenAI: a named tool ends with `stop`
        return _limit(Answer(_tokens(call.arguments, "arguments"), reason, None, call), generation.max_tokens)
    content, stop_reason = _cut(_content(prompt, model, rng), generation.stops)
    tokens = _tokens(content, "content")
    if answer_tokens is not None:
        tokens = tuple(itertools.islice(itertools.cycle(tokens), answer_tokens))
    thoughts = _tokens(_thoughts(prompt, rng), "reasoning")
    return _limit(Answer(thoughts + tokens, "stop", stop_reason), generation.max_tokens)


def fill(schema: Mapping[str, Any], question: str) -> object:
    """A value that fits a JSON schema, with words and numbers from the question where possible."""
    if choices := schema.get("enum"):
        return next((c for c in choices if str(c).lower() in question.lower()), choices[0])
    if options := schema.get("anyOf"):
        return fill(options[0], question)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {name: fill(inner, question) for name, inner in schema.get("properties", {}).items()}
    if kind == "array":
        return [fill(schema.get("items", {}), question)]
    if kind in ("integer", "number"):
        return int(next(iter(re.findall(r"\d{1,15}", question)), 1))
    return {"boolean": True, "null": None}.get(str(kind), _name_in(question))


def topic(question: str) -> str:
    """The longest run of up to five meaningful words in the question, the last one of equals. Else `your question`."""
    runs: list[list[str]] = [[]]
    for phrase in BREAK.split(question[:2000]):
        runs.append([])
        for word in WORD.findall(phrase):
            if word.lower() in texts.STOP_WORDS:
                runs.append([])
            elif len(runs[-1]) < 5:
                runs[-1].append(word)
    longest = max(reversed(runs), key=len)
    return " ".join(longest) or "your question"


def embed(text: str, dimension_count: int) -> npt.NDArray[np.float32]:
    """A vector that depends only on `text`, not on its meaning: (dimension_count,) float32, unit length."""
    seed = int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8])
    vector = np.random.default_rng(seed).standard_normal(dimension_count)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def receipt(prompt: Prompt, model: str) -> str:
    """The first line of every answer: the model's name, and what arrived besides the question."""
    system = f'"{_shorten(prompt.system)}"' if prompt.system else "none"
    switches = json.dumps(dict(prompt.chat_template_kwargs)) if prompt.chat_template_kwargs is not None else "none"
    images = f"; images: {prompt.image_count}" if prompt.image_count else ""
    effort = prompt.reasoning_effort or "none"
    return f"[{model}] system prompt: {system}; chat_template_kwargs: {switches}; reasoning_effort: {effort}{images}"


def _content(prompt: Prompt, model: str, rng: random.Random) -> str:
    if prompt.response_format is not None:
        return _json_content(prompt, model, rng)
    return "\n\n".join([receipt(prompt, model), *_body(prompt, rng)])


def _json_content(prompt: Prompt, model: str, rng: random.Random) -> str:
    schema = ((prompt.response_format or {}).get("json_schema") or {}).get("schema")
    if schema:
        return json.dumps(fill(schema, prompt.question), ensure_ascii=False)
    fields = {"model": model, "receipt": receipt(prompt, model), "answer": " ".join(_prose(prompt, rng))}
    return json.dumps(fields, ensure_ascii=False, indent=2)


def _body(prompt: Prompt, rng: random.Random) -> Iterator[str]:
    words = {word.lower() for word in WORD.findall(prompt.question[:2000])}
    if prompt.tool_result is not None:
        yield f"The tool answered: {_shorten(prompt.tool_result)}"
        yield rng.choice(texts.CLOSINGS).format(topic=topic(prompt.question))
    elif words & texts.GREETINGS and len(words) <= SMALL_TALK_WORDS:
        yield rng.choice(texts.SMALL_TALK)
    elif words & texts.CODE_WORDS:
        yield from _code(words, prompt.question, rng)
    else:
        yield from _prose(prompt, rng)


def _code(words: set[str], question: str, rng: random.Random) -> Iterator[str]:
    best = max(len(snippet.words & words) for snippet in texts.SNIPPETS)
    snippet = rng.choice([s for s in texts.SNIPPETS if len(s.words & words) == best])
    yield f"Here is a way to go about {topic(question)}:"
    yield f"```{snippet.language}\n{snippet.code}\n```"
    yield f"{snippet.remark} {rng.choice(texts.CLOSINGS).format(topic=topic(question))}"


def _prose(prompt: Prompt, rng: random.Random) -> Iterator[str]:
    about = topic(prompt.question)
    remarks = rng.sample(texts.REMARKS, 3)
    yield f"{rng.choice(texts.OPENINGS).format(topic=about)} {remarks[0]}"
    yield "\n".join(f"- {point}" for point in rng.sample(texts.POINTS, 3))
    yield f"{remarks[1]} {remarks[2]} {rng.choice(texts.CLOSINGS).format(topic=about)}"


def _thoughts(prompt: Prompt, rng: random.Random) -> str:
    if not prompt.is_thinking:
        return ""
    count = THOUGHT_COUNTS.get(prompt.reasoning_effort or "medium", 3)
    first, *others = texts.THOUGHTS
    return " ".join([first.format(topic=topic(prompt.question)), *rng.sample(others, count - 1)])


def _tool_to_call(prompt: Prompt) -> Tool | None:
    """The forced tool, or the first that shares a word with the question. None if the result has arrived."""
    if prompt.forced_tool is not None:
        return next(tool for tool in prompt.tools if prompt.forced_tool in ("", tool.name))
    if prompt.tool_result is not None:
        return None
    words = _words_of(prompt.question)
    return next((tool for tool in prompt.tools if words & _words_of(f"{tool.name} {tool.description}")), None)


def _words_of(text: str) -> set[str]:
    words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[^\W\d_]+", text[:2000])}
    return {word for word in words if len(word) > 3 and word not in texts.STOP_WORDS}


def _name_in(question: str) -> str:
    """The last capitalised words after the question's start, such as a place. Else the topic."""
    names = re.findall(r"(?<=\s)[A-Z][\w-]*(?: [A-Z][\w-]*)*", question[:2000].strip())
    return names[-1] if names else topic(question)


def _cut(text: str, stops: tuple[str, ...]) -> tuple[str, str | None]:
    """The text before the first stop text, and that stop text."""
    found = [(text.find(stop), stop) for stop in stops if stop and stop in text]
    if not found:
        return text, None
    position, stop = min(found)
    return text[:position], stop


def _limit(whole: Answer, max_tokens: int | None) -> Answer:
    if max_tokens is None or len(whole.tokens) <= max_tokens:
        return whole
    return Answer(whole.tokens[:max_tokens], "length", None, whole.tool_call)


def _tokens(text: str, channel: str) -> tuple[Token, ...]:
    return tuple(Token(piece, channel) for piece in TOKEN.findall(text))


def _shorten(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
