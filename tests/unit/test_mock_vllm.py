"""The pure parts of the mock vLLM backends: what is asked, what is answered, how it is written."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.devstack.vllm import texts, wire
from router.devstack.vllm.answers import TOKEN, Answer, answer_all, embed, fill, topic
from router.devstack.vllm.faults import Faults, Pace, read_faults
from router.devstack.vllm.ledger import MAX_BODY_BYTES, MAX_REQUESTS, Ledger, Received
from router.devstack.vllm.requests import Generation, read_chat, read_completion, read_embedding
from router.errors import RequestError

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    },
}


def chat(question: str = "What are the main renewable energy sources?", **fields: Any) -> Generation:
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": question}]
    return read_chat(json.dumps({"model": "small", "messages": messages} | fields).encode())


def say(question: str = "What are the main renewable energy sources?", model: str = "small", **fields: Any) -> Answer:
    return answer_all(chat(question, **fields), model)[0]


class TestAnswers:
    def test_the_same_request_gets_the_same_text_and_another_question_another(self) -> None:
        """Tests and caches can rely on the text; it still depends on what was asked."""
        assert say().text() == say().text()
        assert say().text() != say("Who was Ada Lovelace?").text()

    def test_the_text_names_the_model_and_what_arrived(self) -> None:
        """The first line is the receipt of model, system prompt and both reasoning switches."""
        said = say(model="large", chat_template_kwargs={"enable_thinking": False}, reasoning_effort="low")
        first = said.text().splitlines()[0]
        assert first == (
            '[large] system prompt: "Be kind."; chat_template_kwargs: {"enable_thinking": false}; reasoning_effort: low'
        )

    def test_prose_has_paragraphs_and_takes_up_the_topic(self) -> None:
        """An ordinary question gets several paragraphs about its own words."""
        text = say().text()
        assert "renewable energy sources" in text
        assert text.count("\n\n") >= 3

    @pytest.mark.parametrize(
        ("question", "language"),
        [
            ("Write a python function for binary search", "python"),
            ("Which SQL query joins a table?", "sql"),
            ("Explain ownership in Rust code", "rust"),
        ],
    )
    def test_a_code_question_gets_fenced_code_with_indentation_and_blank_lines(self, question: str, language: str) -> None:
        """Whitespace that a careless replay would destroy is in the answer."""
        text = say(question).text()
        fenced = re.search(rf"```{language}\n(.*?)\n```", text, re.DOTALL)
        assert fenced is not None
        assert "\n\n" in fenced[1]
        assert re.search(r"^(\s{2,}|\t)\S", fenced[1], re.MULTILINE)

    def test_every_python_snippet_is_real_python(self) -> None:
        """What claims to be Python parses."""
        for snippet in texts.SNIPPETS:
            if snippet.language == "python":
                ast.parse(snippet.code)

    def test_small_talk_is_answered_shortly(self) -> None:
        """A greeting gets a short answer."""
        assert len(say("Hi there!").tokens) < len(say().tokens) / 2

    @given(st.text())
    def test_tokens_joined_give_the_text_back(self, text: str) -> None:
        """No character is lost between tokens, whatever the text."""
        assert "".join(TOKEN.findall(text)) == text

    @given(st.text(max_size=200))
    def test_any_question_can_be_answered(self, question: str) -> None:
        """No text breaks the composer."""
        assert say(question).text()
        assert topic(question)

    @pytest.mark.parametrize(
        ("fields", "is_thinking"),
        [
            ({}, False),
            ({"chat_template_kwargs": {"enable_thinking": True}}, True),
            ({"chat_template_kwargs": {"thinking": True}}, True),
            ({"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "high"}, False),
            ({"reasoning_effort": "low"}, True),
            ({"reasoning_effort": "none"}, False),
        ],
    )
    def test_the_model_thinks_when_it_is_told_to(self, fields: dict[str, Any], is_thinking: bool) -> None:
        """The template's switch decides, then the effort."""
        assert bool(say(**fields).text("reasoning")) is is_thinking

    def test_a_higher_effort_thinks_longer(self) -> None:
        """The order is low < medium < high."""
        lengths = [len(say(reasoning_effort=effort).text("reasoning")) for effort in ("low", "medium", "high")]
        assert lengths == sorted(set(lengths))

    def test_max_tokens_ends_with_length_and_counts_thinking(self) -> None:
        """Both channels share the limit, as in vLLM."""
        said = say(max_tokens=7, reasoning_effort="high")
        assert (len(said.tokens), said.finish_reason, said.text()) == (7, "length", "")

    def test_a_stop_text_ends_the_answer_before_it(self) -> None:
        """The earliest of several stop texts wins and is named."""
        said = say(stop=["energy", "; "])
        assert said.text() == '[small] system prompt: "Be kind."'
        assert (said.finish_reason, said.stop_reason) == ("stop", "; ")

    def test_several_choices_differ(self) -> None:
        """`n` gives different answers, each repeatable."""
        first, second = answer_all(chat(n=2), "small")
        assert first.text() != second.text()

    def test_answer_tokens_fixes_the_length(self) -> None:
        """A test can ask for a very short or a very long answer."""
        assert [len(answer_all(chat(), "small", count)[0].tokens) for count in (3, 1000)] == [3, 1000]


class TestTools:
    def test_a_question_about_a_tool_calls_it_with_its_own_words(self) -> None:
        """The arguments fit the schema and come from the question."""
        call = say("What will the weather in San Francisco be for 3 days?", tools=[WEATHER]).tool_call
        assert call is not None
        assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "San Francisco", "days": 3})

    def test_an_unrelated_question_or_tool_choice_none_calls_nothing(self) -> None:
        """Tools that do not fit are left alone."""
        assert say("Who was Ada Lovelace?", tools=[WEATHER]).tool_call is None
        assert say("How is the weather?", tools=[WEATHER], tool_choice="none").tool_call is None

    @pytest.mark.parametrize(
        ("choice", "reason"),
        [("required", "tool_calls"), ({"type": "function", "function": {"name": "get_weather"}}, "stop")],
    )
    def test_a_forced_tool_is_called_whatever_the_question(self, choice: object, reason: str) -> None:
        """A named tool ends with `stop`, `required` with `tool_calls`, as in vLLM."""
        said = say("Who was Ada Lovelace?", tools=[WEATHER], tool_choice=choice)
        assert said.tool_call is not None
        assert said.finish_reason == reason

    def test_a_tool_result_is_answered_in_words(self) -> None:
        """The loop of calls ends when the result is there."""
        messages = [{"role": "user", "content": "How is the weather?"}, {"role": "tool", "content": "21 degrees"}]
        body = json.dumps({"model": "small", "messages": messages, "tools": [WEATHER]}).encode()
        (said,) = answer_all(read_chat(body), "small")
        assert said.tool_call is None
        assert "21 degrees" in said.text()

    def test_json_schema_content_fits_the_schema(self) -> None:
        """`response_format` gives an object with the requested fields."""
        schema = {"type": "object", "properties": {"name": {"type": ["string", "null"]}, "sure": {"type": "boolean"}}}
        said = say(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
        assert json.loads(said.text()) == {"name": "renewable energy sources", "sure": True}

    def test_json_object_content_is_json(self) -> None:
        """Without a schema the object holds the receipt and the answer."""
        assert json.loads(say(response_format={"type": "json_object"}).text())["model"] == "small"

    def test_fill_prefers_an_enum_value_that_was_named(self) -> None:
        """`celsius` in the question selects it."""
        assert fill({"enum": ["kelvin", "celsius"]}, "in Celsius please") == "celsius"
        assert fill({"type": "array", "items": {"anyOf": [{"type": "integer"}]}}, "take 5") == [5]


class TestRequests:
    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"messages": []}, "messages"),
            ({"messages": ["hi"]}, "messages[0]"),
            ({"max_tokens": 0}, "max_tokens"),
            ({"n": True}, "n"),
            ({"n": 1000}, "n"),
            ({"stop": 5}, "stop"),
            ({"tools": "all"}, "tools"),
            ({"tools": [{}]}, "tools"),
            ({"tool_choice": "required"}, "tool_choice"),
            ({"stream_options": {"include_usage": True}}, "stream_options"),
            ({"chat_template_kwargs": []}, "chat_template_kwargs"),
        ],
    )
    def test_a_bad_field_is_refused_by_name(self, fields: dict[str, Any], param: str) -> None:
        """vLLM answers 400, and so does the mock, naming the field."""
        with pytest.raises(RequestError) as caught:
            chat(**fields)
        assert (caught.value.http_status, caught.value.param) == (400, param)

    @pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b"[" * 100_000])
    def test_a_body_that_is_no_json_object_is_refused(self, body: bytes) -> None:
        """Bodies may be malformed, of the wrong kind, in the wrong encoding, or too deep."""
        with pytest.raises(RequestError):
            read_chat(body)

    def test_text_parts_images_and_developer_messages_are_read(self) -> None:
        """A multimodal body gives its text and the number of its images."""
        parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "data:"}}]
        messages = [{"role": "developer", "content": "Short."}, {"role": "user", "content": parts}]
        (prompt,) = read_chat(json.dumps({"model": "small", "messages": messages}).encode()).prompts
        assert (prompt.system, prompt.question, prompt.image_count) == ("Short.", "What is this?", 1)

    def test_a_legacy_completion_takes_one_or_many_prompts_and_stops_early(self) -> None:
        """Each prompt has its answers; 16 tokens unless more are asked for."""
        asked = read_completion(b'{"model": "small", "prompt": ["one", "two"], "n": 2}')
        assert [len(said.tokens) for said in answer_all(asked, "small")] == [16] * 4

    def test_token_ids_are_accepted(self) -> None:
        """Completions and embeddings accept numbers in place of words."""
        assert read_completion(b'{"model": "m", "prompt": [1, 2]}').prompts[0].question == "1 2"
        assert read_embedding(b'{"model": "m", "input": [[1], [2, 3]]}').texts == ("1", "2 3")


class TestWire:
    HEAD = wire.Head("chatcmpl-1", 1, "small", 9)

    def flat(self, asked: Generation) -> list[wire.Json]:
        answers = answer_all(asked, "small")
        return [chunk for chunks in wire.frames(wire.Chat(), self.HEAD, answers, asked) for chunk in chunks]

    def test_a_stream_says_what_the_body_says(self) -> None:
        """The joined deltas are the message: content, thinking and order."""
        asked = chat("Write a python class", stream=True, reasoning_effort="high")
        deltas = [chunk["choices"][0]["delta"] for chunk in self.flat(asked)]
        message = wire.whole(wire.Chat(), self.HEAD, answer_all(asked, "small"))["choices"][0]["message"]
        for field in ("content", "reasoning_content"):
            assert "".join(delta.get(field, "") for delta in deltas) == message[field]

    def test_tool_call_deltas_put_together_are_the_call(self) -> None:
        """The id and name come once, then the arguments in pieces."""
        asked = chat("How is the weather in Rome?", stream=True, tools=[WEATHER])
        deltas = [chunk["choices"][0]["delta"] for chunk in self.flat(asked)]
        calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
        (said,) = answer_all(asked, "small")
        assert said.tool_call is not None
        assert (calls[0]["id"], calls[0]["function"]["name"]) == (said.tool_call.call_id, "get_weather")
        assert "".join(call["function"]["arguments"] for call in calls) == said.tool_call.arguments

    def test_only_a_stream_that_wants_usage_ends_with_it(self) -> None:
        """The extra chunk has no choices. No other chunk has the field."""
        plain = self.flat(chat(stream=True))
        asked = self.flat(chat(stream=True, stream_options={"include_usage": True}))
        assert all("usage" not in chunk for chunk in [*plain, *asked[:-1]])
        assert asked[-1]["choices"] == []
        assert asked[-1]["usage"]["completion_tokens"] == len(asked) - 3  # without opening, finish and usage

    def test_running_usage_counts_up(self) -> None:
        """vLLM's `continuous_usage_stats` puts the count so far on each chunk."""
        options = {"include_usage": True, "continuous_usage_stats": True}
        chunks = self.flat(chat(stream=True, stream_options=options, max_tokens=2))
        assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [0, 1, 2, 2, 2]

    def test_choices_of_different_length_each_finish_once(self) -> None:
        """With `n` the tokens come interleaved and nothing is lost."""
        asked = chat(stream=True, n=3)
        chunks = [chunk["choices"][0] for chunk in self.flat(asked)]
        for index, said in enumerate(answer_all(asked, "small")):
            mine = [choice for choice in chunks if choice["index"] == index]
            assert "".join(choice["delta"]["content"] for choice in mine) == said.text()
            assert [choice["finish_reason"] for choice in mine].count("stop") == 1

    def test_an_empty_answer_still_opens_and_finishes(self) -> None:
        """A stop text at the very start leaves a well-formed stream."""
        assert [len(chunk["choices"]) for chunk in self.flat(chat(stream=True, stop="["))] == [1, 1]

    def test_text_stays_utf8_and_half_characters_do_not_break_it(self) -> None:
        """Bytes as vLLM writes them; a lone surrogate from a client becomes a question mark."""
        assert wire.dump({"a": "ü\ud800"}) == b'{"a":"\xc3\xbc?"}'


class TestFaults:
    def test_headers_are_read_into_faults(self) -> None:
        """Every fault header reaches its field."""
        assert read_faults({"x-sim-status": "503", "x-sim-stall-ms": "20"}) == Faults(status=503, stall_ms=20)

    @pytest.mark.parametrize("value", ["", "abc", "-1", "200", "600", "5.0", "²"])
    def test_a_value_that_makes_no_sense_is_refused(self, value: str) -> None:
        """A mistyped fault must not count as no fault."""
        with pytest.raises(RequestError):
            read_faults({"x-sim-status": value})

    def test_the_pace_is_the_models_unless_the_request_bends_it(self) -> None:
        """Tokens are due at first + n * step."""
        pace = Pace(100, 20)
        assert pace.due_s(3) == pytest.approx(0.16)
        assert pace.bent(Faults(token_ms=0)).due_s(3) == pytest.approx(0.1)
        assert pace.bent(Faults(first_token_ms=0)).due_s(3) == pytest.approx(0.06)


class TestLedger:
    @staticmethod
    def received(request_id: str = "", body: bytes = b"") -> Received:
        return Received("POST", "/v1/chat/completions", (), body, request_id)

    def test_it_remembers_the_newest_and_forgets_the_oldest(self) -> None:
        """The memory is limited by number."""
        ledger = Ledger()
        for number in range(MAX_REQUESTS + 1):
            ledger.receive(self.received(str(number)))
        newest = ledger.find()
        assert newest is not None
        assert newest.request_id == str(MAX_REQUESTS)
        assert (ledger.find("0"), ledger.find("1") is None) == (None, False)

    def test_big_bodies_push_old_ones_out_but_the_newest_stays(self) -> None:
        """The memory is limited by bytes."""
        ledger = Ledger()
        ledger.receive(self.received("small"))
        ledger.receive(self.received("big", bytes(MAX_BODY_BYTES + 1)))
        assert ledger.find("small") is None
        assert ledger.find("big") is not None

    def test_counts_add_up(self) -> None:
        """Every request is active or has ended in one way."""
        ledger = Ledger()
        for ending in ("completed", "aborted"):
            ledger.receive(self.received())
            ledger.end(ending)
        ledger.receive(self.received())
        counts = ledger.counts()
        assert (counts["received"], counts["active"], counts["completed"], counts["aborted"]) == (3, 1, 1, 1)


@given(st.text(), st.integers(1, 2048))
def test_embeddings_are_repeatable_unit_vectors(text: str, dimension_count: int) -> None:
    """(dimension_count,) float32 of length one, determined by the text alone."""
    vector = embed(text, dimension_count)
    assert vector.shape == (dimension_count,)
    assert vector.dtype == np.float32
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)
    assert np.array_equal(vector, embed(text, dimension_count))
