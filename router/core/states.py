"""The states of an exchange: each holds what its events need, and nothing longer than that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from router.core.lookup import CachePolicy
from router.core.messages import Action
from router.core.openai.completion import AnswerReader
from router.core.openai.request import Body
from router.core.types import ChatRequest, Endpoint
from router.core.usage import UsageRecorder


@dataclass(frozen=True, slots=True)
class Start:
    """Nothing came yet."""


@dataclass(frozen=True, slots=True)
class AwaitingBody:
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class Paused:
    """A large body is worked on, and other exchanges have their turn."""

    then: Callable[[], Action]
    """The next step."""


@dataclass(frozen=True, slots=True)
class ReadingSignals:
    """The shell is measuring."""

    request: ChatRequest
    body: Body


@dataclass(frozen=True, slots=True)
class LookingUp:
    """The shell is asking the cache."""

    request: ChatRequest
    body: Body
    cache_policy: CachePolicy


@dataclass(frozen=True, slots=True)
class AwaitingResponse:
    request: ChatRequest
    stores: bool
    """The answer is to be kept."""


@dataclass(frozen=True, slots=True)
class Answering:
    recorder: UsageRecorder
    reader: AnswerReader | None


@dataclass(frozen=True, slots=True)
class Done:
    """The rest passes without us."""


State = Start | AwaitingBody | Paused | ReadingSignals | LookingUp | AwaitingResponse | Answering | Done
