"""What `explain` says of a request: everything that was weighed, as a document and as lines of text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from router.admin.asked import Asked, joined, prompt_body, read_asked, read_header
from router.admin.explain import explain
from router.cli.explaintext import render
from router.core.cache_key import Eligibility
from router.core.cache_policy import CachePlan, ScopePlan
from router.core.conditions import HeaderMatches, LabelIs
from router.core.events import Lookup, ReadSignals
from router.core.lookup import CachePolicy, Found, Hit, Miss
from router.core.policy import Default, Rule
from router.core.selection import Selection
from router.core.snapshot import Snapshot
from router.core.types import Block, Endpoint, Missing, Reading, Scores
from router.errors import RequestError
from tests.unit.builders import LARGE, MATH_RULE, SMALL, chat_body, snapshot, sure

ATTACK = LabelIs("prompt jailbreak", frozenset({"jailbreak"}), 0.6)
GUARD = Rule("no-attacks", ATTACK, SMALL, block=Block("not here", fails_closed=True))
TEAM = Rule("team", HeaderMatches("x-team", re.compile("research")), LARGE, priority=90)
CHEAP = replace(SMALL, cost=0.2, quality_profile="llama-8b")
DEAR = replace(LARGE, cost=2.0, quality_profile="llama-70b")
CHOOSING = Default(CHEAP, selection=Selection((CHEAP, DEAR), 0.1))
PLAN = CachePlan(ScopePlan("authorization", b"key"), Eligibility(), {"default": CachePolicy(0.8, 60.0, ("numbers",), 0.9)}, "v1")
SECRET = "Bearer tell-nobody"
STORED = json.dumps({"choices": [{"index": 0, "message": {"content": "Paris"}, "finish_reason": "stop"}]}).encode()


async def run(
    configured: Snapshot, readings: Mapping[str, Reading] | None = None, *, asked: Asked | None = None, found: Found | None = None
) -> dict[str, Any]:
    """The document. `found` is what the cache would answer, and `readings` are the signals that could be read."""

    async def read_signals(wanted: ReadSignals) -> Mapping[str, Reading]:
        return {name: (readings or {})[name] for name in wanted.wanted}

    async def peek(lookup: Lookup) -> tuple[Found, Mapping[str, Any]]:
        assert found
        seen = {
            "id": "e" * 32,
            "tier": "semantic",
            "decision": "proofs",
            "model": "large",
            "similarity": 0.91,
            "objections": ["numbers"],
        }
        return found, {"candidates": [{**seen, "probability": 0.5, "verdict": "numbers"}], "waits_for_equal_question": False}

    return await explain(configured, read_signals, asked or Asked(chat_body("hello")), peek if found else None)


def lines_of(document: Mapping[str, Any]) -> str:
    """The lines of text."""
    return "\n".join(render(json.loads(json.dumps(document))))


class TestABlockedPrompt:
    async def test_it_names_the_rule_the_score_and_what_it_was_held_against(self) -> None:
        """It lists all rules in order, the signals that were not read, and the answer that the client gets."""
        attack = {"prompt jailbreak": Scores({"jailbreak": 0.97, "harmful": 0.01})}
        document = await run(snapshot(TEAM, MATH_RULE, GUARD), attack)
        assert [(rule["name"], rule["verdict"]) for rule in document["rules"]] == [
            ("no-attacks", "won"),
            ("team", "not evaluated"),
            ("proofs", "not evaluated"),
        ]
        assert document["signals"]["prompt jailbreak"] == {"scores": {"jailbreak": 0.97, "harmful": 0.01}, "thresholds": [0.6]}
        assert document["unread"] == {"intent": "no-attacks decided before it was needed"}
        assert document["decision"] == {"name": "no-attacks", "reason": "matched", "blocks": True}
        assert document["reply"]["status"] == 403
        assert document["reply"]["body"]["error"]["code"] == "blocked"
        text = lines_of(document)
        assert "signal     prompt jailbreak: jailbreak 0.97, harmful 0.01; threshold 0.60" in text
        assert "=> no-attacks (priority 0, blocks also what cannot be read): won" in text
        assert "prompt jailbreak is jailbreak (at least 0.60): yes (jailbreak 0.97)" in text
        assert "not read   intent: no-attacks decided before it was needed" in text
        assert "the router itself answers: 403" in text
        assert "x-vsr-selected-decision: no-attacks" in text

    @pytest.mark.parametrize(("reason", "status"), [("deadline", 503), ("too_long", 400)])
    async def test_what_could_not_be_read_is_told_apart_from_an_attack(self, reason: str, status: int) -> None:
        """The rule that fails closed wins, and the document gives the reason."""
        document = await run(snapshot(GUARD), {"prompt jailbreak": Missing(reason)})
        assert document["decision"] == {"name": "no-attacks", "reason": "signal_missing", "blocks": True, "missing": reason}
        assert document["rules"][0]["verdict"] == "won"
        assert document["reply"]["status"] == status
        assert f"prompt jailbreak: missing ({reason})" in lines_of(document)

    async def test_a_prompt_too_long_for_guards_is_explained_without_running_them(self) -> None:
        """No guard runs on a prompt that is longer than guards can read."""
        document = await run(replace(snapshot(GUARD), max_guard_chars=20), asked=Asked(chat_body("x" * 100)))
        assert document["signals"]["prompt jailbreak"] == {"missing": "too_long", "thresholds": [0.6]}
        assert document["reply"]["status"] == 400

    async def test_of_a_request_that_names_its_model_only_rules_that_block_are_asked(self) -> None:
        """The other rules are marked as not evaluated."""
        asked = Asked(chat_body("hello", "large"))
        document = await run(snapshot(MATH_RULE, GUARD), {"prompt jailbreak": Scores({})}, asked=asked)
        assert [rule["verdict"] for rule in document["rules"]] == ["no", "not evaluated"]
        assert document["decision"]["name"] == "explicit_model"
        assert document["unread"]["intent"].startswith("the request names its model")


class TestHeaders:
    async def test_a_rule_on_a_header_can_say_yes(self) -> None:
        """The document shows the value that the header was compared with."""
        asked = Asked(chat_body(), joined([read_header("X-Team: research")]))
        document = await run(snapshot(TEAM), asked=asked)
        assert document["decision"]["name"] == "team"
        assert "header x-team matches research: yes ('research')" in lines_of(document)

    async def test_an_absent_header_is_said_to_be_absent(self) -> None:
        """An absent header is not an empty one."""
        assert "no (no such header)" in lines_of(await run(snapshot(TEAM), {}))

    @pytest.mark.parametrize("name", ["authorization", "cookie", "x-user"])
    async def test_secrets_are_never_printed(self, name: str) -> None:
        """Known secrets are hidden. So is the value that separates scopes: its digest stands in for it."""
        rule = Rule("keyed", HeaderMatches(name, re.compile(".*nobody")), SMALL)
        plan = replace(PLAN, scope=ScopePlan("x-user", b"key"), policies={"keyed": CachePolicy(0.8, 60.0, ())})
        configured = replace(snapshot(rule), cache=plan)
        document = await run(configured, asked=Asked(chat_body(), {"x-user": SECRET, name: SECRET}), found=Miss("empty"))
        assert document["decision"]["name"] == "keyed"
        assert SECRET not in json.dumps(document) + lines_of(document)
        assert document["cache"]["scope"] == plan.scope.of({"x-user": SECRET})

    @pytest.mark.parametrize("line", ["x-team", ": research", ":path: /v1", "x team: a", "x-team: a\r\nb: c", "x-team: \ud800"])
    def test_what_is_no_header_is_refused_without_its_value(self, line: str) -> None:
        """The value may be a secret."""
        with pytest.raises(RequestError) as raised:
            read_header(line)
        assert "research" not in raised.value.message.replace("x-team: research", "")

    def test_repeated_headers_arrive_as_envoy_gives_them(self) -> None:
        """They become one value, joined by a comma and a space."""
        assert joined(map(read_header, ["A: 1", "a:2", "b: 3"])) == {"a": "1, 2", "b": "3"}


class TestAChoice:
    async def test_it_shows_the_candidates_and_why_the_winner_won(self) -> None:
        """It lists the operator's models with predicted accuracy, cost and score, the best first."""
        scores = Scores({"llama-8b": 0.5, "llama-70b": 0.7, "of nobody": 0.99})
        document = await run(snapshot(default=CHOOSING), {"quality": scores})
        assert document["selection"]["candidates"] == [
            {"model": "large", "quality_profile": "llama-70b", "accuracy": 0.7, "cost": 2.0, "score": 0.6},
            {"model": "small", "quality_profile": "llama-8b", "accuracy": 0.5, "cost": 0.2, "score": 0.49},
        ]
        text = lines_of(document)
        assert "selection  large: best score: predicted accuracy less weighted cost (cost_weight 0.1)" in text
        assert "large: accuracy 0.70, cost 2, score 0.60, quality profile llama-70b" in text
        assert "of nobody" not in text

    async def test_without_predictions_the_first_model_serves_and_the_reason_stands_there(self) -> None:
        """The candidates are listed all the same."""
        document = await run(snapshot(default=CHOOSING), {"quality": Missing("deadline")})
        assert document["decision"]["model"] == "small"
        assert document["selection"]["why"] == "small: the fallback, because accuracy could not be predicted (missing (deadline))"
        assert "large: cost 2, quality profile llama-70b" in lines_of(document)

    async def test_equal_scores_say_that_cost_decided(self) -> None:
        """Otherwise the winner would look accidental."""
        choice = replace(CHOOSING, selection=Selection((DEAR, CHEAP), 0.0))
        document = await run(snapshot(default=choice), {"quality": Scores({"llama-8b": 0.5, "llama-70b": 0.5})})
        assert document["selection"]["why"] == "small: the cheaper of equal scores"


class TestTheCache:
    @pytest.mark.parametrize(
        ("fields", "headers", "reason"),
        [
            ({"temperature": 2}, {"authorization": SECRET}, "temperature"),
            ({"tools": [{"type": "function"}]}, {"authorization": SECRET}, "tools"),
            ({}, {}, "no_scope"),
        ],
    )
    async def test_what_may_not_be_cached_says_why(self, fields: dict[str, Any], headers: dict[str, str], reason: str) -> None:
        """It gives the reason that the header of the answer would give."""
        configured = replace(snapshot(), cache=PLAN)
        document = await run(configured, asked=Asked(chat_body("hi", **fields), headers), found=Miss("empty"))
        assert (document["cache"]["status"], document["cache"]["reason"]) == ("skipped", reason)
        assert f"cache      skipped ({reason})" in lines_of(document)

    async def test_a_hit_is_the_answer_and_its_words_are_left_out(self) -> None:
        """`cache get` shows them."""
        asked = Asked(chat_body("hello"), {"authorization": SECRET})
        hit = Hit("e" * 32, STORED, "semantic", 0.93, 12.7, 0.95, "proofs", "large")
        document = await run(replace(snapshot(), cache=PLAN), asked=asked, found=hit)
        assert (document["cache"]["status"], document["cache"]["reason"]) == ("hit", "semantic")
        assert document["reply"]["status"] == 200
        assert document["reply"]["headers"]["x-vsr-cache-entry"] == "e" * 32
        assert document["reply"]["headers"]["x-vsr-cache-model"] == "large"
        assert "Paris" not in json.dumps(document)
        assert f"semantic-router cache get {'e' * 32}" in lines_of(document)

    async def test_an_answer_to_the_same_text_is_shown_as_found_before_any_rule_was_judged(self) -> None:
        """No signal is read for it, as in traffic; decision and model are those that stored it."""
        asked = Asked(chat_body("hello"), {"authorization": SECRET})
        plan = replace(PLAN, policies=dict.fromkeys(("default", MATH_RULE.name), PLAN.policies["default"]))
        hit = Hit("e" * 32, STORED, "exact", 1.0, 12.7, None, MATH_RULE.name, "large")
        document = await run(replace(snapshot(MATH_RULE), cache=plan), asked=asked, found=hit)
        assert document["decision"] == {"name": MATH_RULE.name, "reason": "cached", "model": "large", "reasoning": "on"}
        assert (document["signals"], document["unread"]) == ({}, {"intent": "the same text has an answer in the cache"})
        assert [rule["verdict"] for rule in document["rules"]] == ["not evaluated"]
        assert "cache      hit (exact) before any signal was read" in lines_of(document)

    async def test_a_miss_before_signals_were_read_is_explained_by_the_lookup_that_follows(self) -> None:
        """With signals, rules and candidates."""
        asked = Asked(chat_body("hello"), {"authorization": SECRET})
        plan = replace(PLAN, policies=dict.fromkeys(("default", MATH_RULE.name), PLAN.policies["default"]))
        document = await run(
            replace(snapshot(MATH_RULE), cache=plan), {"intent": sure("math")}, asked=asked, found=Miss("numbers")
        )
        assert (document["decision"]["name"], document["cache"]["reason"]) == (MATH_RULE.name, "numbers")
        assert "before any signal" not in lines_of(document)
        assert document["cache"]["candidates"]

    async def test_a_miss_shows_what_was_weighed(self) -> None:
        """It shows similarity, the checks that object, the verifier's probability, both thresholds and the verdict."""
        asked = Asked(chat_body("hello"), {"authorization": SECRET})
        document = await run(replace(snapshot(), cache=PLAN), asked=asked, found=Miss("numbers"))
        assert document["cluster"] == "cluster-small"
        text = lines_of(document)
        assert "cache      miss (numbers)" in text
        assert "shared by equal values of authorization, scope " in text
        assert "; across all decisions" in text
        assert "thresholds: similarity 0.80, verifier 0.9000" in text
        assert f"{'e' * 32} (semantic, by proofs, large) similarity 0.9100, object: numbers, verifier 0.5000: numbers" in text

    async def test_a_question_under_way_is_shown_with_the_longest_wait(self) -> None:
        """The policy of the lookup is shown beside it."""
        asked = Asked(chat_body("hello"), {"authorization": SECRET})
        plan = replace(PLAN, policies={name: replace(each, coalesce_timeout_s=2.5) for name, each in PLAN.policies.items()})
        document = await run(replace(snapshot(), cache=plan), asked=asked, found=Miss("empty"))
        assert document["cache"]["policy"]["coalesce_timeout_s"] == 2.5
        document["cache"]["waits_for_equal_question"] = True
        assert "an equal question is in flight; the request would wait up to 2.5 s for its answer" in lines_of(document)

    async def test_without_a_running_router_the_outcome_is_left_open(self) -> None:
        """No status is invented, not in a header either."""
        asked = Asked(chat_body("hello"), {"authorization": SECRET})
        document = await run(replace(snapshot(), cache=PLAN), asked=asked)
        assert (document["cache"]["status"], document["cache"]["reason"]) == ("looked up", "unknown")
        assert not [name for name in document["headers"] if "cache" in name]
        assert "scope" not in document["cache"]
        assert "--running" in lines_of(document)

    async def test_only_if_cached_is_explained_with_what_it_depends_on(self) -> None:
        """The 504 is certain only if the state of the cache is known."""
        asked = Asked(chat_body("hello"), {"authorization": SECRET, "cache-control": "only-if-cached"})
        configured = replace(snapshot(), cache=PLAN)
        assert "the router itself answers: 504, unless an answer is stored" in lines_of(await run(configured, asked=asked))
        assert "unless" not in lines_of(await run(configured, asked=asked, found=Miss("empty")))


class TestWhatIsAsked:
    def test_a_document_carries_every_byte_of_a_body(self) -> None:
        """Bodies that are not JSON or not UTF-8 reach the exchange, as a client's would."""
        for body in (b'{"a": 1, "a": 2}', b"\xff\xfe{", b"", b'{"messages": "\\ud800"}'):
            asked = Asked(body, {"x-name": "caf\udce9"}, Endpoint.COMPLETIONS)
            assert read_asked(json.dumps(asked.as_document()).encode()) == asked

    @pytest.mark.parametrize("body", [chat_body("hi"), b"{", b"[]", b'{"model": "auto"}'])
    def test_a_bare_request_is_taken_as_it_is(self, body: bytes) -> None:
        """It has the form in which a client sends it."""
        assert read_asked(body) == Asked(body)

    def test_a_prompt_may_have_headers_beside_it(self) -> None:
        """The model may be omitted."""
        document = {"prompt": "hi", "headers": {"X-Team": ["a", "b"]}, "endpoint": "embeddings"}
        asked = read_asked(json.dumps(document).encode())
        assert asked == Asked(prompt_body("hi", Endpoint.EMBEDDINGS), {"x-team": "a, b"}, Endpoint.EMBEDDINGS)

    @pytest.mark.parametrize(
        "document",
        [
            {"prompt": 1},
            {"body": {}, "prompt": "hi"},
            {"body": {}, "header": {}},
            {"body": "\ud800"},
            {"prompt": "hi", "headers": []},
            {"prompt": "hi", "headers": {"a": 1}},
            {"prompt": "hi", "headers": {"a b": "1"}},
            {"prompt": "hi", "endpoint": "responses"},
            {"prompt": "hi", "header": {}, "endpoint": "chat"},
        ],
    )
    def test_what_makes_no_request_names_its_field(self, document: dict[str, Any]) -> None:
        """No part of the input is silently ignored."""
        with pytest.raises(RequestError) as raised:
            read_asked(json.dumps(document).encode())
        assert raised.value.http_status == 400
        assert re.search("prompt|body|header|endpoint", raised.value.message)

    async def test_a_large_body_is_explained_beside_traffic(self) -> None:
        """The body is neither parsed nor compared in one piece, so that other requests are served meanwhile."""
        many = json.dumps({"prompt": "x", "filler": [1] * 600_000}).encode()
        assert read_asked(many) == Asked(many)
        large = Asked(b"x" * 2_000_000)
        assert read_asked(json.dumps(large.as_document()).encode()) == large
        for body in (chat_body("hi", filler=list(range(20_000))), chat_body("x" * 2_000_000)):
            document = await run(snapshot(max_body_bytes=4_000_000), asked=Asked(body))
            assert document["body_diff"] == [f"too large to show: {len(body)} bytes become {len(body) + len('served-small') - 4}"]

    async def test_another_endpoint_is_explained_as_such(self) -> None:
        """Its body has other fields."""
        asked = Asked(prompt_body("prove it", Endpoint.COMPLETIONS), endpoint=Endpoint.COMPLETIONS)
        document = await run(snapshot(MATH_RULE), {"intent": sure("math")}, asked=asked)
        assert document["request"]["endpoint"] == "completions"
        assert document["decision"]["name"] == "proofs"

    async def test_what_cannot_be_read_is_shown_as_its_answer(self) -> None:
        """Nothing else is known of such a request."""
        document = await run(snapshot(), asked=Asked(b"{"))
        assert document.keys() == {"reply"}
        assert document["reply"]["status"] == 400
