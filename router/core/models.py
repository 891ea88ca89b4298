"""The configured models, and what a rule can change in a request to one: reasoning and system prompt."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Whether the model thinks before it answers, and how hard."""

    enabled: bool
    effort: str | None = None
    """`low`, `medium` or `high`, for families that have efforts; None means the default of the family."""


@dataclass(frozen=True, slots=True)
class ReasoningFamily:
    """How requests switch reasoning on and off for the models of one family."""

    kind: str
    """`chat_template_kwargs`: a boolean `parameter` inside that object. `reasoning_effort`: a word at the top level."""
    parameter: str
    default_effort: str = "medium"
    """Sent when reasoning is on and the rule names no effort."""
    off_effort: str = "low"
    """Sent when reasoning is off, for families that cannot switch it off completely."""


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
    """The `model` of the body that vLLM gets (`--served-model-name`)."""
    reasoning_family: str | None = None
    """A key of `reasoning_families`; None leaves reasoning switches unchanged."""
    cost: float = 0.0
    """What a request costs in the operator's own unit, such as dollars per million tokens."""
    quality_profile: str = ""
    """Benchmarked model whose predicted accuracy is used; empty when the operator named none."""
