"""Domain words for tests: short ways to make the values of the core."""

from __future__ import annotations

import json
from collections.abc import Mapping

from router.core.conditions import LabelIs
from router.core.events import Action, ReadSignals, RequestBody, RequestHeaders, SignalsRead
from router.core.exchange import Exchange
from router.core.models import Model, Reasoning, ReasoningFamily, SystemPrompt
from router.core.policy import Default, Policy, Rule
from router.core.snapshot import Snapshot
from router.core.types import ChatRequest, Classification, Endpoint, Reading

SMALL = Model("small", "cluster-small", "served-small", "qwen3")
LARGE = Model("large", "cluster-large", "large", "gpt-oss")
CODER = Model("coder", "cluster-coder", "coder")
FAMILIES = {
    "qwen3": ReasoningFamily("chat_template_kwargs", "enable_thinking"),
    "deepseek": ReasoningFamily("chat_template_kwargs", "thinking"),
    "gpt-oss": ReasoningFamily("reasoning_effort", "reasoning_effort", "medium", "low"),
}
MATH_RULE = Rule(
    "proofs",
    LabelIs("intent", frozenset({"math"}), 0.5),
    LARGE,
    priority=10,
    reasoning=Reasoning(enabled=True, effort="high"),
    system_prompt=SystemPrompt("Think.", "insert"),
)


def snapshot(*rules: Rule, default: Default | None = None, max_body_bytes: int = 10_000, records_usage: bool = False) -> Snapshot:
    """A configuration with three models; the default goes to `small` and leaves the request alone."""
    policy = Policy.of(rules, default or Default(SMALL), intent_threshold=0.5)
    models = {model.name: model for model in (SMALL, LARGE, CODER)}
    return Snapshot(policy, models, ("auto", "MoM"), FAMILIES, max_body_bytes, records_usage, started_s=1_700_000_000)


def ask(text: str = "hello", **fields: object) -> ChatRequest:
    """A chat request as the rules see it."""
    values: dict = {"endpoint": Endpoint.CHAT, "model": "auto", "text": text, "prompt_tokens": 1, **fields}
    return ChatRequest(**values)


def chat_body(text: object = "hello", model: object = "auto", **fields: object) -> bytes:
    """The bytes of a chat request with one user message."""
    return json.dumps({"model": model, "messages": [{"role": "user", "content": text}], **fields}).encode()


def request_headers(
    path: str = "/v1/chat/completions", method: str = "POST", *, is_end: bool = False, **more: str
) -> RequestHeaders:
    """Envoy's first message; underscores in `more` stand for hyphens."""
    extra = {name.replace("_", "-"): value for name, value in more.items()}
    return RequestHeaders({":method": method, ":path": path, "x-request-id": "r-1", **extra}, is_end)


def sure(label: str, confidence: float = 0.9) -> Classification:
    """A confident reading."""
    return Classification(label, confidence)


def send(exchange: Exchange, body: bytes, readings: Mapping[str, Reading] | None = None, **headers: str) -> Action:
    """Send headers, body and, if the exchange asks for them, the readings; return the action that answers the request."""
    exchange.receive(request_headers(**headers))
    action = exchange.receive(RequestBody(body))
    return exchange.receive(SignalsRead(readings or {})) if isinstance(action, ReadSignals) else action
