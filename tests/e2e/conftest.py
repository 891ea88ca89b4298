"""Tests that only ask share one running stack. Tests that break things start their own."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.stack import Stack, running


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A shared stack. Tests leave it as they find it."""
    with running(tmp_path_factory.mktemp("stack")) as shared:
        yield shared


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    """Start a stack that the test may break: `own_stack(edit_config=..., edit_envoy=..., workers=...)`."""
    started: list[Any] = []

    def start(**options: Any) -> Stack:
        context = running(tmp_path, **options)
        started.append(context)
        return context.__enter__()

    yield start
    for context in started:
        context.__exit__(None, None, None)


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    """The real OpenAI client, pointed at Envoy."""
    with stack.client() as made:
        yield made


@pytest.fixture
def request_id() -> str:
    """An `x-request-id` under which a mock vLLM backend remembers its request."""
    return str(uuid.uuid4())
