"""The mock vLLM backends over real sockets, judged by OpenAI's own client and, byte for byte, by a plain socket."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest

from router.devstack.vllm import Backend, serve

FAST = {"x-sim-token-ms": "0", "x-sim-first-token-ms": "0"}
QUESTION: list[Any] = [{"role": "user", "content": "Write a Python class with a loop"}]


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """The address of a backend `small` that also answers to `auto`."""
    async with serve([Backend("small", aliases=("auto",), first_token_ms=40, token_ms=10)]) as running:
        yield f"http://127.0.0.1:{running.ports[0]}"


@pytest.fixture
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, default_headers=FAST) as client:
        yield client


@pytest.fixture
async def http(url: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(url) as session:
        yield session


async def counts(http: aiohttp.ClientSession) -> dict[str, int]:
    async with http.get("/sim/count") as response:
        return dict(await response.json())


async def counts_when(http: aiohttp.ClientSession, ending: str) -> dict[str, int]:
    """The counts once one request has ended that way."""
    async with asyncio.timeout(10):
        while not (found := await counts(http))[ending]:
            await asyncio.sleep(0.01)
    return found


async def read_until_broken(
    http: aiohttp.ClientSession, fields: dict[str, Any], headers: dict[str, str]
) -> tuple[bytes, Exception | None]:
    """The part of an answer that arrives before the connection breaks or is silent for 0.3 s, and which of the two happened."""
    data = b""
    try:
        async with asyncio.timeout(0.3), http.post("/v1/chat/completions", json=fields, headers=headers) as response:
            async for line in response.content:
                data += line
    except (aiohttp.ClientError, TimeoutError) as error:
        return data, error
    return data, None


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "small", "messages": QUESTION} | fields


class TestOpenAIClient:
    async def test_a_stream_gives_the_text_of_the_plain_answer(self, client: openai.AsyncOpenAI) -> None:
        """Whitespace is the same, and usage comes at the end if it was requested."""
        plain = await client.chat.completions.create(model="small", messages=QUESTION)
        stream = await client.chat.completions.create(
            model="small", messages=QUESTION, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == plain.choices[0].message.content
        assert chunks[-1].usage == plain.usage
        assert plain.usage is not None
        assert plain.usage.completion_tokens == len(chunks) - 3

    async def test_tool_calls_are_understood(self, client: openai.AsyncOpenAI) -> None:
        """The client finds the call and its arguments."""
        parameters: dict[str, object] = {"type": "object", "properties": {"city": {"type": "string"}}}
        answer = await client.chat.completions.create(
            model="small",
            messages=[{"role": "user", "content": "How is the weather in Rome?"}],
            tools=[{"type": "function", "function": {"name": "get_weather", "parameters": parameters}}],
        )
        assert answer.choices[0].finish_reason == "tool_calls"
        assert answer.choices[0].message.tool_calls is not None
        call = answer.choices[0].message.tool_calls[0]
        assert call.type == "function"
        assert json.loads(call.function.arguments) == {"city": "Rome"}

    async def test_legacy_completions_stream_and_answer(self, client: openai.AsyncOpenAI) -> None:
        """`/v1/completions` has its own older format."""
        plain = await client.completions.create(model="small", prompt="Once upon a time", max_tokens=9)
        stream = await client.completions.create(model="small", prompt="Once upon a time", max_tokens=9, stream=True)
        assert "".join([chunk.choices[0].text async for chunk in stream]) == plain.choices[0].text
        assert plain.choices[0].finish_reason == "length"

    async def test_embeddings_are_the_same_in_both_encodings(self, client: openai.AsyncOpenAI) -> None:
        """The client asks for base64 by default. Floats give the same vector."""
        packed = await client.embeddings.create(model="small", input=["a", "b"], dimensions=8)
        plain = await client.embeddings.create(model="small", input=["a", "b"], dimensions=8, encoding_format="float")
        assert [item.embedding for item in packed.data] == [pytest.approx(item.embedding) for item in plain.data]

    async def test_models_are_listed_and_found_with_their_aliases(self, client: openai.AsyncOpenAI) -> None:
        """Each served name has a card."""
        assert [model.id async for model in client.models.list()] == ["small", "auto"]
        assert (await client.models.retrieve("auto")).id == "auto"

    async def test_an_alias_is_answered_under_the_models_name(self, client: openai.AsyncOpenAI) -> None:
        """vLLM does so for `--served-model-name small auto`."""
        assert (await client.chat.completions.create(model="auto", messages=QUESTION)).model == "small"

    async def test_an_unknown_model_is_not_found(self, client: openai.AsyncOpenAI) -> None:
        """The error has vLLM's message, type and numeric code."""
        with pytest.raises(openai.NotFoundError) as caught:
            await client.chat.completions.create(model="nope", messages=QUESTION)
        error = {"message": "The model `nope` does not exist.", "type": "NotFoundError", "param": "model", "code": 404}
        assert caught.value.body == error


class TestErrors:
    async def test_a_provoked_status_comes_in_vllms_shape(self, client: openai.AsyncOpenAI) -> None:
        """`x-sim-status` sets it."""
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model="small", messages=QUESTION, extra_headers={"x-sim-status": "503"})
        assert caught.value.status_code == 503

    @pytest.mark.parametrize(("data", "kind"), [(b"{", "application/json"), (b"{}", "application/json"), (b"{}", "text/plain")])
    async def test_malformed_requests_are_refused(self, http: aiohttp.ClientSession, data: bytes, kind: str) -> None:
        """Broken JSON, no messages and the wrong content type are answered 400."""
        async with http.post("/v1/chat/completions", data=data, headers={"content-type": kind}) as response:
            assert response.status == 400
            assert (await response.json())["error"]["type"] == "BadRequestError"

    async def test_an_unknown_path_is_a_json_404(self, http: aiohttp.ClientSession) -> None:
        """The answer is not HTML or plain text."""
        async with http.get("/v1/nothing") as response:
            assert (response.status, (await response.json())["error"]["code"]) == (404, 404)

    async def test_health_and_version_answer(self, http: aiohttp.ClientSession) -> None:
        """Probes ask for them, and they are not counted."""
        for path in ("/health", "/version"):
            async with http.get(path) as response:
                assert response.status == 200
        assert (await counts(http))["received"] == 0


class TestPace:
    async def test_tokens_come_one_by_one_at_their_pace(self, http: aiohttp.ClientSession) -> None:
        """Each token is flushed separately, so the 20 tokens arrive over their 10 ms steps."""
        began_s = time.perf_counter()
        headers = {"x-sim-answer-tokens": "20"}
        async with http.post("/v1/chat/completions", json=body(stream=True), headers=headers) as response:
            lines = [(line, time.perf_counter() - began_s) async for line in response.content]
        arrivals = [arrival for line, arrival in lines if b'"content":"' in line and b'"content":""' not in line]
        assert len(arrivals) == 20
        assert arrivals[0] >= 0.04
        assert arrivals[-1] - arrivals[0] >= 0.18
        assert len({round(arrival, 3) for arrival in arrivals}) >= 10  # a busy machine may bunch a few

    async def test_a_plain_answer_takes_as_long_as_its_stream(self, http: aiohttp.ClientSession) -> None:
        """The time is 40 ms and 20 tokens of 10 ms."""
        began_s = time.perf_counter()
        headers = {"x-sim-answer-tokens": "20"}
        async with http.post("/v1/chat/completions", json=body(), headers=headers) as response:
            await response.read()
        assert time.perf_counter() - began_s >= 0.24

    async def test_a_stall_delays_the_first_byte(self, http: aiohttp.ClientSession) -> None:
        """Even the status line is late."""
        began_s = time.perf_counter()
        async with http.get("/v1/models", headers={"x-sim-stall-ms": "80"}):
            assert time.perf_counter() - began_s >= 0.08


class TestConnection:
    async def test_a_client_that_goes_stops_the_generation_at_once(self, http: aiohttp.ClientSession) -> None:
        """The answer would take minutes. The abort is counted within a second."""
        headers = {"x-sim-answer-tokens": "100000"}
        async with http.post("/v1/chat/completions", json=body(stream=True), headers=headers) as response:
            await response.content.readline()
            assert (await counts(http))["active"] == 1
            response.close()
        assert await counts_when(http, "aborted") == {
            "received": 1, "active": 0, "completed": 0, "refused": 0, "aborted": 1, "dropped": 0,
        }  # fmt: skip

    async def test_a_client_that_gives_up_on_a_plain_answer_is_noticed_too(self, http: aiohttp.ClientSession) -> None:
        """The work stops even before the first byte."""
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await http.post("/v1/chat/completions", json=body(), headers={"x-sim-first-token-ms": "60000"})
        assert (await counts_when(http, "aborted"))["active"] == 0

    @pytest.mark.parametrize("is_stream", [True, False])
    async def test_the_connection_breaks_after_the_given_token(self, http: aiohttp.ClientSession, is_stream: bool) -> None:
        """Three tokens arrive, and then the connection ends uncleanly."""
        data, error = await read_until_broken(http, body(stream=is_stream), FAST | {"x-sim-abort-after": "3"})
        assert isinstance(error, aiohttp.ClientError)
        assert data.count(b'"content":') == (4 if is_stream else 0)  # the opening chunk has an empty one
        assert (await counts(http))["dropped"] == 1

    async def test_a_stall_after_some_tokens_goes_silent_but_stays_open(self, http: aiohttp.ClientSession) -> None:
        """The tokens before it arrive, then nothing."""
        data, error = await read_until_broken(http, body(stream=True), FAST | {"x-sim-stall-after": "3"})
        assert isinstance(error, TimeoutError)
        assert data.count(b'"content":') == 4

    async def test_stopping_does_not_wait_for_open_streams(self) -> None:
        """Ctrl-C takes a second at most."""
        async with aiohttp.ClientSession() as http:
            async with serve([Backend("small"), Backend("large")]) as running:
                responses = [
                    await http.post(
                        f"http://127.0.0.1:{port}/v1/chat/completions",
                        json={"model": name, "messages": QUESTION, "stream": True},
                        headers={"x-sim-stall-after": "0"},
                    )
                    for name, port in zip(("small", "large"), running.ports, strict=True)
                ]
                began_s = time.perf_counter()
            assert time.perf_counter() - began_s < 1.0
            for response in responses:
                response.close()

    async def test_a_taken_address_is_an_error_and_frees_the_others(self, url: str) -> None:
        """If one of several addresses is taken, no backend stays up."""
        taken = int(url.rsplit(":", 1)[1])
        with pytest.raises(OSError, match=str(taken)):
            async with serve([Backend("one"), Backend("two", port=taken)]):
                raise AssertionError("it came up")


class TestLookups:
    async def test_the_exact_body_and_headers_can_be_looked_up(self, http: aiohttp.ClientSession) -> None:
        """They are found by the newest request and by request id, byte for byte."""
        raw = b'{"model": "small",  "messages": [{"role": "user", "content": "\xc3\xbc"}], "seed": 1e2}'
        sent = FAST | {"content-type": "application/json", "X-Request-Id": "abc", "traceparent": "00-1-2-01"}
        async with http.post("/v1/chat/completions?a=1", data=raw, headers=sent) as response:
            assert (await response.json())["id"] == "chatcmpl-abc"
        for path in ("/sim/last", "/sim/requests/abc"):
            async with http.get(path) as response:
                seen = await response.json()
            assert (seen["path"], seen["body"]) == ("/v1/chat/completions?a=1", raw.decode())
            assert ["traceparent", "00-1-2-01"] in seen["headers"]

    async def test_what_is_not_remembered_is_a_404(self, http: aiohttp.ClientSession) -> None:
        """This holds before the first request, and for another id."""
        for path in ("/sim/last", "/sim/requests/abc"):
            async with http.get(path) as response:
                assert response.status == 404
