"""An operator's own signals through the real Envoy: a foreign model, a head on the encoder, and a rule that blocks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from router.cli.main import main
from tests.contract.test_head import OUTSIDE, OUTSIDE_TEXTS, TEXTS
from tests.e2e.stack import Stack, decided, running

TINY = Path(__file__).parents[1] / "tiny_models"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A shared stack that blocks rude requests and sends billing to the coder. Tests change nothing in it."""
    folder = tmp_path_factory.mktemp("own")
    lines = [{"text": text, "label": label} for label, some in {**TEXTS, OUTSIDE: OUTSIDE_TEXTS}.items() for text in some]
    (folder / "labelled.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["train", "intent", "--data", str(folder / "labelled.jsonl"), "--out", str(folder / "department")]) == 0

    def set_up(config: dict[str, Any]) -> None:
        config["signals"]["deadline_ms"] = 2000
        config["signals"]["encoder"]["max_chunks"] = 4
        config["signals"]["custom"] = {
            "tone": {"model_path": str(TINY / "tone")},
            "department": {"model_path": str(folder / "department")},
        }
        tone = {"signal": {"name": "tone", "labels": ["rude"], "threshold": 0.9}}
        billing = {"signal": {"name": "department", "labels": ["billing"]}}
        config["rules"] = [
            {"name": "rude", "when": tone, "block": {"message": "Please be polite.", "fail_closed": True}},
            {"name": "billing", "when": billing, "model": "coder"},
        ]

    with running(tmp_path_factory.mktemp("guarded"), edit_config=set_up) as stack:
        yield stack


@pytest.fixture
def client(guarded: Stack) -> Iterator[openai.OpenAI]:
    """The real OpenAI client."""
    with guarded.client() as made:
        yield made


@pytest.mark.parametrize("model", ["auto", "large"])
def test_what_a_rule_blocks_is_refused_whatever_model_it_names(client: openai.OpenAI, model: str) -> None:
    """OpenAI's client gets a 403 with the operator's words."""
    with pytest.raises(openai.PermissionDeniedError) as caught:
        decided(client, "this is a stupid useless order", model)
    assert caught.value.body == {
        "message": "Please be polite.", "type": "invalid_request_error", "param": "messages", "code": "blocked",
    }  # fmt: skip
    assert caught.value.response.headers["x-vsr-response-path"] == "error"


def test_what_stands_in_the_middle_of_a_long_text_is_found(client: openai.OpenAI) -> None:
    """Length hides nothing. A harmless text of any length passes."""
    around = "the order is for my help and it " * 200
    assert decided(client, around)["x-vsr-response-path"] == "upstream"
    with pytest.raises(openai.PermissionDeniedError):
        decided(client, f"{around} this is a stupid useless order {around}")


@pytest.mark.parametrize(
    ("text", "model", "decision"),
    [
        ("why is there a second charge on my invoice", "auto", "billing"),
        ("what is the capital of Norway", "auto", "default"),
        ("what is the capital of Norway", "large", "explicit_model"),
    ],
)
def test_everything_else_goes_where_it_should(client: openai.OpenAI, text: str, model: str, decision: str) -> None:
    """It goes by the operator's own labels, to the default, or where the client says."""
    assert decided(client, text, model)["x-vsr-selected-decision"] == decision


def test_nothing_of_a_blocked_prompt_is_logged(guarded: Stack, client: openai.OpenAI) -> None:
    """The log only says that it was blocked."""
    with pytest.raises(openai.PermissionDeniedError):
        decided(client, "stupid idiot garbage xylophonium")
    assert "xylophonium" not in guarded.output("router") + guarded.output("envoy")
