"""The words of the core: what is asked, what is measured of it, and what is decided. Start reading here.

Everything is frozen: a value that two exchanges, a thread or a log line can share without asking.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

# -- what is measured ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Classification:
    """What a signal measured: one label out of a fixed set."""

    label: str
    """The most probable label."""
    confidence: float
    """Calibrated probability of `label`, 0 to 1."""
    probabilities: Mapping[str, float] = field(default_factory=dict)
    """Probability of every label; they sum to 1. May be empty for a signal that gives only its best label."""


@dataclass(frozen=True, slots=True)
class Missing:
    """What stands in for a reading that could not be taken. A value of its own: neither false nor zero."""

    reason: str
    """One of a few fixed words, such as `deadline`, `no_text` or `disabled`; never text from a request."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What a signal measured: several things that may hold at once, each with its own probability."""

    values: Mapping[str, float]
    """Calibrated probability of each, 0 to 1; they need not sum to 1."""


Reading = Classification | Scores | Missing


# -- what is asked ---------------------------------------------------------------------------------------------------


class Endpoint(Enum):
    """The OpenAI endpoints whose bodies the router reads."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    EMBEDDINGS = "/v1/embeddings"


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What the rules and the signals may know of one request."""

    endpoint: Endpoint
    model: str
    """The name the client asked for, as it was sent."""
    text: str
    """What rules and signals see: the text parts of the last user message, joined by newlines; empty when there are none. Of
    more than 16,384 characters the first and the last 8,192."""
    prompt_tokens: int
    """Estimated size of the whole prompt in tokens: UTF-8 bytes of all message text / 4, rounded up."""
    is_text_whole: bool = True
    """`text` is the whole message: nothing was left out of its middle."""
    is_stream: bool = False
    has_tools: bool = False
    """The request offers tools, or carries tool calls or tool results."""
    has_images: bool = False
    wants_usage: bool = False
    """The client itself asked for `stream_options.include_usage`."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Request headers by lower-case name; repeated headers are joined by a comma and a space."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One message, one tool or one other field, its texts joined by newlines as chat templates join a message's parts."""

    text: str
    is_instruction: bool = False
    """Written by the application, as a rule: a system or developer message, a tool, a format for the answer."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model reads of a request."""

    pieces: tuple[Piece, ...]
    """The newest message first. Pieces of nothing but white space and ASCII's signs are left out."""
    unread: str = ""
    """Why `pieces` is not everything: `too_long`, `token_ids`, `embeddings` (in the place of text) or `chat_template` (a program
    that could say anything); empty when it is."""
    most_shown_chars: int | None = None
    """About how many characters of it reach the model, where the request has the backend cut the rest off."""

    @property
    def conversation(self) -> Prompt:
        """Without what the application wrote."""
        return replace(self, pieces=tuple(piece for piece in self.pieces if not piece.is_instruction))


# -- what is decided -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Whether the model shall think, and how hard."""

    enabled: bool
    effort: str | None = None
    """`low`, `medium` or `high` for families that know an effort; None leaves the family's default."""


@dataclass(frozen=True, slots=True)
class ReasoningFamily:
    """How the models of one family are told to think or not."""

    kind: str
    """`chat_template_kwargs`: a boolean `parameter` inside that object. `reasoning_effort`: a word at the top level."""
    parameter: str
    default_effort: str = "medium"
    """Sent when reasoning is on and the rule names no effort."""
    off_effort: str = "low"
    """Sent when reasoning is off, for families that cannot switch it off altogether."""


@dataclass(frozen=True, slots=True)
class SystemPrompt:
    """A system prompt that a rule adds to the request."""

    text: str
    mode: str = "insert"
    """`insert` puts it before the client's own system prompt; `replace` puts it in its place."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model that clients may name and that vLLM serves."""

    name: str
    """What clients ask for."""
    cluster: str
    """The Envoy cluster that serves it."""
    served_name: str
    """What the body's `model` says when it reaches vLLM (`--served-model-name`)."""
    reasoning_family: str | None = None
    """A key of the config's `reasoning_families`; None leaves reasoning switches alone."""
    price: float = 0.0
    """What a request costs in the operator's own unit, such as dollars per million tokens."""
    quality_profile: str = ""
    """The recorded model whose chances of a right answer stand for this one's; empty when the operator named none."""


@dataclass(frozen=True, slots=True)
class Block:
    """Refuse the request instead of serving it."""

    message: str
    """What the client is told."""
    fails_closed: bool = False
    """Block also when a signal that the rule asks for could not be read."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policy chose for one request."""

    name: str
    """The rule that won, `default`, or `explicit_model` for a concrete model that the client named."""
    model: Model
    reason: str
    """Why: `matched`, `chosen` (by price and chance), `no_match`, `below_threshold`, `intent_missing`, `signal_missing` (of a
    rule that fails closed) or `explicit_model`."""
    reasoning: Reasoning | None = None
    """None leaves the client's own reasoning switches as they are."""
    system_prompt: SystemPrompt | None = None
    block: Block | None = None
    """Refuse; the model is not asked."""
    missing: str = ""
    """Of `signal_missing`: why the signal could not be read; a fixed word."""
