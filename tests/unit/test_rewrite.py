"""Bodies are rewritten: exactly what the decision asks for changes, and every other byte stays."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.models import Model, Reasoning, ReasoningFamily, SystemPrompt
from router.core.openai.request import parse
from router.core.openai.rewrite import rewrite
from router.core.types import Decision, Endpoint
from tests.unit.builders import FAMILIES, chat_body

AUTO = Model("auto", "c", "auto")  # keeps the model's name, so that other changes can be seen alone


def change(
    data: bytes,
    *,
    model: Model = AUTO,
    reasoning: Reasoning | None = None,
    family: ReasoningFamily | None = None,
    prompt: SystemPrompt | None = None,
    needs_usage: bool = False,
) -> bytes:
    """The rewritten body, or the same bytes if nothing had to change."""
    request, body = parse(Endpoint.CHAT, data, {})
    decision = Decision("rule", model, "matched", reasoning, prompt)
    return rewrite(body, request, decision, family, needs_usage) or data


def test_only_the_model_changes_and_every_other_byte_stays() -> None:
    """Odd spacing, number formats, escapes, vendor fields and key order survive."""
    sent = (
        b'{ "vendor":{"x":[1.0e2,0.70,12345678901234567890,-0]} ,\n\t"model" : "auto", "messages":'
        b'[{"role":"user","content":"caf\\u00e9 \xc3\xa9 \\ud83d"}],"temperature":0.70 }'
    )
    assert change(sent, model=Model("m", "c", "served")) == sent.replace(b'"auto"', b'"served"')


def test_a_body_that_already_fits_is_not_touched() -> None:
    """None tells the shell to leave Envoy's bytes, and its content-length, alone."""
    request, body = parse(Endpoint.CHAT, chat_body(), {})
    assert rewrite(body, request, Decision("rule", AUTO, "matched"), None, needs_usage=False) is None


@pytest.mark.parametrize(
    ("family", "reasoning", "expected"),
    [
        ("qwen3", Reasoning(True), {"chat_template_kwargs": {"enable_thinking": True}}),
        ("qwen3", Reasoning(False), {"chat_template_kwargs": {"enable_thinking": False}}),
        ("deepseek", Reasoning(False), {"chat_template_kwargs": {"thinking": False}}),
        ("gpt-oss", Reasoning(True), {"reasoning_effort": "medium"}),
        ("gpt-oss", Reasoning(True, "high"), {"reasoning_effort": "high"}),
        ("gpt-oss", Reasoning(False, "high"), {"reasoning_effort": "low"}),
    ],
)
def test_each_family_gets_its_own_switch_and_the_off_is_sent_too(family: str, reasoning: Reasoning, expected: dict) -> None:
    """Templates that think by default must be told not to."""
    changed = json.loads(change(chat_body(), reasoning=reasoning, family=FAMILIES[family]))
    assert changed == {**json.loads(chat_body()), **expected}


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"enable_thinking": True, "other": 1.50}, {"enable_thinking": False, "other": 1.5}),
        ({"other": [1]}, {"other": [1], "enable_thinking": False}),
        ({}, {"enable_thinking": False}),
        (None, {"enable_thinking": False}),
        ({"enable_thinking": 1}, {"enable_thinking": False}),
    ],
)
def test_the_clients_other_template_arguments_stay(sent: object, expected: dict) -> None:
    """Only the family's own parameter is set."""
    data = chat_body(chat_template_kwargs=sent)
    changed = json.loads(change(data, reasoning=Reasoning(False), family=FAMILIES["qwen3"]))
    assert changed["chat_template_kwargs"] == expected


def test_a_model_without_a_family_gets_no_switch() -> None:
    """A switch that the model does not know is not sent to it."""
    assert change(chat_body(), reasoning=Reasoning(True, "high")) == chat_body()


def messages_after(messages: list, mode: str) -> list:
    """The messages after a system prompt `P` was added."""
    data = json.dumps({"model": "auto", "messages": messages}).encode()
    changed: dict = json.loads(change(data, prompt=SystemPrompt("P", mode)))
    return changed["messages"]


USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([USER], [{"role": "system", "content": "P"}, USER]),
        ([{"role": "system", "content": "S"}, USER], [{"role": "system", "content": "P\n\nS"}, USER]),
        ([{"role": "developer", "content": "D"}, USER], [{"role": "developer", "content": "P\n\nD"}, USER]),
        ([{"role": "system", "content": ""}, USER], [{"role": "system", "content": "P"}, USER]),
        ([{"role": "system", "content": None}, USER], [{"role": "system", "content": "P"}, USER]),
        ([{"role": "system", "content": []}, USER], [{"role": "system", "content": "P"}, USER]),
        ([{"role": "system"}, USER], [{"role": "system", "content": "P"}, USER]),
        (
            [{"role": "system", "content": [{"type": "text", "text": "S"}]}],
            [{"role": "system", "content": [{"type": "text", "text": "P"}, {"type": "text", "text": "S"}]}],
        ),
    ],
)
def test_insert_puts_the_prompt_before_the_clients_own(before: list, after: list) -> None:
    """It goes into the client's system message, or into a new message if there is none."""
    assert messages_after(before, "insert") == after


@pytest.mark.parametrize(
    "before",
    [
        [USER],
        [{"role": "system", "content": "S"}, USER],
        [{"role": "system", "content": "S"}, {"role": "developer", "content": "D"}, USER],
        [{"role": "system", "content": "S"}, USER, {"role": "system", "content": "late"}],
    ],
)
def test_replace_leaves_none_of_the_clients_system_prompts(before: list) -> None:
    """One that stayed would speak after the operator's."""
    assert messages_after(before, "replace") == [{"role": "system", "content": "P"}, USER]


@pytest.mark.parametrize(
    "sent", [{}, {"stream_options": None}, {"stream_options": {}}, {"stream_options": {"include_usage": False}}]
)
def test_usage_is_asked_for_when_it_is_needed_and_the_client_did_not(sent: dict) -> None:
    """A streaming backend reports usage only when asked."""
    changed = json.loads(change(chat_body(stream=True, **sent), needs_usage=True))
    assert changed["stream_options"] == {"include_usage": True}


def test_usage_is_asked_for_beside_the_clients_other_stream_options() -> None:
    """Vendor options survive."""
    changed = json.loads(change(chat_body(stream=True, stream_options={"x": 1}), needs_usage=True))
    assert changed["stream_options"] == {"x": 1, "include_usage": True}


@pytest.mark.parametrize("fields", [{}, {"stream": True, "stream_options": {"include_usage": True}}])
def test_usage_is_not_asked_for_where_it_comes_anyway(fields: dict) -> None:
    """JSON answers carry it, and clients that asked for it get it."""
    assert change(chat_body(**fields), needs_usage=True) == chat_body(**fields)


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
VALUES: dict[str, st.SearchStrategy] = {
    "temperature": NUMBERS,
    "vendor": NUMBERS,
    "chat_template_kwargs": st.none() | st.dictionaries(st.text(max_size=3), st.integers(), max_size=3),
    "stream_options": st.none() | st.dictionaries(st.text(max_size=3), st.booleans(), max_size=3),
    "reasoning_effort": st.sampled_from(["low", "high"]),
}


@st.composite
def documents(draw: st.DrawFn) -> dict[str, object]:
    """Chat bodies with their keys in any order."""
    more = {name: draw(VALUES[name]) for name in draw(st.lists(st.sampled_from(sorted(VALUES)), unique=True))}
    fields = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": draw(st.text())}], **more}
    return {name: fields[name] for name in draw(st.permutations(sorted(fields)))}


@given(documents(), st.sampled_from(sorted(FAMILIES)), st.booleans(), st.sampled_from([None, 1, 2]))
def test_all_changes_together_equal_the_same_changes_to_the_parsed_document(
    document: dict, family_name: str, enabled: bool, indent: int | None
) -> None:
    """Splices that meet at one place do not disturb each other, whatever the order of the keys."""
    family = FAMILIES[family_name]
    changed = json.loads(
        change(
            json.dumps(document, indent=indent).encode(),
            model=Model("m", "c", "served"),
            reasoning=Reasoning(enabled),
            family=family,
            prompt=SystemPrompt('"P"\n', "insert"),
            needs_usage=True,
        )
    )
    expected = {**document, "model": "served"}
    expected["messages"] = [{"role": "system", "content": '"P"\n'}, *document["messages"]]
    expected["stream_options"] = {**(document.get("stream_options") or {}), "include_usage": True}
    if family.kind == "chat_template_kwargs":
        expected["chat_template_kwargs"] = {**(document.get("chat_template_kwargs") or {}), family.parameter: enabled}
    else:
        expected["reasoning_effort"] = "medium" if enabled else "low"
    assert changed == expected
