"""Through the real Envoy: answers that one rule stored and requests of another are served, or are not."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest

from tests.e2e.stack import STACKS, Stack, get, running
from tests.e2e.test_cache import Asked, ask, cli

PRIVATE = {"x-private": "yes"}


def with_share(share: str | None) -> Any:
    """An edit: three rules by words and a header, and the key `share`. None leaves the key out."""

    def edit(config: dict[str, Any]) -> None:
        config["semantic_cache"] = {"enabled": True, "backend_type": "memory", "lookup_timeout_ms": 2000}
        config["semantic_cache"] |= {"eligibility": {"explicit_models": True}} | ({"share": share} if share else {})
        config["signals"]["keywords"]["short"] = {"words": ["what's"]}
        config["rules"] += [
            {"name": "short", "priority": 200, "when": {"keywords": "short"}, "model": "large"},
            {
                "name": "private",
                "priority": 300,
                "when": {"header": {"name": "x-private", "present": True}},
                "model": "coder",
                "cache": {"enabled": False},
            },
        ]

    return edit


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that shares as it comes."""
    with running(tmp_path_factory.mktemp("shared"), edit_config=with_share(None)) as stack:
        yield stack


@pytest.fixture
def client(shared: Stack) -> Iterator[openai.OpenAI]:
    """A client with a principal of this test's own."""
    with shared.client(uuid.uuid4().hex, timeout_s=60) as made:
        yield made


def wrote(asked: Asked) -> str:
    """The model that wrote an answer, as its body says."""
    return str(asked.answer.model)


def test_a_paraphrase_that_another_rule_takes_is_a_hit(client: openai.OpenAI) -> None:
    """As it comes. Its headers say what was decided for it, and who wrote the answer."""
    first = ask(client, "What is a mutex?")
    assert first.status == "miss:empty"
    second = ask(client, "what's a mutex?")
    assert second.status == "hit:semantic"
    assert second.text == first.text
    assert (second.headers["x-vsr-selected-decision"], second.headers["x-vsr-selected-model"]) == ("short", "large")
    assert second.headers["x-vsr-cache-decision"] == first.headers["x-vsr-selected-decision"] != "short"
    assert second.headers["x-vsr-cache-model"] == first.headers["x-vsr-selected-model"] == wrote(second)


@pytest.mark.parametrize("share", ["decision", "model"])
def test_a_paraphrase_that_another_rule_takes_is_a_miss_where_the_operator_says_so(tmp_path: Path, share: str) -> None:
    """Each rule then has answers of its own, which its own paraphrases hit."""
    with running(tmp_path, edit_config=with_share(share)) as stack, stack.client("k", timeout_s=60) as client:
        assert ask(client, "What is a mutex?").status == "miss:empty"
        second = ask(client, "what's a mutex?")
        assert (second.status, wrote(second)) == ("miss:empty", "large")
        assert ask(client, "What's a mutex?").is_hit


def test_a_decision_that_is_not_cached_neither_stores_nor_is_served(client: openai.OpenAI) -> None:
    """Whatever the others stored, and however the same text went before."""
    assert ask(client, "What is a semaphore?", headers=PRIVATE).status == "skipped:decision"
    assert ask(client, "What is a semaphore?").status == "miss:empty"
    assert ask(client, "What is a semaphore?").status == "hit:exact"
    private = ask(client, "What is a semaphore?", headers=PRIVATE)
    assert (private.status, wrote(private)) == ("skipped:decision", "coder")


def test_a_model_that_the_client_names_answers_itself(client: openai.OpenAI) -> None:
    """Neither what the rules' choice stored is served to it, nor what another named model stored; and the other way round."""
    messages: list[Any] = [{"role": "user", "content": "What is a spinlock?"}]
    assert ask(client, "What is a spinlock?").status == "miss:empty"
    for status in ("miss:empty", "hit:exact"):
        for name in ("small", "large", "coder"):
            raw = client.chat.completions.with_raw_response.create(
                model=name, messages=messages, extra_headers={"x-sim-answer-tokens": "20"}
            )
            STACKS[str(client.base_url)].wait_until_idle()
            assert (raw.headers["x-vsr-cache-status"], raw.parse().model) == (status, name)
    assert ask(client, "What is a spinlock?").is_hit


def test_the_same_text_is_answered_before_it_is_classified(shared: Stack, client: openai.OpenAI) -> None:
    """No signal is read. `only-if-cached`, `no-cache` and a rule that is not cached hold all the same."""
    question = "Which of the planets has rings?"
    first = ask(client, question)
    before = reads(shared)
    second = ask(client, question)
    assert (second.status, second.headers["x-vsr-decision-reason"]) == ("hit:exact", "cached")
    assert second.headers["x-vsr-selected-decision"] == first.headers["x-vsr-selected-decision"]
    assert reads(shared) == before
    assert ask(client, question, headers={"Cache-Control": "only-if-cached"}).headers["x-vsr-decision-reason"] == "cached"
    assert ask(client, question, headers={"Cache-Control": "no-cache"}).status == "miss:no_cache"
    assert ask(client, question, headers=PRIVATE).status == "skipped:decision"
    assert reads(shared) > before


def reads(stack: Stack) -> float:
    """How many requests have waited for signals."""
    found = re.search(r"^llm_classifier_latency_seconds_count\{.*\} (\S+)$", get(f"{stack.admin_url}/metrics")[1], re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_what_a_rule_stored_is_purged_by_its_name(shared: Stack, client: openai.OpenAI) -> None:
    """Whoever was served it since."""
    assert ask(client, "what's a futex?").headers["x-vsr-selected-decision"] == "short"
    assert ask(client, "What is a futex?").is_hit
    assert cli(shared, "search", "futex", "--decision", "short").count("futex") == 1
    assert "deleted" in cli(shared, "invalidate", "--decision", "short")
    assert not ask(client, "What is a futex?", headers={"Cache-Control": "no-store"}).is_hit


def test_explain_says_the_same(shared: Stack, client: openai.OpenAI) -> None:
    """The running router shows whose answer would be served, and that no rule is judged for the same text."""
    question = "What is a rendezvous?"
    ask(client, question)
    headers = {"authorization": f"Bearer {client.api_key}"}
    told = {}
    for text in (question, "what's a rendezvous?"):
        body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
        told[text] = httpx.post(f"{shared.admin_url}/explain", json={"body": body, "headers": headers}, timeout=30).json()
    same, other = told.values()
    assert (same["decision"]["reason"], same["cache"]["is_ahead"], same["signals"]) == ("cached", True, {})
    assert (other["decision"]["name"], other["cache"]["status"], other["cache"]["is_ahead"]) == ("short", "hit", False)
    assert other["cache"]["candidates"][0]["decision"] == same["decision"]["name"]
    assert other["reply"]["headers"]["x-vsr-cache-model"] == same["decision"]["model"]
