"""Whatever a client or a backend sends, no exception reaches the shell's edge. There Envoy's failure policy would act, and
fail-open would skip every rule.

Generated headers, bodies and answers go from Envoy's bytes to Envoy's bytes: wire, shell, exchange, rules of every kind, cache
and instruments are the real ones. `WHOLE_PATH_EXAMPLES=20000 make test ARGS="tests/contract/test_whole_path.py"` runs longer.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.config.patterns import compile_pattern, keyword_patterns
from router.core.cache_key import Eligibility
from router.core.cache_policy import CachePlan, ScopePlan
from router.core.conditions import AllOf, AnyOf, Condition, FlagIs, HeaderMatches, LabelIs, Not, TextMatches, TokensWithin
from router.core.events import ReadSignals
from router.core.lookup import CachePolicy, CacheQuery, Found, Hit, Miss, Waiting
from router.core.models import Model, Reasoning, ReasoningFamily, SystemPrompt
from router.core.policy import Default, Policy, Rule
from router.core.selection import Selection
from router.core.snapshot import Snapshot
from router.core.types import Block, Classification, Missing, Reading, Readings, Scores
from router.extproc import wire
from router.extproc.pb import extproc_pb2 as pb
from router.extproc.processor import Processor
from router.telemetry import Telemetry
from router.telemetry.metrics import Metrics

EXAMPLES = int(os.environ.get("WHOLE_PATH_EXAMPLES", "100"))
PROFILE = settings(
    max_examples=EXAMPLES,
    derandomize=EXAMPLES == 100,  # in `make test` the same examples each time; a longer run looks for new ones
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
BROKEN = (b"\x00", b"\xff", b"\xed\xa0\x80", "\u00e9".encode("latin-1"), "\u65e5\u672c".encode())

TELEMETRY = Telemetry([Metrics()])
LOOP = asyncio.new_event_loop()

# -- a configuration with every kind of rule -------------------------------------------------------------------------------

SMALL = Model("small", "c-small", "served-small", "qwen3", 0.2, "like-small")
LARGE = Model("large", "c-large", "large", "gpt-oss", 2.0, "like-large")
FAMILIES = {
    "qwen3": ReasoningFamily("chat_template_kwargs", "enable_thinking"),
    "gpt-oss": ReasoningFamily("reasoning_effort", "reasoning_effort"),
}
ATTACK = LabelIs("jailbreak", frozenset({"attack"}), 0.5)
WORDS = TextMatches("words", keyword_patterns(["sql", "\u00fcber"], [r"def \w+\("], is_case_sensitive=False))
TEAM = HeaderMatches("x-team", compile_pattern("[a-z]+"))
CONDITIONS: tuple[Condition, ...] = (
    AnyOf((WORDS, TEAM)),
    AllOf((FlagIs("has_tools", True), Not(FlagIs("has_images", True)))),
    AllOf((LabelIs("intent", frozenset({"math"}), 0.5), FlagIs("is_stream", True))),
    LabelIs("own", frozenset({"billing"}), 0.5),
    TokensWithin(10, 20),
    Not(LabelIs("intent", frozenset({"law"}), 0.5)),
)


def _rules(prompt: SystemPrompt | None) -> Iterator[Rule]:
    yield Rule("closed", ATTACK, SMALL, block=Block("no", fails_closed=True))
    yield Rule("open", AllOf((LabelIs("pii", frozenset({"CARD"}), 0.5), TEAM)), SMALL, block=Block("no"))
    for number, condition in enumerate(CONDITIONS):
        model = (SMALL, LARGE)[number % 2]
        choice = Selection((SMALL, LARGE), 0.1) if number == 3 else None
        yield Rule(f"rule-{number}", condition, model, number, Reasoning(number % 3 != 0), prompt, choice)


def _snapshot(prompt: SystemPrompt | None, *, caches: bool, records_usage: bool, eligibility: Eligibility) -> Snapshot:
    policy = Policy.of(tuple(_rules(prompt)), Default(SMALL, Reasoning(enabled=False), prompt), 0.5)
    cache_policy = CachePolicy(0.8, 60.0, (), coalesce_timeout_s=1.0)
    named = ("default", "explicit_model", *(rule.name for rule in policy.rules))
    policies = dict.fromkeys(named, cache_policy)
    plan = CachePlan(ScopePlan("authorization", b"key"), eligibility, policies, "v1") if caches else None
    models = {model.name: model for model in (SMALL, LARGE)}
    return Snapshot(policy, models, ("auto",), FAMILIES, 1 << 20, records_usage, 1, plan)


WIDE = Eligibility(2.0, 100_000, True, True, True, True, True, True)
SNAPSHOTS = (
    _snapshot(None, caches=False, records_usage=False, eligibility=WIDE),
    _snapshot(SystemPrompt("Think.", "insert"), caches=True, records_usage=True, eligibility=WIDE),
    _snapshot(SystemPrompt("Think.", "replace"), caches=True, records_usage=False, eligibility=Eligibility()),
)

# -- what may come in ------------------------------------------------------------------------------------------------------

DEEP = 976
"""The depth that CPython 3.11's parser just accepts, and that later steps do not."""
AWKWARD = (
    "null",
    "true",
    "0",
    "-0.0",
    "1e999",
    "-1e999",
    "NaN",
    "Infinity",
    "9" * 5000,
    "1e" + "9" * 400,
    "1" * 400,
    '""',
    '"a"',
    '"\\ud800"',
    '"\\udc00\\ud800"',
    '"\\u0000"',
    '"\x7f"',
    '"\ufeff"',
    "[]",
    "{}",
    "[[]]",
    '[{}, null, "a", 1]',
    '{"": {}}',
    '{"a": 1, "a": 2}',
    '{"role": "user", "role": "system"}',
    '{"\\ud800": 1}',
    '["text"]',
    '{"type": {}}',
    '[{"type": []}]',
    "[" * DEEP + "]" * DEEP,
    "[" * 200_000,
    '{"a":' * DEEP + "0" + "}" * DEEP,
    '{"a":[' * 90 + "]}" * 90,
    "tru",
    "'a'",
    "",
    '[{"type": "text", "text": null}]',
    '"user"',
    '"system"',
    '"\\n\\r: x"',
)
PATHS = ("/v1/chat/completions",) * 6 + ("/v1/completions", "/v1/embeddings", "/v1/models", "/v1/models/%ff%", "/x", "")
MARK = "\u241f"
"""Marks the place of raw text in a document. No strategy draws it."""

TEXTS = st.sampled_from(
    ["", "hi", "write sql", "def f(", "a\x00b", "\ud800", "\U0001f600", "\u00fcber", "x" * 300, "my order"]
) | st.text(max_size=8)
PARTS = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": TEXTS}),
    st.fixed_dictionaries({"type": st.just("image_url"), "image_url": st.fixed_dictionaries({"url": TEXTS})}),
    st.fixed_dictionaries({"type": TEXTS}),
)
MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "user", "system", "developer", "assistant", "tool"])},
    optional={
        "content": TEXTS | st.lists(PARTS, max_size=3) | st.none(),
        "name": TEXTS,
        "tool_calls": st.just([{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]),
    },
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
DOCUMENTS = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["auto", "auto", "auto", "small", "large", "other"]),
        "messages": st.lists(MESSAGES, min_size=1, max_size=4),
    },
    optional={
        "stream": st.booleans(),
        "stream_options": st.fixed_dictionaries({}, optional={"include_usage": st.booleans()}),
        "tools": st.just([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]),
        "chat_template_kwargs": st.fixed_dictionaries({}, optional={"enable_thinking": st.booleans(), "x": JSON}),
        "temperature": st.floats(0, 2),
        "n": st.integers(0, 3),
        "user": TEXTS,
        "prompt": TEXTS | st.lists(TEXTS | st.integers(0, 9), max_size=3),
        "input": TEXTS | st.lists(TEXTS, max_size=3),
        "reasoning_effort": TEXTS,
        "metadata": JSON,
    },
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def changed(value: Any, path: Sequence[Any], new: Any) -> Any:
    """A copy of a document with another value, or another key, at one place."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


def with_raw(document: Any, raws: Mapping[tuple[Any, ...], str], **layout: Any) -> bytes:
    """A document as text, with raw text in the place of some values."""
    for number, place in enumerate(raws):
        document = changed(document, place, f"{MARK}{number}")
    text = json.dumps(document, **layout)
    for number, raw in enumerate(raws.values()):
        text = text.replace(json.dumps(f"{MARK}{number}", **layout), raw)
    return text.encode("utf-8", "surrogatepass")


@st.composite
def bodies(draw: st.DrawFn, documents: st.SearchStrategy[Any] = DOCUMENTS) -> bytes:
    """Valid documents with any value in any place, a repeated key, or bytes that do not belong."""
    document = draw(documents)
    place = st.sampled_from(list(places(document)))
    raws = draw(st.dictionaries(place, st.sampled_from(AWKWARD), max_size=1))
    data = with_raw(document, raws, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
    return draw(damaged(data)) if draw(st.integers(0, 4)) == 0 else data


def damaged(data: bytes) -> st.SearchStrategy[bytes]:
    """Bytes that are cut off, or mixed with others."""
    place = st.integers(0, len(data))
    strange = st.sampled_from([*BROKEN, b"\xef\xbb\xbf", b'"', b"\\", b"}", b"]", b",", b"\n"]) | st.binary(max_size=4)
    return st.one_of(
        place.map(lambda end: data[:end]),
        st.tuples(place, strange).map(lambda at: data[: at[0]] + at[1] + data[at[0] :]),
        st.binary(max_size=50),
        st.sampled_from(BROKEN).map(lambda start: start + data),
    )


NUMBERS = st.sampled_from([b"0" * 6000 + b"5", b"9" * 6000, b"5, 5", b"-1", b"\xd9\xa5", b"", b"1_0", b" 7 ", b"\xb2"])
VALUES = (
    st.sampled_from(
        [b"", b"a", b"Bearer a", b"no-cache, max-age=0", b"max-age=99999999999, ttl", b"identity", b"gzip", b'"', b"=,=,"]
    )
    | st.binary(max_size=12)
    | NUMBERS
)
NAMES = st.sampled_from(
    [
        "content-length",
        "content-encoding",
        "cache-control",
        "x-vsr-cache-ttl",
        "authorization",
        "authorization",
        "x-team",
        "x-request-id",
        "traceparent",
        "accept-encoding",
        "",
        ":path",
        "\u00e9",
    ]
)
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=5)
READINGS: st.SearchStrategy[Reading] = st.one_of(
    st.sampled_from(["deadline", "no_text", "too_long"]).map(Missing),
    st.tuples(st.sampled_from(["math", "law", "billing"]), st.floats(0, 1)).map(lambda drawn: Classification(*drawn)),
    st.dictionaries(st.sampled_from(["attack", "CARD", "like-large"]), st.floats(0, 1)).map(Scores),
)
CHUNKS = st.fixed_dictionaries(
    {
        "choices": st.lists(
            st.fixed_dictionaries(
                {
                    "index": st.integers(0, 1),
                    "delta": st.fixed_dictionaries(
                        {}, optional={"role": st.just("assistant"), "content": TEXTS, "tool_calls": JSON, "x": JSON}
                    ),
                    "finish_reason": st.sampled_from([None, "stop", "length"]),
                },
                optional={"logprobs": st.fixed_dictionaries({"content": st.lists(JSON, max_size=2) | JSON})},
            ),
            max_size=2,
        )
    },
    optional={
        "usage": st.fixed_dictionaries(
            {"prompt_tokens": st.integers(-(2**70), 2**70)}, optional={"completion_tokens": st.integers(0, 9) | JSON}
        ),
        "id": JSON,
        "error": JSON,
    },
)
COMPLETIONS = st.fixed_dictionaries(
    {
        "choices": st.lists(
            st.fixed_dictionaries(
                {
                    "index": st.integers(0, 2),
                    "message": st.fixed_dictionaries(
                        {"role": st.just("assistant"), "content": TEXTS}, optional={"refusal": TEXTS, "tool_calls": JSON}
                    ),
                    "finish_reason": st.just("stop"),
                }
            ),
            max_size=2,
        ),
        "usage": st.fixed_dictionaries({"prompt_tokens": st.integers(0, 9), "completion_tokens": st.integers(0, 9) | JSON}),
    },
    optional={"id": JSON, "x": JSON},
)
FRAMES = st.tuples(
    st.sampled_from([b"data: ", b"data:", b"data", b": ", b"event: x\ndata: ", b""]),
    st.one_of(bodies(CHUNKS), st.just(b"[DONE]")),
    st.sampled_from([b"\n\n", b"\r\n\r\n", b"\r\r", b"\n"]),
).map(b"".join)
ANSWERS = st.one_of(
    st.lists(FRAMES, max_size=5).map(lambda frames: b"".join(frames) + b"data: [DONE]\n\n"),
    bodies(COMPLETIONS),
    st.binary(max_size=20),
)
WHOLE = json.dumps({"choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}]}).encode()


@dataclass(frozen=True)
class Case:
    """One exchange: what Envoy sends, and what the parts beside the exchange answer."""

    shot: Snapshot
    path: str
    method: str
    headers: list[tuple[str, bytes]]
    is_end: bool
    body: bytes
    readings: dict[str, Reading]
    found: Found | Waiting
    status: bytes
    kind: bytes
    answer_headers: list[tuple[str, bytes]]
    answer: bytes
    cuts: list[int]


READ = st.fixed_dictionaries(dict.fromkeys(("intent", "jailbreak", "pii", "own", "quality"), READINGS))
HITS = st.one_of(st.just(WHOLE), bodies(COMPLETIONS)).map(lambda answer: Hit("e", answer, "exact", 1.0, 1.5, 0.9))
FOUND = st.one_of(st.just(Miss("empty")), st.just(Waiting(0.5)), HITS)
METHODS = ["POST"] * 8 + ["GET", ""]
STATUSES = [b"200"] * 8 + [b"500", b"", b"2" * 5000, b"\xd9\xa5"]
KINDS = [b"text/event-stream", b"text/event-stream", b"application/json", b"", b"\xff"]
QUESTION = {"model": "auto", "messages": [{"role": "user", "content": "What is a monad?"}]}
EVERY_FIELD = {
    **QUESTION,
    "messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "name": "n", "content": [{"type": "text", "text": "x"}]},
        {"role": "assistant", "content": "y", "tool_calls": []},
        {"role": "user", "content": "What is a monad?"},
    ],
    "stream": True,
    "stream_options": {"include_usage": False},
    "chat_template_kwargs": {"enable_thinking": True},
    "reasoning_effort": "low",
    "tools": [],
    "temperature": 1,
    "n": 1,
    "user": "u",
    "x": {"y": [0]},
}
IMAGE = {**QUESTION, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]}
PLAIN = Case(
    SNAPSHOTS[1],
    "/v1/chat/completions",
    "POST",
    [("authorization", b"Bearer a")],
    False,
    json.dumps(QUESTION).encode(),
    dict.fromkeys(("intent", "pii", "own", "quality"), Missing("deadline")) | {"jailbreak": Scores({})},
    Miss("empty"),
    b"200",
    b"application/json",
    [],
    WHOLE,
    [],
)

# -- the path ------------------------------------------------------------------------------------------------------------------


def header_map(headers: Sequence[tuple[str, bytes]]) -> pb.HeaderMap:
    """Headers as Envoy sends them."""
    return pb.HeaderMap(headers=[pb.HeaderValue(key=name, raw_value=value) for name, value in headers])


def messages_of(case: Case) -> Iterator[pb.ProcessingRequest]:
    """Envoy's messages in their order."""
    first = [(":method", case.method.encode()), (":path", case.path.encode()), *case.headers]
    yield pb.ProcessingRequest(request_headers=pb.HttpHeaders(headers=header_map(first), end_of_stream=case.is_end))
    yield pb.ProcessingRequest(request_body=pb.HttpBody(body=case.body, end_of_stream=True))
    answer = [(":status", case.status), ("content-type", case.kind), *case.answer_headers]
    yield pb.ProcessingRequest(response_headers=pb.HttpHeaders(headers=header_map(answer)))
    at = 0
    for cut in sorted(min(cut, len(case.answer)) for cut in case.cuts):
        yield pb.ProcessingRequest(response_body=pb.HttpBody(body=case.answer[at:cut]))
        at = cut
    yield pb.ProcessingRequest(response_body=pb.HttpBody(body=case.answer[at:], end_of_stream=True))


@dataclass
class Stored:
    """A cache that answers as told, and records what it is given."""

    found: Found | Waiting
    kept: list[bytes | None] = field(default_factory=list)

    async def look_up(self, query: CacheQuery, cache_policy: CachePolicy) -> tuple[Found | Waiting, object]:
        """A lookup of a question that can be encoded, as a store would take it."""
        json.dumps([query.text, query.namespace, query.key, query.scope])
        return self.found, "ticket"

    def look_ahead(self, query: CacheQuery, cache_policy: CachePolicy) -> Found:
        """The same, as far as it can be given at once."""
        return self.found if isinstance(self.found, Hit) else Miss("empty")

    async def await_leader(self, pending: object) -> Found:
        """The leader has failed."""
        return Miss("coalesce_timeout")

    def complete(self, pending: object, answer: bytes | None, max_ttl_s: float | None = None) -> None:
        """Record it."""
        self.kept.append(answer)


class EdgeReachedError(Exception):
    """An exception reached the shell's edge."""


class Context:
    """A gRPC call in which nothing may fail."""

    async def abort(self, code: object, message: str) -> None:
        """Raise what was caught."""
        raise EdgeReachedError(f"{code}: {message}")


def serve(case: Case) -> tuple[list[pb.ProcessingResponse], Stored]:
    """Serve the exchange from bytes to bytes."""
    stored = Stored(case.found)

    async def read_signals(wanted: ReadSignals) -> Readings:
        return {name: case.readings[name] for name in wanted.wanted}

    async def arriving() -> AsyncIterator[pb.ProcessingRequest]:
        for message in messages_of(case):
            yield wire.parse_request(message.SerializeToString())

    async def run() -> list[pb.ProcessingResponse]:
        replies = Processor(case.shot, read_signals, TELEMETRY, stored).process(arriving(), Context())
        return [pb.ProcessingResponse.FromString(wire.serialize_response(reply)) async for reply in replies]

    return LOOP.run_until_complete(run()), stored


def check(case: Case) -> list[pb.ProcessingResponse]:
    """Serve it, and require OpenAI's shape of every error reply."""
    replies, stored = serve(case)
    for reply in replies:
        status, body = reply.immediate_response.status.code, reply.immediate_response.body
        if reply.HasField("immediate_response") and status != 200:
            assert 400 <= status < 600
            error = json.loads(body)["error"]
            assert set(error) == {"message", "type", "param", "code"}
            assert error["message"]
    assert len(stored.kept) <= 1
    return replies


@PROFILE
@given(headers=HEADERS, path=st.sampled_from(PATHS), method=st.sampled_from(METHODS), is_end=st.booleans())
def test_whatever_the_headers_are(headers: list[tuple[str, bytes]], path: str, method: str, is_end: bool) -> None:
    """Lengths that are not numbers, bytes that are not UTF-8, repeated and empty names, and any spelling of the path cause no
    fault.
    """
    check(replace(PLAIN, headers=headers, path=path, method=method, is_end=is_end))


@PROFILE
@given(body=bodies(), shot=st.sampled_from(SNAPSHOTS), path=st.sampled_from(PATHS[:3]), readings=READ, found=FOUND)
def test_whatever_the_body_is(body: bytes, shot: Snapshot, path: str, readings: dict[str, Reading], found: Found) -> None:
    """No body causes a fault, under rules of every kind, with and without a cache, whatever the signals say."""
    check(replace(PLAIN, body=body, shot=shot, path=path, readings=readings, found=found))


@PROFILE
@given(
    is_stream=st.booleans(),
    answer=ANSWERS,
    status=st.sampled_from(STATUSES),
    kind=st.sampled_from(KINDS),
    headers=st.lists(st.tuples(NAMES, VALUES), max_size=2),
    cuts=st.lists(st.integers(0, 400), max_size=6),
)
def test_whatever_the_answer_is(
    is_stream: bool, answer: bytes, status: bytes, kind: bytes, headers: list[tuple[str, bytes]], cuts: list[int]
) -> None:
    """No answer causes a fault: events and documents, damaged or split anywhere, read for the cache and for token counts."""
    body = json.dumps({**QUESTION, "stream": is_stream}).encode()
    check(replace(PLAIN, body=body, answer=answer, status=status, kind=kind, answer_headers=headers, cuts=cuts))


@pytest.mark.parametrize("shot", SNAPSHOTS, ids=["plain", "inserting", "replacing"])
def test_everything_awkward_in_every_place(shot: Snapshot) -> None:
    """A request with every field that the router reads is refused or served, and never causes a fault."""
    outcomes = set()
    for document, place in ((whole, place) for whole in (EVERY_FIELD, IMAGE) for place in places(whole)):
        for raw in AWKWARD:
            case = replace(PLAIN, shot=shot, body=with_raw(document, {place: raw}))
            outcomes.add(check(case)[-1].WhichOneof("response"))
    assert {"immediate_response"} < outcomes <= {"immediate_response", "request_body", "response_body"}


@pytest.mark.parametrize("shot", SNAPSHOTS, ids=["plain", "inserting", "replacing"])
def test_every_depth(shot: Snapshot) -> None:
    """Parsing, cache keys and rewriting each have a limit of their own."""
    for depth in (*range(1, 1100, 50), *range(930, 1000)):
        for opening, closing in (("[", "]"), ('{"a":', "}")):
            body = with_raw(EVERY_FIELD, {("x",): opening * depth + "0" + closing * depth})
            check(replace(PLAIN, shot=shot, body=body))
