"""Every function that reads what a client or a backend sends takes time in proportion to it.

A text four times as long takes about four times as long, and sixteen times if something is quadratic. The tests measure processor
time of this thread; a noisy machine gets several tries, and what is quadratic fails all of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from time import thread_time

import numpy as np
import pytest

from router.cache import checks, wording
from router.cache.conversations import objection_to, pair_of_texts
from router.config.patterns import compile_pattern, keyword_patterns
from router.config.signals import SHIPPED_BUNDLE
from router.core.cache_key import Eligibility, query_of
from router.core.cache_policy import CachePlan, ScopePlan, read_client_controls
from router.core.freshness import backend_ttl_s
from router.core.models import Reasoning, SystemPrompt
from router.core.openai.bodysize import DEFAULTS, BodyBounds, count
from router.core.openai.completion import AnswerReader, NotStorable, as_stream, checked, decode
from router.core.openai.jsontext import read_array, read_document, read_object
from router.core.openai.request import Body, parse
from router.core.openai.rewrite import rewrite
from router.core.openai.sse import EventSplitter, data_of, events_in, usage_in
from router.core.response import PassingAnswer
from router.core.text.conversation import Turn, as_text, why_not_compared
from router.core.types import Decision, Endpoint
from router.errors import RequestError
from router.extproc import wire
from router.extproc.pb import extproc_pb2 as pb
from router.inference.spans import spans_of
from router.inference.tokens import WindowTokenizer
from router.signals.pii.patterns import with_patterns
from tests.unit.builders import FAMILIES, SMALL, ask

SHORT, LONG = 1024, 4096
MANY = 4096
LINEAR, TRIES = 8.0, 6
TOO_SHORT_TO_TELL_S = 0.002

PIECES = (
    *"/`'\"1-_aA()!+#=@: \n\t,.$^[{\\<&|~", *"\u00e9\u65e5\U0001f600\u0301\u2019\x00\ud800",
    "a ", "my ", "1,", "1.", "--a", "a_", "a.", "aA", "Aa", "()", "1!", "a/", "./", "//a", "the ", "please ", "can you ", "hi, ",
    "so ", "not ", "i ", "used to ", "next ", "who ", "a@", "a.b@", "1:", "::", "0:", "a-", "4111 ", "AB12", "1-", "x=",
    "max-age=", "a,", '="', "1.1.1.", "\u2019s ", "::1", "a\n", "no-cache,", "data: ", "my order my ",
)  # fmt: skip
"""Texts that run through a regular expression's repetitions, one or two for each in the code."""
PLAN = CachePlan(ScopePlan("authorization", b"key"), Eligibility(), {}, "v1")
KINDS = ("EMAIL_ADDRESS", "IBAN_CODE", "CREDIT_CARD", "US_SSN", "IP_ADDRESS")
WORDS = keyword_patterns(["sql", "c++", "a b", "\u00fcber"], [r"\bdef \w+\(", "(a+)+$", "a.{0,60}b"], is_case_sensitive=False)


@cache
def reader() -> WindowTokenizer:
    """The shipped model's tokenizer."""
    return WindowTokenizer(SHIPPED_BUNDLE / "tokenizer.json", 128)


def body_of(document: object) -> Body:
    """A request body, read."""
    return Body(*read_document(json.dumps(document).encode()))


def judge_wording(text: str) -> None:
    """Apply every check and the comparison of spelling to two fresh questions."""
    checks._taken_apart.cache_clear()
    wording._taken_apart.cache_clear()
    other = f"{text}x"
    wording.difference(text, other)
    for name in checks.CHECKS:
        checks.conflict(text, other, [name])


def ask_cache(text: str) -> None:
    """Compute a question's patterns, key and namespace."""
    body = body_of({"model": "auto", "messages": [{"role": "system", "content": text}, {"role": "user", "content": text}]})
    eligibility = Eligibility(max_text_chars=100_000)
    query_of(ask(text), body, Decision("default", SMALL, "matched"), "scope", eligibility, "v1")


def compare_conversations(text: str) -> None:
    """Judge whether a conversation may be compared, and compare it with one that differs at its end."""
    wording._taken_apart.cache_clear()
    turns = [Turn("assistant", text), *(Turn("user", word) for word in text.split(" ")), Turn("user", text)]
    why_not_compared(turns)
    asked = as_text(turns)
    pair_of_texts(asked, f"{asked}x")
    objection_to(asked, f"{asked}x")


def find_spans(text: str) -> None:
    """Find spans with a label on every token."""
    ids, offsets = reader()._read(text)
    labels = np.zeros((len(ids), 5), dtype=np.float32)
    labels[:, 1] = 1
    spans_of(text, labels, offsets, ["A", "B"])


def heed(text: str) -> None:
    """Read each backend header that eligibility how long its answer may be kept."""
    for name in ("cache-control", "vary", "expires", "pragma", "age", "date", "content-type"):
        with suppress(NotStorable):
            backend_ttl_s({"content-type": "application/json", "expires": "Sun, 06 Nov 1994 08:49:37 GMT", name: text}, 0)


OF_TEXT: dict[str, Callable[[str], object]] = {
    "checks": judge_wording,
    "question": ask_cache,
    "conversations": compare_conversations,
    "cache control": lambda text: read_client_controls(PLAN, {"cache-control": text, "x-vsr-cache-ttl": text}),
    "a backend's headers": heed,
    "chat": lambda text: parse(Endpoint.CHAT, json.dumps({"model": text, "messages": [{"role": text, "x": text}]}).encode(), {}),
    "keywords": lambda text: [pattern.search(text) for pattern in WORDS],
    "header pattern": lambda text: compile_pattern("(a|a)*b?").fullmatch(text),
    "forms of personal data": lambda text: with_patterns(text, (), KINDS),
    "tokens": lambda text: reader().windows(text, 16),
    "spans": find_spans,
}  # fmt: skip


def seconds(act: Callable[[], object]) -> float:
    """Processor time of one call."""
    began = thread_time()
    with suppress(RequestError, NotStorable):  # a refusal takes time too
        act()
    return thread_time() - began


def is_linear(short: Callable[[], object], long: Callable[[], object]) -> bool:
    """Whether four times the size takes clearly less than sixteen times the time, in any of several tries."""
    for _ in range(TRIES):
        long_s = seconds(long)
        if long_s < TOO_SHORT_TO_TELL_S or long_s < LINEAR * seconds(short):
            return True
    return False


def quadratic_pieces(function: Callable[[str], object], pieces: Iterable[str] = PIECES) -> list[str]:
    """The pieces whose repetition takes too long."""
    return [
        piece
        for piece in pieces
        if not is_linear(
            lambda piece=piece: function((piece * SHORT)[:SHORT] + "!?"),
            lambda piece=piece: function((piece * LONG)[:LONG] + "!?"),
        )
    ]


@pytest.mark.parametrize("name", OF_TEXT)
def test_a_text_of_any_characters_takes_time_in_proportion(name: str) -> None:
    """No repeated piece makes a regular expression try everything from every place."""
    assert quadratic_pieces(OF_TEXT[name]) == []


# -- documents, streams, headers -----------------------------------------------------------------------------------------

FRAME = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"logprobs":{"content":[{"token":"a"}]},"finish_reason":null}]}\n\n'
WIDE = BodyBounds(10**8, 10**8, 500, 10**8)
SOME_KEYS = [b'"%d":0' % number for number in range(999)]
DECISION = Decision("r", SMALL, "matched", Reasoning(enabled=True), SystemPrompt("Think.", "replace"))
INSERT = Decision("r", SMALL, "matched", Reasoning(enabled=True), SystemPrompt("Think.", "insert"))


def chat(messages: str, more: str = "") -> bytes:
    """A chat body with raw text for its messages."""
    return f'{{"model":"auto","messages":[{messages}]{more}}}'.encode()


def read_chat(data: bytes) -> None:
    """Count, parse and key a body, and rewrite it both ways."""
    for _ in count(data, WIDE):
        pass
    request, body = parse(Endpoint.CHAT, data, {}, WIDE)
    for decision in (DECISION, INSERT):
        rewrite(body, request, decision, FAMILIES["qwen3"], needs_usage=True)
    eligibility = Eligibility(10**9, 10**9, True, True, True)
    query_of(request, body, DECISION, "scope", eligibility, "v1")


def read_places(data: bytes) -> None:
    """Read every element and member with its place."""
    text, members = read_document(data)
    list(read_array(text, members["a"]))
    read_object(text, members["o"])


def feed(data: bytes, step: int) -> None:
    """Feed an answer in pieces to all its readers."""
    passing, splitter = PassingAnswer(True, hides_usage=True, reader=AnswerReader(True, 10**9)), EventSplitter()
    for start in range(0, len(data), step):
        piece = data[start : start + step]
        passing.feed(piece, is_end=False)
        for event in events_in(splitter.feed(piece)):
            usage_in(data_of(event))
    passing.feed(b"", is_end=True)
    passing.kept(is_whole=True)


def replay(n: int) -> None:
    """Replay a stored answer as a stream."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "a\n" * 50 * n}, "finish_reason": "stop"}
    answer = checked({"choices": [choice]})
    as_stream(decode(answer.encode()), "id", 1, wants_usage=True)


def headers(n: int) -> None:
    """One name, many times."""
    values = [pb.HeaderValue(key="x", raw_value=b"v" * 20) for _ in range(n // 10)]
    wire.decode(pb.ProcessingRequest(request_headers=pb.HttpHeaders(headers=pb.HeaderMap(headers=values))))


OF_SIZE: dict[str, Callable[[int], object]] = {
    "messages": lambda n: read_chat(chat(",".join(['{"role":"user","content":"a"}'] * n))),
    "system messages": lambda n: read_chat(chat(",".join(['{"role":"system","content":"a"}'] * n))),
    "parts": lambda n: read_chat(chat('{"role":"user","content":[' + ",".join(['{"type":"text","text":"a"}'] * n) + "]}")),
    "images": lambda n: read_chat(chat('{"role":"user","content":[' + ",".join(['{"type":"image_url"}'] * n) + "]}")),
    "keys": lambda n: read_chat(chat('{"role":"user"}', ',"x":{' + ",".join(f'"{i}":0' for i in range(n)) + "}")),
    "lists": lambda n: read_chat(chat('{"role":"user"}', ',"x":[' + ",".join(["[]"] * n * 4) + "]")),
    "numbers": lambda n: read_chat(chat('{"role":"user"}', ',"x":[' + ",".join(["1.5e3"] * n * 4) + "]")),
    "a long number": lambda n: read_chat(chat('{"role":"user"}', ',"x":0.' + "1" * n * 50)),
    "spaces": lambda n: read_chat(chat('{"role":"user"}', ',"x":' + " " * n * 50 + "0")),
    "escapes": lambda n: read_chat(chat('{"role":"user","content":"' + '\\"\\\\\\u4e2d\\ud800' * n * 5 + '"}')),
    "quotes": lambda n: list(count(b'"' * n * 50, DEFAULTS)),
    "backslashes": lambda n: list(count(b'{"' + b"\\" * n * 50, DEFAULTS)),
    "a broken end": lambda n: read_chat(chat('{"role":"user","content":"' + "\n" * n * 50)),
    "places": lambda n: read_places(b'{"a":[' + b",".join([b"0"] * n) + b'],"o":{' + b",".join(SOME_KEYS) + b"}}"),
    "a stream in one piece": lambda n: feed(FRAME * (n // 4) + b"data: [DONE]\n\n", 10**9),
    "a stream byte by byte": lambda n: feed(FRAME * (n // 16) + b"data: [DONE]\n\n", 1),
    "a frame that does not end": lambda n: feed(b"data: " + b"a" * n, 1),
    "a frame of line ends": lambda n: feed(b"\r" * n + b"\n\r\n" * n, 3),
    "a replay": replay,
    "a header many times": headers,
}  # fmt: skip


@pytest.mark.parametrize("name", OF_SIZE)
def test_a_document_or_a_stream_of_any_shape_takes_time_in_proportion(name: str) -> None:
    """This holds whatever occurs many times."""
    function = OF_SIZE[name]
    assert is_linear(lambda: function(MANY), lambda: function(4 * MANY))


def test_quadratic_code_is_detected() -> None:
    """The measurement tells a nested loop from a single one."""
    assert quadratic_pieces(lambda text: [text.count("b") for _ in text], ["aaaa"]) == ["aaaa"]
    assert quadratic_pieces(lambda text: [ord(char) for char in text for _ in range(20)], ["aaaa"]) == []
