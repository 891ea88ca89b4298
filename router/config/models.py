"""The sections `models` and `reasoning_families`, and the names that leave the choice to the rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from router.config.keys import NAME, Choice, Flag, Number, Text, check_name, key, named
from router.config.reader import Section, suggest
from router.core.models import Model, ReasoningFamily

EFFORTS = ("minimal", "low", "medium", "high")
VIRTUAL_MODELS = ("auto", "MoM")
"""The default of `virtual_models`."""
_BODY_FIELDS = ("model", "messages", "prompt", "input", "stream", "stream_options", "tools")
"""Request fields that a reasoning switch must not overwrite."""

FAMILIES: Mapping[str, ReasoningFamily] = {
    "qwen3": ReasoningFamily("chat_template_kwargs", "enable_thinking"),
    "deepseek": ReasoningFamily("chat_template_kwargs", "thinking"),
    "gpt-oss": ReasoningFamily("reasoning_effort", "reasoning_effort", "medium", "low"),  # it cannot be switched off
    "gpt": ReasoningFamily("reasoning_effort", "reasoning_effort", "medium", "minimal"),
}
"""The built-in reasoning families. A configuration may override them or add others."""


@dataclass(frozen=True, slots=True)
class FamilyKeys:
    """How one family of models is told to think."""

    type: str = key(
        Choice(("chat_template_kwargs", "reasoning_effort")),
        "A boolean inside `chat_template_kwargs`, or a word at the top of the body.",
        "",
        required="chat_template_kwargs or reasoning_effort was expected",
    )
    parameter: str = key(
        Text("word", "a parameter's name", r"\w{1,64}"),
        "Name of that boolean or word.",
        "",
        required="a parameter's name was expected",
    )
    default_effort: str = key(
        Choice(EFFORTS), "Sent when reasoning is on and the rule names no effort (only `reasoning_effort`).", "medium"
    )
    off_effort: str = key(
        Text("word", "a word such as low, minimal or none", r"[a-z]{1,20}"),
        "Sent when reasoning is off (only `reasoning_effort`; gpt-oss cannot be switched off).",
        "low",
    )

    def check(self, section: Section) -> None:
        """Refuse keys that would overwrite other fields of the request or have no effect."""
        if self.parameter in _BODY_FIELDS and self.type == "reasoning_effort":
            section.problem("parameter", f"would overwrite the request's own '{self.parameter}'")
        for name in ("default_effort", "off_effort"):
            if section.has(name) and self.type == "chat_template_kwargs":
                section.problem(name, "could do nothing: chat_template_kwargs only knows on and off")


@dataclass(frozen=True, slots=True)
class ModelKeys:
    """One model that clients may get."""

    cluster: str = key(
        Text("name", "the name of a cluster in envoy.yaml", NAME),
        "The cluster of envoy.yaml that serves the model.",
        "",
        required="the name of a cluster in envoy.yaml was expected",
    )
    served_name: str = key(
        Text(), "The body's `model` as it reaches vLLM (`--served-model-name`).", "", shown="the model's name here"
    )
    reasoning_family: str = key(
        Text("family"), "How the model is told to think. Without one, rules may not say `reasoning` for it.", "", shown="none"
    )
    cost_per_million_tokens: float = key(Number(0, 100_000), "What the model costs, in any currency; `select` weighs it.", 0.0)
    quality_profile: str = key(
        Text("recorded model"),
        "Benchmarked model whose predicted accuracy is used for this; `select` needs it. `semantic-router models` lists them.",
        "",
        shown="none",
    )
    mock: bool = key(Flag(), "`semantic-router up` starts a mock backend for it; `serve` ignores the key.", False)


def read_families(section: Section) -> dict[str, ReasoningFamily]:
    """The operator's reasoning families, by name."""
    return {
        name: ReasoningFamily(keys.type, keys.parameter, keys.default_effort, keys.off_effort)
        for name, (_, keys) in named(section, FamilyKeys).items()
    }


def read_models(
    section: Section, families: Mapping[str, ReasoningFamily], recorded: tuple[str, ...]
) -> tuple[dict[str, Model], frozenset[str]]:
    """The models by name, and the names of those that `semantic-router up` may mock.

    Args:
        section: `models`.
        families: the names allowed in `reasoning_family`.
        recorded: the names allowed in `quality_profile`; empty when they are not known.
    """
    models, mocks = {}, set()
    for name, (part, keys) in named(section, ModelKeys).items():
        family, profile = keys.reasoning_family, keys.quality_profile
        if family and family not in families:
            part.problem("reasoning_family", f"there is no family '{family}'{suggest(family, families)}")
        if profile and recorded and profile not in recorded:
            part.problem("quality_profile", f"there is no recorded model '{profile}'{suggest(profile, recorded)}")
        models[name] = Model(name, keys.cluster, keys.served_name or name, family or None, keys.cost_per_million_tokens, profile)
        if keys.mock:
            mocks.add(name)
    if not models:
        section.notes.add(section.node, "models", "at least one model is needed")
    return models, frozenset(mocks)


def read_virtual_models(top: Section, models: Mapping[str, Model]) -> tuple[str, ...]:
    """The names with which a client leaves the choice to the rules."""
    item = top.item("virtual_models")
    if item is None:
        return VIRTUAL_MODELS
    names = item.texts("names")
    for name in names:
        check_name(name.text(), name)
        if name.text() in models:
            name.problem(f"'{name.text()}' is a model already; a name leaves the choice open or names a model, not both")
    return tuple(name.text() for name in names)
