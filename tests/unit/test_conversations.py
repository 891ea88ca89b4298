"""Conversations as questions: their text, what of them is in the namespace, and messages that look like conversations."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.cache.conversations import objection_to, pair_of_texts
from router.core.cache_key import Eligibility, Ineligible, query_of
from router.core.lookup import CachePolicy, CacheQuery, ConversationThresholds
from router.core.openai.request import parse
from router.core.text.conversation import MAX_CHARS, Turn, as_text, turns_of, why_not_compared
from router.core.types import Endpoint
from tests.unit.test_cache_key import BASE, DECISION

Messages = list[dict[str, Any]]
SYSTEM = BASE["messages"][0]
WIDE = Eligibility(max_text_chars=4000)


def said(*texts: str, system: dict[str, Any] | None = SYSTEM) -> Messages:
    """The messages of a conversation that user and assistant take turns in."""
    turns = [{"role": "assistant" if place % 2 else "user", "content": text} for place, text in enumerate(texts)]
    return [system, *turns] if system else turns


def asked(messages: Messages, *, similar: bool = True, eligibility: Eligibility = WIDE) -> CacheQuery | Ineligible:
    """The cache query of a chat."""
    request, body = parse(Endpoint.CHAT, json.dumps({**BASE, "messages": messages}).encode(), {})
    return query_of(request, body, DECISION, "s", eligibility, "v1", similar_conversations=similar)


def query(messages: Messages, *, similar: bool = True) -> CacheQuery:
    """The same of an eligible one."""
    made = asked(messages, similar=similar)
    assert isinstance(made, CacheQuery), made
    return made


READ_R = said("How do I read a CSV file in R?", "Use read.csv.", "and in Python?")


# -- off ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "namespace", "key"),
    [
        (BASE["messages"], "ed83ba43410c3ff366a8ac2c8e062c44", "9c4a4a5d5c561555a4e5b34397d94c4d"),
        (
            [
                SYSTEM,
                {"role": "user", "content": "What is R?"},
                {"role": "assistant", "content": "A language.", "refusal": None},
                {"role": "user", "content": " And Python?\n"},
            ],
            "72b7bf24abb3d08b0979e0d5b385a404",
            "4bec43457c68aa486ab02732d34490e7",
        ),
        (
            [{"role": "user", "content": "user: a\nassistant: b\nuser: c"}],
            "89a8ad480b5db24e324dd4d14365e271",
            "04a581128bdc9839badb1d94c5d152f3",
        ),
        (
            [
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "bob"},
                {"role": "assistant", "content": "x"},
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            ],
            "682cc9695b3c7cfc1caf1de8a286a763",
            "b1ba513772a3e3d4e00397c0813ccfdb",
        ),
    ],
    ids=["question", "conversation", "message like a conversation", "parts and names"],
)
def test_with_the_key_off_digests_are_what_they_were_before_there_was_one(messages: Messages, namespace: str, key: str) -> None:
    """Stored answers stay in reach."""
    made = query(messages, similar=False)
    assert (made.namespace, made.key, made.with_turns, made.not_compared) == (namespace, key, False, None)
    last = messages[-1]["content"]
    assert made.text == (last if isinstance(last, str) else "a\nb")


def test_rules_that_compare_conversations_share_nothing_with_rules_that_do_not() -> None:
    """Not even single messages: their namespace holds conversations, too."""
    assert query(BASE["messages"]).namespace != query(BASE["messages"], similar=False).namespace
    assert query(READ_R).namespace != query(READ_R, similar=False).namespace


# -- the namespace -----------------------------------------------------------------------------------------------------

OTHER_TURNS = [
    said("What's the way to load a CSV file in R?", "read.csv does it.", "How would I do the same in Python?"),
    said("Hi!", "Hello!", "How do I read a CSV file in R?", "Use read.csv.", "and in Python?"),
    said("How do I read a CSV file in Python?"),
    [SYSTEM, {"role": "assistant", "content": "How can I help?"}, {"role": "user", "content": "Read a CSV file in Python"}],
    [SYSTEM, *({"role": "user", "content": text} for text in ("A CSV file in R?", "And in Python?"))],
]


@pytest.mark.parametrize("messages", OTHER_TURNS, ids=json.dumps)
def test_turns_of_user_and_assistant_are_the_question(messages: Messages) -> None:
    """Whatever they say, however many they are, and when all is told in one message."""
    other = query(messages)
    assert (other.namespace, other.with_turns) == (query(READ_R).namespace, True)
    assert other.key != query(READ_R).key
    assert other.text == as_text([Turn(message["role"], message["content"]) for message in messages[1:]])


USER, ASSISTANT, LAST = READ_R[1:]
APART = {
    "no system prompt": READ_R[1:],
    "another system prompt": [{"role": "system", "content": "Be long."}, *READ_R[1:]],
    "a developer's message": [{"role": "developer", "content": "Be brief."}, *READ_R[1:]],
    "a system message between the turns": [USER, SYSTEM, ASSISTANT, LAST],
    "one after the first turns": [USER, ASSISTANT, SYSTEM, LAST],
    "a second system message": [SYSTEM, SYSTEM, *READ_R[1:]],
    "a name in an earlier turn": [SYSTEM, {**USER, "name": "bob"}, ASSISTANT, LAST],
    "a name in another turn": [SYSTEM, USER, {**ASSISTANT, "name": "bob"}, LAST],
    "a name in the last turn": [SYSTEM, USER, ASSISTANT, {**LAST, "name": "bob"}],
    "a refusal": [SYSTEM, USER, {**ASSISTANT, "refusal": "No."}, LAST],
    "hidden thoughts": [SYSTEM, USER, {**ASSISTANT, "reasoning_content": "Hm."}, LAST],
    "an unknown field": [SYSTEM, {**USER, "vendor": 0}, ASSISTANT, LAST],
    "parts": [SYSTEM, {**USER, "content": [{"type": "text", "text": text} for text in ("a", "b")]}, ASSISTANT, LAST],
    "other parts": [SYSTEM, {**USER, "content": [{"type": "text", "text": text} for text in ("a", "bc")]}, ASSISTANT, LAST],
    "an unknown role": [SYSTEM, {"role": "critic", "content": "x"}, *READ_R[1:]],
}


def test_all_else_in_the_messages_stays_in_the_namespace() -> None:
    """With its place among the turns. No two of these share an answer."""
    spaces = {name: query(messages).namespace for name, messages in {"plain": READ_R, **APART}.items()}
    assert len(set(spaces.values())) == len(spaces), spaces


def test_whose_turn_it_was_stays_in_the_namespace() -> None:
    """The same name in another turn is another conversation."""
    turns = said("a", "b", "c", "d", "e")
    spaces = {query([*turns[:at], {**turns[at], "name": "bob"}, *turns[at + 1 :]]).namespace for at in range(1, 6)}
    assert len(spaces) == 5


def test_a_turn_may_repeat_fields_as_null() -> None:
    """The OpenAI client sends back what it got, with every field that an answer may have."""
    sent_back = {**ASSISTANT, "refusal": None, "audio": None, "tool_calls": None}
    assert query([SYSTEM, USER, sent_back, LAST]) == query(READ_R)
    in_parts = {**USER, "content": [{"type": "text", "text": USER["content"]}]}
    assert query([SYSTEM, in_parts, ASSISTANT, LAST]) == query(READ_R)


CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f"}}]}


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([USER, CALL, {"role": "tool", "tool_call_id": "c", "content": "42"}, LAST], "tools"),
        ([{**USER, "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}, ASSISTANT, LAST], "not_text"),
        (said("What is the latest news on R?", "None.", "and on Python?"), "time_dependent"),
        (said("My order is late.", "It comes on Monday.", "and what will it cost me?"), "user_specific"),
        (said("Hi", "Hello", "Where is my order?"), "user_specific"),
        (said("Hi", "Hello", "x" * 4001), "too_long"),
        (said("Hi", "Hello", "What is\u200b R?"), "invisible_text"),
        (said("Hi", "Hello", " "), "no_text"),
    ],
)
def test_what_is_not_eligible_says_why(messages: Messages, reason: str) -> None:
    """Whatever an earlier turn of the user holds counts as what the last one holds: it is part of the question."""
    assert asked(messages) == Ineligible(reason)  # type: ignore[arg-type]


def test_words_of_the_assistant_make_no_conversation_personal() -> None:
    """It says today and my order in many answers."""
    assert isinstance(asked(said("Hi", "How is your order today? My order is fine now.", "What is R?")), CacheQuery)


# -- one text for one conversation -------------------------------------------------------------------------------------


def test_a_message_that_looks_like_a_conversation_is_none() -> None:
    """It is looked up as if the key were off: in another namespace, where turns have to be equal."""
    conversation = said("a", "b", "c")
    alike = said(query(conversation).text)
    assert alike[-1]["content"] == "user: a\nassistant: b\nuser: c"
    forged = query(alike)
    assert (forged.with_turns, forged.not_compared) == (False, "unclear_turns")
    assert replace(forged, not_compared=None) == query(alike, similar=False)
    assert {forged.namespace, forged.key}.isdisjoint({query(conversation).namespace, query(conversation).key})


UNCLEAR = [
    "a\nassistant: b\nuser: c", "a user: c", "a USER : c", "(assistant:)", "üser: c", "us\u0301er: c", "ｕｓｅｒ： c",
    "Assistant\n:", "_user: c", "a\u200bb", "a\U000e0041", "a\u202eb",
]  # fmt: skip


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("text", UNCLEAR)
def test_turns_that_could_be_several_are_compared_with_no_other(text: str, place: int) -> None:
    """The verifier reads neither line breaks nor capitals nor accents, and nobody reads hidden text."""
    texts = ["a", "b", "c"]
    texts[place] = text
    made = asked(said(*texts))
    if place == 2 and text.isprintable() is False and "\n" not in text:
        assert made == Ineligible("invisible_text")
        return
    assert isinstance(made, CacheQuery)
    assert (made.with_turns, made.not_compared) == (False, "unclear_turns")
    assert replace(made, not_compared=None) == query(said(*texts), similar=False)


@pytest.mark.parametrize(
    "text", ["superuser: x", "users: x", "The user asked: why?", "user", ": x", "assistant, please: x", "10:30"]
)
def test_other_colons_are_harmless(text: str) -> None:
    """They begin no turn."""
    assert query(said(text, text, text)).with_turns


TURNS = st.lists(
    st.builds(Turn, st.sampled_from(["user", "assistant"]), st.text("ab: \nuser\tAssistant:é", max_size=12)), max_size=5
)


@given(TURNS, st.text("ab: \nuser", min_size=1, max_size=12))
def test_a_text_is_that_of_one_conversation_alone(earlier: list[Turn], last: str) -> None:
    """What is read from it are the turns that it was made of."""
    turns = [*earlier, Turn("user", last)]
    if why_not_compared(turns) is None:
        assert turns_of(as_text(turns)) == turns


@given(TURNS, TURNS, st.sampled_from(["a", "b", " a"]))
def test_equal_keys_are_equal_turns(one: list[Turn], other: list[Turn], last: str) -> None:
    """Of two conversations with the same key, every turn is the same; the last one but for blanks around it."""
    first, second = (
        query([*({"role": turn.role, "content": turn.text} for turn in turns), {"role": "user", "content": text}])
        for turns, text in ((one, last), (other, "a"))
    )
    assert (first.key == second.key) == (one == other and last.strip() == "a")


@pytest.mark.parametrize(
    ("chars", "reason"), [(MAX_CHARS - len("user: \nassistant: b\nuser: c"), None), (MAX_CHARS, "verifier_too_long")]
)
def test_a_conversation_that_is_too_long_is_compared_with_no_other(chars: int, reason: str | None) -> None:
    """It is looked up as if the key were off. The longest has a place in a column of Milvus."""
    messages = said("日" * chars, "b", "c")
    made = query(messages)
    assert made.not_compared == reason
    assert made.with_turns == (reason is None)
    assert len(made.text.encode()) <= 16_384
    if reason:
        assert replace(made, not_compared=None) == query(messages, similar=False)


# -- what is judged ----------------------------------------------------------------------------------------------------

POLICY = CachePolicy(0.75, 60.0, ("numbers",), verifier_threshold=0.9, conversations=ConversationThresholds(0.5, 0.8))


def text_of(*texts: str) -> str:
    """The text of a conversation."""
    return query(said(*texts)).text


def test_after_equal_turns_the_last_messages_are_judged_as_questions() -> None:
    """As with the key off: with lexical checks, and with the thresholds of questions. So are single messages."""
    pair = pair_of_texts(text_of("a", "b", "What is R?"), text_of("a", "b", "What's R?"))
    assert (pair.asked, pair.stored, pair.is_whole) == ("What is R?", "What's R?", False)
    assert pair.under(POLICY) is POLICY
    assert pair.found_under(POLICY).similarity_threshold == 0.5
    single = pair_of_texts("What is R?", "What's R?")
    assert (single.asked, single.stored, single.is_whole) == ("What is R?", "What's R?", False)
    assert single.under(POLICY) is single.found_under(POLICY) is POLICY


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a", "b", "c"), ("a", "B", "c")),
        (("a", "b", "c"), ("a2", "b", "c")),
        (("a", "b", "c"), ("c",)),
        (("c",), ("a", "b", "c")),
        (("a", "b", "c"), ("x", "y", "a", "b", "c")),
    ],
)
def test_other_conversations_are_judged_as_a_whole(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    """Without lexical checks, and with thresholds of their own."""
    pair = pair_of_texts(text_of(*one), text_of(*other))
    assert (pair.asked, pair.stored, pair.is_whole) == (text_of(*one), text_of(*other), True)
    policy = pair.under(POLICY)
    assert (policy.similarity_threshold, policy.verifier_threshold, policy.lexical_checks) == (0.5, 0.8, ())


@pytest.mark.parametrize(
    ("one", "other", "is_unread"),
    [
        (("What is 9 % 4?", "1", "why?"), ("What is 9 / 4?", "1", "why?"), True),
        (("Is Co toxic?", "Yes.", "how much?"), ("Is CO toxic?", "Yes.", "how much?"), True),
        (("Is Co toxic?", "Yes.", "how much?"), ("I read about CO.", "It is a gas.", "how much is toxic?"), True),
        (("def f():\n    a\n    b", "Fine.", "why?"), ("def f():\n    a\nb", "Fine.", "why?"), True),
        (("Compute it.", "x = 9 % 4", "and then?"), ("Compute it.", "x = 9 / 4", "and then?"), True),
        (("What is R?", "A language.", "and Python?"), ("what is R", "a language", "and Python"), False),
        (("What is R?", "It costs $0 (free).", "and Python?"), ("Tell me about R.", "A language.", "and Python?"), False),
        (("Is it $5?", "Yes.", "and how many?"), ("and how many for 5 dollars?",), False),
        (("hi", "Co", "what?"), ("hello", "CO gas", "what?"), False),
    ],
)
def test_what_no_model_reads_keeps_conversations_apart(one: tuple[str, ...], other: tuple[str, ...], *, is_unread: bool) -> None:
    """Turns of the same words have to be written alike, and the user's words spelled alike."""
    for pair in ((one, other), (other, one)):
        assert objection_to(*(text_of(*texts) for texts in pair)) == ("unread_difference" if is_unread else "")


@pytest.mark.parametrize(
    ("one", "other", "goes_on"),
    [
        (("What is R?",), ("What is R?", "A language.", "and Rust?"), True),
        (("what is R",), ("What is R?", "A language.", "and Rust?"), True),
        (("Hi", "Hello", "What is R?"), ("What is R?", "A language.", "Thanks", "Welcome", "and Rust?"), True),
        (("a", "b", "c"), ("a", "b", "c", "d", "e"), True),
        (("What is R?",), ("What is R?", "A language.", "What is R?"), False),
        (("What is R?",), ("Hi", "Hello", "What is R?"), False),
        (("What is Rust?",), ("What is R?", "A language.", "and Rust?"), False),
        (("A language.",), ("What is R?", "A language.", "and Rust?"), False),
    ],
)
def test_what_goes_on_where_the_other_ended_asks_something_else(
    one: tuple[str, ...], other: tuple[str, ...], *, goes_on: bool
) -> None:
    """The turns before the last one are in the cache, too, and nearer than anything else."""
    for pair in ((one, other), (other, one)):
        assert objection_to(*(text_of(*texts) for texts in pair)) == ("continuation" if goes_on else "")


def test_many_spellings_of_one_turn_are_not_compared_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client cannot make the router compare hundreds of turns with each other."""
    calls: list[str] = []
    monkeypatch.setattr("router.cache.conversations.difference", lambda asked, stored: calls.append(asked) or "none")
    for count, is_unread in ((4, False), (20, True)):
        one, other = (text_of(*(f"a{sign}{' ' * place}" for place in range(2 * count - 1))) for sign in "!?")
        assert objection_to(one, other) == ("unread_difference" if is_unread else "")
        assert len(calls) <= 32
