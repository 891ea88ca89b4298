"""What the operator says of the models, and what a rule may have said to one: reasoning, and a system prompt."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Whether the model thinks before it answers, and how hard."""

    enabled: bool
    effort: str | None = None
    """`low`, `medium` or `high` for families that know an effort; None leaves the family's default."""


@dataclass(frozen=True, slots=True)
class ReasoningFamily:
    """How the models of one family are told whether to think."""

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
    cost: float = 0.0
    """What a request costs in the operator's own unit, such as dollars per million tokens."""
    quality_profile: str = ""
    """Benchmarked model whose predicted accuracy is used; empty when the operator named none."""
