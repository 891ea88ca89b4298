"""What is read from an OpenAI body, and how each mistake in it is named."""

from __future__ import annotations

import json

import pytest

from router.core.openai.request import parse
from router.core.types import ChatRequest, Endpoint
from router.errors import RequestError
from tests.unit.builders import chat_body


def read(body: bytes | dict, endpoint: Endpoint = Endpoint.CHAT) -> ChatRequest:
    """The request in a body."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse(endpoint, data, {})[0]


def test_the_last_user_message_is_what_is_classified() -> None:
    """Earlier turns, the system prompt and the assistant's messages are not classified."""
    messages = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "answer"},
        {"role": "user", "content": "second"},
        {"role": "tool", "content": "tool says", "tool_call_id": "1"},
    ]
    request = read({"model": "auto", "messages": messages})
    assert request.text == "second"
    assert request.has_tools


def test_of_a_long_text_both_ends_are_seen_and_all_of_it_is_counted() -> None:
    """Megabytes are not searched, but their size is known."""
    request = read(chat_body("start" + "x" * 1_000_000 + "end"))
    assert request.text.startswith("start")
    assert request.text.endswith("end")
    assert len(request.text) == 2 * 8192 + 1
    assert request.prompt_tokens == 250_002


def test_text_parts_are_joined_and_images_are_seen() -> None:
    """The texts are joined line by line, and an image sets a flag."""
    parts = [
        {"type": "text", "text": "what is"},
        {"type": "image_url", "image_url": {"url": "data:..."}},
        {"type": "text", "text": "this?"},
    ]
    request = read(chat_body(parts))
    assert request.text == "what is\nthis?"
    assert request.has_images


@pytest.mark.parametrize(
    "part",
    [
        {"type": "text", "text": "what is this?", "uuid": "x", "image_url": {"url": "data:..."}},
        {"type": "text", "text": "what is this?", "uuid": "x", "image_url": None},
        {"image_url": "https://example.com/a.png"},
        {"type": "image_pil", "image_pil": "..."},
        {"type": "image_embeds", "image_embeds": "AAAA"},
        {"type": "text", "text": "what is this?", "image_embeds": "AAAA"},
    ],
)
def test_an_image_is_seen_by_its_key_too(part: dict[str, object]) -> None:
    """Some backends go by the key where the type is missing, or an id stands beside it."""
    assert read(chat_body([part])).has_images


def test_a_key_for_an_image_without_one_is_none() -> None:
    """Some clients send every field that a part may have."""
    assert not read(chat_body([{"type": "text", "text": "what is this?", "image_url": None}])).has_images


def test_tokens_are_estimated_from_all_text_of_all_messages() -> None:
    """The estimate is UTF-8 bytes by four, rounded up. Roles, images and keys do not count."""
    messages = [{"role": "system", "content": "é" * 4}, {"role": "user", "content": [{"type": "text", "text": "a"}]}]
    assert read({"model": "m", "messages": messages}).prompt_tokens == 3


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (False, False, False)),
        ({"stream": True}, (True, False, False)),
        ({"stream": None, "tools": None, "stream_options": None}, (False, False, False)),
        ({"stream": True, "stream_options": {"include_usage": True}}, (True, True, False)),
        ({"stream_options": {"include_usage": False}}, (False, False, False)),
        ({"tools": []}, (False, False, False)),
        ({"tools": [{"type": "function"}]}, (False, False, True)),
    ],
)
def test_flags_are_read(fields: dict, expected: tuple[bool, bool, bool]) -> None:
    """Null counts as absent. An empty list of tools counts as none."""
    request = read(chat_body(**fields))
    assert (request.is_stream, request.wants_usage, request.has_tools) == expected


@pytest.mark.parametrize("content", ["", [], None, [{"type": "image_url", "image_url": {"url": "u"}}]])
def test_an_empty_user_turn_is_no_error(content: object) -> None:
    """There is nothing to classify, and the rules handle that."""
    assert read(chat_body(content)).text == ""


def test_a_conversation_without_a_user_is_no_error() -> None:
    """Some agents send only system messages."""
    assert read({"model": "m", "messages": [{"role": "developer", "content": "x"}]}).text == ""


def test_lone_surrogates_do_not_break_the_reading() -> None:
    """JSON may escape half a character. It is counted and kept."""
    assert read(b'{"model": "auto", "messages": [{"role": "user", "content": "a\\ud83d"}]}').text == "a\ud83d"


@pytest.mark.parametrize(("prompt", "text"), [("a", "a"), (["a", "b"], "a\nb"), ([1, 2], ""), (None, "")])
def test_completions_prompts_are_read_as_text(prompt: object, text: str) -> None:
    """Strings are text. Token ids hold none."""
    assert read({"model": "m", "prompt": prompt}, Endpoint.COMPLETIONS).text == text


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"messages": []}, "model", "send 'auto'"),
        ({"model": None, "messages": []}, "model", "missing"),
        ({"model": 3, "messages": []}, "model", "a string"),
        ({"model": " ", "messages": []}, "model", "not empty"),
        ({"model": "auto"}, "messages", "missing"),
        ({"model": "auto", "messages": {}}, "messages", "an array"),
        ({"model": "auto", "messages": []}, "messages", "is empty"),
        ({"model": "auto", "messages": ["hi"]}, "messages[0]", "an object"),
        ({"model": "auto", "messages": [{"content": "hi"}]}, "messages[0].role", "such as 'user'"),
        (
            {"model": "auto", "messages": [{"role": "user", "content": 5}]},
            "messages[0].content",
            "a string or an array",
        ),
        ({"model": "auto", "messages": [{"role": "user", "content": ["hi"]}]}, "messages[0].content[0]", "an object"),
        (
            {"model": "auto", "messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
            "a string",
        ),
        (
            {"model": "auto", "messages": [{"role": "user", "content": [{"type": ["text"]}]}]},
            "messages[0].content[0].type",
            "such as 'text'",
        ),
        ({"model": "auto", "messages": [{"role": "user"}], "stream": "yes"}, "stream", "true or false"),
        ({"model": "auto", "messages": [{"role": "user"}], "stream_options": 1}, "stream_options", "an object"),
        ({"model": "auto", "messages": [{"role": "user"}], "tools": {}}, "tools", "an array"),
        (
            {"model": "auto", "messages": [{"role": "user"}], "chat_template_kwargs": []},
            "chat_template_kwargs",
            "an object",
        ),
    ],
)
def test_each_mistake_names_its_field(body: dict, param: str, message: str) -> None:
    """A 400 whose `param` is the field and whose message says what it must be."""
    with pytest.raises(RequestError) as caught:
        read(body)
    assert (caught.value.http_status, caught.value.param) == (400, param)
    assert message in caught.value.message
