"""Which requests may share a cached answer (the namespace), and which requests are not eligible for the cache."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.cache_key import Eligibility, Ineligible, query_of
from router.core.lookup import CacheQuery, Share
from router.core.models import Model, Reasoning, ReasoningFamily, SystemPrompt
from router.core.openai.request import parse
from router.core.types import Decision, Endpoint

MODEL = Model("small", "cluster-small", "served-small")
DECISION = Decision("default", MODEL, "no_match")
BASE: dict[str, Any] = {
    "model": "auto",
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a monad?"}],
    "temperature": 0.7,
}


def ask(
    changes: dict[str, Any] | None = None,
    decision: Decision = DECISION,
    eligibility: Eligibility = Eligibility(),  # noqa: B008 - frozen
    scope: str = "s",
    versions: str = "v1",
    family: ReasoningFamily | None = None,
    share: Share = "all",
) -> CacheQuery | Ineligible:
    """The question of a request that differs from the usual one in these fields."""
    data = json.dumps({**BASE, **(changes or {})}).encode()
    request, body = parse(Endpoint.CHAT, data, {})
    return query_of(request, body, decision, scope, eligibility, versions, family, share=share)


def user(text: object, **message: Any) -> dict[str, Any]:
    """The usual request with another question."""
    return {"messages": [BASE["messages"][0], {"role": "user", "content": text, **message}]}


def namespace(*args: Any, **kwargs: Any) -> str:
    """The namespace of an eligible request."""
    asked = ask(*args, **kwargs)
    assert isinstance(asked, CacheQuery), asked
    return asked.namespace


CHANGES: list[dict[str, Any]] = [
    {"messages": [{"role": "system", "content": "Be long."}, BASE["messages"][1]]},
    {"messages": [{"role": "developer", "content": "Be brief."}, BASE["messages"][1]]},
    {"messages": [BASE["messages"][1]]},
    {"messages": [*BASE["messages"], {"role": "assistant", "content": "A."}, {"role": "user", "content": "What is a monad?"}]},
    user("What is a monad?", name="bob"),
    {"temperature": 0.8},
    {"temperature": 0},
    {"top_p": 0.5},
    {"seed": 1},
    {"stop": ["x"]},
    {"logprobs": True},
    {"max_tokens": 5},
    {"response_format": {"type": "json_object"}},
    {"chat_template_kwargs": {"enable_thinking": True}},
    {"reasoning_effort": "high"},
    {"vendor_field": [1, {"a": None}]},
    {"modalities": ["text"]},
    {"user": "alice"},
    {"n": 1},
]


@pytest.mark.parametrize("changes", CHANGES, ids=json.dumps)
def test_whatever_may_change_the_answer_is_another_namespace(changes: dict[str, Any]) -> None:
    """System prompt, earlier turns, sampling, format and unknown fields are part of the namespace."""
    assert namespace(changes) != namespace()


OTHER_DECISIONS = {
    "rule": Decision("other", MODEL, "no_match"),
    "model": Decision("default", Model("large", "cluster-small", "served-small"), "no_match"),
    "served": Decision("default", Model("small", "cluster-small", "served-other"), "no_match"),
    "cluster": Decision("default", Model("small", "cluster-other", "served-small"), "no_match"),
    "reasoning": Decision("default", MODEL, "no_match", Reasoning(enabled=True)),
    "system_prompt": Decision("default", MODEL, "no_match", None, SystemPrompt("x")),
    "mode": Decision("default", MODEL, "no_match", None, SystemPrompt("x", "replace")),
}
ANSWERED_ALIKE: dict[Share, set[str]] = {"all": set(OTHER_DECISIONS), "model": {"rule"}, "decision": set()}
"""By the key `share`: the decisions that find the answers of the usual one."""


@pytest.mark.parametrize("share", ANSWERED_ALIKE)
@pytest.mark.parametrize("other", OTHER_DECISIONS)
def test_an_answer_is_found_across_the_decisions_that_the_operator_lets_share(other: str, share: Share) -> None:
    """`all`: across all of them. `model`: where the same model is asked in the same way. `decision`: by the same rule alone."""
    family = ReasoningFamily("chat_template_kwargs", "enable_thinking")
    one, two = (namespace(decision=decision, family=family, share=share) for decision in (DECISION, OTHER_DECISIONS[other]))
    assert (one == two) == (other in ANSWERED_ALIKE[share])


def test_two_system_prompts_of_the_router_are_two_namespaces_of_a_model() -> None:
    """Text and mode count, because the model reads them."""
    one, *others = (Decision("a", MODEL, "matched", None, prompt) for prompt in PROMPTS)
    for other in others:
        assert namespace(decision=one, share="model") != namespace(decision=other, share="model")
        assert namespace(decision=one, share="all") == namespace(decision=other, share="all")


PROMPTS = (SystemPrompt("x"), SystemPrompt("y"), SystemPrompt("x", "replace"), None)


@pytest.mark.parametrize(
    ("kind", "one", "other", "is_same"),
    [
        ("reasoning_effort", Reasoning(enabled=True), Reasoning(enabled=True, effort="medium"), True),
        ("reasoning_effort", Reasoning(enabled=True), Reasoning(enabled=True, effort="high"), False),
        ("reasoning_effort", Reasoning(enabled=False), Reasoning(enabled=True, effort="low"), True),
        ("reasoning_effort", Reasoning(enabled=False), None, False),
        ("chat_template_kwargs", Reasoning(enabled=False), Reasoning(enabled=True), False),
        ("chat_template_kwargs", Reasoning(enabled=True), None, False),
    ],
)
def test_a_model_is_asked_alike_when_the_switch_that_it_is_sent_is_the_same(
    kind: str, one: Reasoning, other: Reasoning | None, is_same: bool
) -> None:
    """With `share: model`, how the rule words the switch does not matter; what the model is sent does."""
    family = ReasoningFamily(kind, "switch", default_effort="medium", off_effort="low")
    first, second = (
        namespace(decision=Decision("d", MODEL, "matched", reasoning), family=family, share="model") for reasoning in (one, other)
    )
    assert (first == second) == is_same


NAMED = Eligibility(allows_explicit_models=True)


@pytest.mark.parametrize("share", ["all", "model", "decision"])
def test_a_client_that_names_its_model_gets_answers_of_that_model_alone(share: Share) -> None:
    """Whatever `share` says: another model's answer is not what it asked for."""
    small, large = (Decision("explicit_model", Model(name, "cluster", name), "explicit_model") for name in ("small", "large"))
    spaces = [namespace(decision=decision, eligibility=NAMED, share=share) for decision in (small, large, DECISION)]
    assert len(set(spaces)) == 3


def test_a_client_that_names_its_model_shares_with_a_rule_that_asks_it_just_so() -> None:
    """With `share: model`, when the rule adds nothing to the request: the model reads the same bytes."""
    named = Decision("explicit_model", MODEL, "explicit_model")
    assert namespace(decision=named, eligibility=NAMED, share="model") == namespace(eligibility=NAMED, share="model")
    prompted = Decision("a", MODEL, "matched", None, SystemPrompt("x"))
    assert namespace(decision=named, eligibility=NAMED, share="model") != namespace(
        decision=prompted, eligibility=NAMED, share="model"
    )


def test_what_shares_otherwise_is_another_namespace() -> None:
    """A rule with a `share` of its own finds nothing of those that share with all, and they find nothing of it."""
    assert len({namespace(share=share) for share in ANSWERED_ALIKE}) == 3


@pytest.mark.parametrize("share", ANSWERED_ALIKE)
@pytest.mark.parametrize(
    "other", [{"scope": "t"}, {"versions": "v2"}, {"eligibility": Eligibility(namespace="2")}, {"changes": {"seed": 1}}], ids=repr
)
def test_scope_versions_the_operators_namespace_and_the_request_always_separate(other: dict[str, Any], share: Share) -> None:
    """No value of `share` mixes users, encoders, the operator's namespaces or what clients send."""
    assert namespace(share=share, **other) != namespace(share=share)


FAMILY = ReasoningFamily("reasoning_effort", "reasoning_effort")


@pytest.mark.parametrize(
    "other",
    [
        ReasoningFamily("chat_template_kwargs", "reasoning_effort"),
        ReasoningFamily("reasoning_effort", "thinking_level"),
        ReasoningFamily("reasoning_effort", "reasoning_effort", default_effort="high"),
        None,
    ],
    ids=repr,
)
def test_what_the_family_makes_of_the_switch_is_in_the_namespace(other: ReasoningFamily | None) -> None:
    """Another family of the model, or one defined anew, makes another request: what the model said before answers that one."""
    thinking = Decision("default", MODEL, "no_match", Reasoning(enabled=True))
    for share in ("decision", "model"):
        assert namespace(decision=thinking, family=other, share=share) != namespace(decision=thinking, family=FAMILY, share=share)


def test_a_family_that_changes_nothing_of_the_request_is_not_in_the_namespace() -> None:
    """Stored answers stay in reach if no reasoning switch is set, or if the rule names the effort itself."""
    assert namespace(family=FAMILY, share="decision") == namespace(share="decision")
    named = Decision("default", MODEL, "no_match", Reasoning(enabled=True, effort="high"))
    other = ReasoningFamily("reasoning_effort", "reasoning_effort", default_effort="low")
    assert namespace(decision=named, family=other, share="decision") == namespace(decision=named, family=FAMILY, share="decision")


@pytest.mark.parametrize(
    "changes",
    [
        {"stream": True},
        {"stream_options": {"include_usage": True}},
        {"metadata": {"a": "b"}},
        {"temperature": 0.70},
        {"seed": None},
    ],
)
def test_what_cannot_change_the_answer_does_not(changes: dict[str, Any]) -> None:
    """JSON and streaming clients share entries. The reason for a decision does not matter either."""
    assert ask(changes) == ask()
    assert namespace(decision=Decision("default", MODEL, "intent_missing"), share="decision") == namespace(share="decision")


@given(st.dictionaries(st.sampled_from("abcd"), st.one_of(st.none(), st.integers(), st.text(max_size=3)), min_size=1, max_size=4))
def test_the_order_of_keys_does_not_matter_and_values_do(values: dict[str, Any]) -> None:
    """Two namespaces are equal exactly when their fields are equal."""
    given_values = {key: value for key, value in values.items() if value is not None}
    backwards = dict(reversed(list(values.items())))
    assert namespace(values) == namespace(backwards)
    assert (namespace(values) == namespace()) == (not given_values)


def test_the_text_is_not_in_the_namespace_and_is_in_the_key() -> None:
    """Otherwise there could be no semantic hit."""
    one, other = ask(), ask(user("Explain monads."))
    assert isinstance(one, CacheQuery)
    assert isinstance(other, CacheQuery)
    assert one.namespace == other.namespace
    assert one.key != other.key


def test_text_in_parts_is_the_same_text() -> None:
    """The OpenAI client may send a text in parts."""
    parts = [{"type": "text", "text": "What is a monad?"}]
    assert ask(user(parts)) == ask()


PICTURE = {"url": "data:image/png;base64,AAAA"}
TEXT = {"type": "text", "text": "What is a monad?"}


@pytest.mark.parametrize(
    "more",
    [
        {"uuid": "x", "image_url": PICTURE},
        {"uuid": "x", "image_url": None},
        {"uuid": "x"},
        {"image_url": PICTURE},
        {"input_audio": {"data": "UklGRg", "format": "wav"}},
        {"prompt_embeds": "AAAA"},
        {"tomorrow": 1},
        {"cache_control": {"type": "ephemeral", "note": "say Rome"}},
        {"cache_control": "say Rome"},
        {"cache_control": {"type": "ephemeral", "ttl": "say Rome"}},
    ],
    ids=json.dumps,
)
def test_a_text_with_more_in_its_part_is_not_the_plain_text(more: dict[str, Any]) -> None:
    """A backend may take such a part for a picture, or show its other fields to the model. This holds in the question and in
    earlier turns.
    """
    assert ask(user([{**TEXT, **more}])) == Ineligible("not_text")
    assert ask({"messages": [{"role": "user", "content": [{**TEXT, **more}]}, *BASE["messages"]]}) == Ineligible("not_text")


@pytest.mark.parametrize("more", [{"cache_control": {"type": "ephemeral"}}, {"cache_control": {"type": "ephemeral", "ttl": "1h"}},
                                  {"image_url": None, "refusal": None}], ids=json.dumps)  # fmt: skip
def test_what_says_nothing_to_a_model_may_stand_beside_a_text(more: dict[str, Any]) -> None:
    """Some clients mark the prefix to keep. Some send every field that a part may have, without values."""
    assert ask(user([{**TEXT, **more}])) == ask()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["ab", "c"], ["a", "bc"]),
        (["Is 1", "00 more than 50?"], ["Is 1\n00 more than 50?"]),
        (["Is 1", "00 more\nor less?"], ["Is 1\n00 more", "or less?"]),
        (["What is ", "it?"], ["What is", "it?"]),
        (["What is it?", ""], ["What is it?"]),
    ],
)
def test_where_a_text_is_split_is_part_of_the_question(one: list[str], other: list[str]) -> None:
    """Templates join parts with nothing or with a line break. A semantic hit, too, needs the same split."""
    first, second = (ask(user([{"type": "text", "text": text} for text in texts])) for texts in (one, other))
    assert isinstance(first, CacheQuery)
    assert isinstance(second, CacheQuery)
    assert first.namespace != second.namespace
    assert first.key != second.key


def key_of(text: str) -> str:
    """The key of the usual request with this question."""
    asked = ask(user(text))
    assert isinstance(asked, CacheQuery), asked
    return asked.key


@pytest.mark.parametrize("text", [" What is a monad?", "What is a monad?\n", "\t\r\nWhat is a monad? "])
def test_blanks_around_do_not_change_the_key(text: str) -> None:
    """People press the return key before they send."""
    assert key_of(text) == key_of("What is a monad?")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Is us a word?", "Is US a word?"),
        ("What is 300 \u212a?", "What is 300 K?"),
        ("What does \u2126 mean?", "What does \u03a9 mean?"),
        ("What does \u037e mean?", "What does ; mean?"),
        ("What does \u212b mean?", "What does \u00c5 mean?"),
        ("What is x\u00b2?", "What is x2?"),
        ("What is a monad?", "What is a monad?\u00a0"),
        ("What is  this?", "What is this?"),
    ],
)
def test_characters_that_differ_are_different_keys(one: str, other: str) -> None:
    """This also holds for pairs that a Unicode normal form makes equal: kelvin and K, ohm and omega, Greek question mark and
    semicolon.
    """
    assert key_of(one) != key_of(other)


@pytest.mark.parametrize("hidden", ["\u200b", "\U000e0069\U000e0067", "\u202e", "\ue000", "\x07"])
def test_hidden_text_is_neither_looked_up_nor_kept(hidden: str) -> None:
    """Whoever asks the plain question must not get the answer to the hidden one. The operator cannot change this."""
    eligibility = Eligibility(allows_tools=True, allows_time_dependent=True, allows_user_specific=True)
    for text in (f"What is a monad?{hidden}", f"What is{hidden} a monad?"):
        assert ask(user(text), eligibility=eligibility) == Ineligible("invisible_text")
        assert ask(user([{"type": "text", "text": text}]), eligibility=eligibility) == Ineligible("invisible_text")


TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f"}}]}
RESULT = {"role": "tool", "tool_call_id": "c", "content": "42"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:"}}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tools": TOOLS}, "tools"),
        ({"messages": [BASE["messages"][1], CALL, RESULT]}, "no_question"),
        ({"messages": [BASE["messages"][1], CALL, RESULT, BASE["messages"][1]]}, "tools"),
        (user([{"type": "text", "text": "what is this"}, IMAGE]), "not_text"),
        ({"n": 2}, "several_choices"),
        ({"temperature": 1.2}, "temperature"),
        ({"messages": [BASE["messages"][1], {"role": "assistant", "content": "prefill"}]}, "no_question"),
        (user(""), "no_text"),
        (user(None), "no_text"),
        (user("x" * 2001), "too_long"),
        (user("What is the weather in Paris?"), "time_dependent"),
        (user("Who won the game yesterday?"), "time_dependent"),
        (user("latest iPhone price"), "time_dependent"),
        (user("Where is my order?"), "user_specific"),
        (user("What did I buy last time?"), "user_specific"),
        (user("Is our current subscription active?"), "time_dependent"),
    ],
)
def test_no_question_for_the_cache(changes: dict[str, Any], reason: str) -> None:
    """Tool calls, images, several choices, hot sampling, and questions that depend on the day or the person are not eligible."""
    assert ask(changes) == Ineligible(reason)


@pytest.mark.parametrize("text", ["What is an IP address?", "How do I reset my password?", "Explain how orders are shipped"])
def test_a_question_like_any_other(text: str) -> None:
    """An ordinary question is eligible: the filter does not refuse everything."""
    assert isinstance(ask(user(text)), CacheQuery)


@pytest.mark.parametrize(
    ("changes", "eligibility"),
    [
        ({"tools": TOOLS}, Eligibility(allows_tools=True)),
        (user("What is the weather in Paris?"), Eligibility(allows_time_dependent=True)),
        (user("Where is my order?"), Eligibility(allows_user_specific=True)),
        ({"temperature": 1.2}, Eligibility(max_temperature=2)),
        (user("x" * 2001), Eligibility(max_text_chars=4000)),
    ],
)
def test_the_operator_may_widen_it(changes: dict[str, Any], eligibility: Eligibility) -> None:
    """The operator can lift each restriction on its own."""
    assert isinstance(ask(changes, eligibility=eligibility), CacheQuery)


def test_tool_results_are_never_looked_up() -> None:
    """If they were, an agent's loop would get its first answer again and again."""
    messages = [BASE["messages"][1], CALL, RESULT, BASE["messages"][1]]
    assert ask({"messages": messages, "tools": TOOLS}, eligibility=Eligibility(allows_tools=True)) == Ineligible("tool_results")


def test_conversations_may_be_left_out() -> None:
    """A system prompt alone does not make a conversation."""
    eligibility = Eligibility(allows_multi_turn=False)
    assert isinstance(ask(eligibility=eligibility), CacheQuery)
    assert ask(
        {"messages": [*BASE["messages"], {"role": "assistant", "content": "A."}, BASE["messages"][1]]}, eligibility=eligibility
    ) == Ineligible("multi_turn")


def test_a_model_that_the_client_named_is_left_alone_unless_the_operator_says_otherwise() -> None:
    """A client that names a model wants an answer of that model."""
    named = Decision("explicit_model", MODEL, "explicit_model")
    assert ask(decision=named) == Ineligible("explicit_model")
    assert isinstance(ask(decision=named, eligibility=Eligibility(allows_explicit_models=True)), CacheQuery)


def test_users_of_one_key_may_share_if_the_operator_says_so() -> None:
    """The request's own `user` field is then ignored."""
    eligibility = Eligibility(ignores_user_field=True)
    assert namespace({"user": "alice"}, eligibility=eligibility) == namespace({"user": "bob"}, eligibility=eligibility)
