"""Answers in OpenAI's shapes as vLLM fills them: whole bodies, stream chunks, errors, model cards. Pure; no HTTP.

Compared with vLLM's source (`vllm/entrypoints/openai`, 2026): fields that vLLM always sends are present even if null, stream
chunks have no `usage` unless the client asks for it, and the finish chunk is separate with an empty delta. Log probabilities are
not imitated: `logprobs` is always null.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from router.devstack.vllm.answers import Answer, Token, ToolCall
from router.devstack.vllm.requests import Generation

Json = dict[str, Any]

DONE = b"data: [DONE]\n\n"
"""Ends every stream."""


def dump(value: Mapping[str, object]) -> bytes:
    """Compact JSON in raw UTF-8, as pydantic writes it for vLLM."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def event(chunk: Mapping[str, object]) -> bytes:
    """One server-sent event."""
    return b"data: " + dump(chunk) + b"\n\n"


def error(http_status: int, message: str, param: str | None = None) -> Json:
    """vLLM's error body. Unlike OpenAI's, its `code` is the HTTP status as a number."""
    kinds = {400: "BadRequestError", 404: "NotFoundError", 500: "InternalServerError"}
    kind = kinds.get(http_status) or HTTPStatus(http_status).phrase
    return {"error": {"message": message, "type": kind, "param": param, "code": http_status}}


def models(names: Sequence[str], created: int) -> Json:
    """`GET /v1/models`: one card for each served name. `created` is in Unix seconds."""
    return {"object": "list", "data": [model_card(name, names[0], created) for name in names]}


def model_card(name: str, root: str, created: int) -> Json:
    """`GET /v1/models/{id}`; `root` is the model behind the name."""
    card = {"id": name, "object": "model", "created": created, "owned_by": "vllm", "root": root}
    return card | {"parent": None, "max_model_len": None, "permission": []}


def embeddings(model: str, vectors: Sequence[npt.NDArray[np.float32]], prompt_tokens: int, is_base64: bool) -> Json:
    """`POST /v1/embeddings`. Base64, which OpenAI's client requests by default, holds little-endian float32."""
    data = [
        {"index": index, "object": "embedding", "embedding": _encode(vector) if is_base64 else vector.tolist()}
        for index, vector in enumerate(vectors)
    ]
    return {"object": "list", "model": model, "data": data, "usage": _usage(prompt_tokens, 0)}


@dataclass(frozen=True, slots=True)
class Head:
    """The common part of all messages of a response."""

    response_id: str
    created: int
    """Unix seconds."""
    model: str
    prompt_tokens: int


class Shape(Protocol):
    """How one endpoint writes an answer."""

    id_prefix: str
    kind: str
    chunk_kind: str

    def choice(self, answer: Answer) -> Json:
        """A whole choice, without its index."""
        ...

    def opening(self, answer: Answer) -> list[Json]:
        """Stream choices before the first token."""
        ...

    def step(self, token: Token) -> Json:
        """The stream choice of one token."""
        ...

    def closing(self, answer: Answer) -> Json:
        """The stream choice that carries the finish reason."""
        ...


class Chat:
    """`/v1/chat/completions`."""

    id_prefix = "chatcmpl-"
    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def choice(self, answer: Answer) -> Json:
        calls = [_tool_call(answer.tool_call, answer.text("arguments"))] if answer.tool_call else []
        message = {
            "role": "assistant",
            "content": None if calls else answer.text(),
            "refusal": None,
            "tool_calls": calls,
            "reasoning_content": answer.text("reasoning") or None,
        }
        return {"message": message} | _finish(answer)

    def opening(self, answer: Answer) -> list[Json]:
        deltas: list[Json] = [{"role": "assistant", "content": ""}]
        if answer.tool_call:
            deltas.append({"tool_calls": [{"index": 0} | _tool_call(answer.tool_call, "")]})
        return [_delta(delta) for delta in deltas]

    def step(self, token: Token) -> Json:
        if token.channel == "arguments":
            return _delta({"tool_calls": [{"index": 0, "function": {"arguments": token.text}}]})
        return _delta({"reasoning_content" if token.channel == "reasoning" else "content": token.text})

    def closing(self, answer: Answer) -> Json:
        return {"delta": {"content": ""}} | _finish(answer)


class Completion:
    """`/v1/completions`, where an answer is just text."""

    id_prefix = "cmpl-"
    kind = "text_completion"
    chunk_kind = "text_completion"

    def choice(self, answer: Answer) -> Json:
        return {"text": answer.text()} | _finish(answer)

    def opening(self, answer: Answer) -> list[Json]:
        return []

    def step(self, token: Token) -> Json:
        return {"text": token.text, "logprobs": None, "finish_reason": None}

    def closing(self, answer: Answer) -> Json:
        return {"text": ""} | _finish(answer)


def whole(shape: Shape, head: Head, answers: Sequence[Answer]) -> Json:
    """The body of an answer that is not streamed."""
    choices = [{"index": index} | shape.choice(answer) for index, answer in enumerate(answers)]
    usage = _usage(head.prompt_tokens, sum(len(answer.tokens) for answer in answers))
    nulls = {"service_tier": None, "system_fingerprint": None, "prompt_logprobs": None, "kv_transfer_params": None}
    return _start(shape.kind, head) | {"choices": choices, "usage": usage} | nulls


def frames(shape: Shape, head: Head, answers: Sequence[Answer], asked: Generation) -> Iterator[list[Json]]:
    """The chunks of a stream, one list for each step of generation. The shell waits between lists.

    The first list holds the openings and every choice's first token. The last list holds the finish chunks and, if `asked` wants
    usage, a chunk with the usage and no choices.
    """
    start = _start(shape.chunk_kind, head)
    sent_count = 0

    def chunk(index: int, choice: Json) -> Json:
        running = {"usage": _usage(head.prompt_tokens, sent_count)} if asked.wants_running_usage else {}
        return start | {"choices": [{"index": index} | choice]} | running

    opening = [chunk(index, choice) for index, answer in enumerate(answers) for choice in shape.opening(answer)]
    for step in itertools.zip_longest(*(answer.tokens for answer in answers)):
        step_chunks, opening = opening, []
        for index, token in enumerate(step):
            if token is not None:
                sent_count += 1
                step_chunks.append(chunk(index, shape.step(token)))
        yield step_chunks
    closing = [chunk(index, shape.closing(answer)) for index, answer in enumerate(answers)]
    yield opening + closing + ([start | _last(head, sent_count)] if asked.wants_usage else [])


def _last(head: Head, completion_tokens: int) -> Json:
    return {"choices": [], "usage": _usage(head.prompt_tokens, completion_tokens)}


def _start(kind: str, head: Head) -> Json:
    return {"id": head.response_id, "object": kind, "created": head.created, "model": head.model}


def _usage(prompt_tokens: int, completion_tokens: int) -> Json:
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "total_tokens": total, "completion_tokens": completion_tokens}


def _finish(answer: Answer) -> Json:
    return {"logprobs": None, "finish_reason": answer.finish_reason, "stop_reason": answer.stop_reason}


def _delta(delta: Json) -> Json:
    return {"delta": delta, "logprobs": None, "finish_reason": None}


def _tool_call(call: ToolCall, arguments: str) -> Json:
    return {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _encode(vector: npt.NDArray[np.float32]) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
