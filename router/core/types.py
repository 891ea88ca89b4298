"""The types of the core: what is measured, what is asked, and what is decided. Start reading here.

All types are frozen, so exchanges, threads and log lines can share their values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from router.core.models import Model, Reasoning, SystemPrompt

# -- what is measured ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Classification:
    """A reading of one label out of a fixed set."""

    label: str
    """The most probable label."""
    confidence: float
    """Calibrated probability of `label`, 0 to 1."""
    probabilities: Mapping[str, float] = field(default_factory=dict)
    """Probability of every label; they sum to 1. May be empty for a signal that gives only its best label."""


@dataclass(frozen=True, slots=True)
class Missing:
    """Stands for a reading that failed. It is neither false nor zero."""

    reason: str
    """One of a few fixed words, such as `deadline`, `no_text` or `disabled`; never text from a request."""


@dataclass(frozen=True, slots=True)
class Scores:
    """A reading of several labels that may hold at once, each with its own probability."""

    values: Mapping[str, float]
    """Calibrated probability of each label, 0 to 1; they need not sum to 1."""


Reading = Classification | Scores | Missing
Readings = Mapping[str, Reading]
"""Readings by signal name. A signal that was not read yet is absent; one that failed is `Missing`."""


# -- what is asked ---------------------------------------------------------------------------------------------------


EndpointWord = Literal["chat", "completions", "embeddings", "models", "other"]
"""What metrics, traces and logs call the endpoint of a request."""


class Endpoint(Enum):
    """The OpenAI endpoints whose bodies the router reads."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    EMBEDDINGS = "/v1/embeddings"

    @property
    def word(self) -> EndpointWord:
        """What metrics, traces and logs call this endpoint."""
        return _ENDPOINT_WORDS[self]


_ENDPOINT_WORDS: Mapping[Endpoint, EndpointWord] = {
    Endpoint.CHAT: "chat",
    Endpoint.COMPLETIONS: "completions",
    Endpoint.EMBEDDINGS: "embeddings",
}


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What rules and signals know about one request."""

    endpoint: Endpoint
    model: str
    """The model name, as the client sent it."""
    text: str
    """The text parts of the last user message, joined by newlines; empty when there are none. Of a text over 16,384
    characters, only the first and the last 8,192."""
    prompt_tokens: int
    """Estimated size of the whole prompt in tokens: UTF-8 bytes of all message text / 4, rounded up."""
    is_text_whole: bool = True
    """Whether `text` is the whole message, with nothing left out of its middle."""
    is_stream: bool = False
    has_tools: bool = False
    """The request offers tools, or carries tool calls or tool results."""
    has_images: bool = False
    wants_usage: bool = False
    """The client itself asked for `stream_options.include_usage`."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Request headers by lower-case name; repeated headers are joined by a comma and a space."""


# -- what is decided -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Block:
    """Refuse the request instead of serving it."""

    message: str
    """What the client is told."""
    fails_closed: bool = False
    """Block also when a signal that the rule needs could not be read."""


DecisionReason = Literal[
    "matched", "selected", "no_match", "below_threshold", "intent_missing", "signal_missing", "explicit_model", "cached"
]
"""Why a decision was taken. `selected`: by predicted accuracy and cost. `signal_missing`: a rule failed closed. `explicit_model`:
the client named the model. `cached`: none was; the answer to the same text was served first, and it was stored by this one."""
ReasoningWord = Literal["on", "off", "unchanged"]
"""Whether reasoning is switched on or off, or left unchanged."""
ResponsePath = Literal["upstream", "cache", "models", "error", "bypass"]
"""Who answers. `upstream`: a model that the router chose. `bypass`: a backend that the router did not choose. All others: the
router itself."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policy chose for one request."""

    name: str
    """Name of the rule that won, `default`, or `explicit_model` when the client named its model."""
    model: Model
    reason: DecisionReason
    reasoning: Reasoning | None = None
    """None leaves the client's own reasoning switches as they are."""
    system_prompt: SystemPrompt | None = None
    block: Block | None = None
    """Refuse the request; no model is asked."""
    missing: str = ""
    """For `signal_missing`: why the signal could not be read; a fixed word."""
