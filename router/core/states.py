"""The states of an exchange and the transitions between them. A state holds only what its events need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from router.core.events import (
    Action,
    Event,
    LookedUp,
    Overloaded,
    RequestBody,
    RequestHeaders,
    ResponseBody,
    ResponseHeaders,
    Resumed,
    SignalsRead,
    Trailers,
)
from router.core.lookup import CachePolicy
from router.core.openai.request import Body
from router.core.policy import NeedsSignals
from router.core.response import PassingAnswer
from router.core.types import ChatRequest, Decision, Endpoint


@dataclass(frozen=True, slots=True)
class Start:
    """No message has come."""


@dataclass(frozen=True, slots=True)
class AwaitingBody:
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class Paused:
    """Work on a large body pauses, so that other exchanges have their turn."""

    then: Callable[[], Action]
    """The next step."""


@dataclass(frozen=True, slots=True)
class LookingAhead:
    """The shell asks the cache for the same text, before it reads signals."""

    request: ChatRequest
    body: Body
    needs: NeedsSignals


@dataclass(frozen=True, slots=True)
class ReadingSignals:
    """The shell reads signals."""

    request: ChatRequest
    body: Body


@dataclass(frozen=True, slots=True)
class LookingUp:
    """The shell asks the cache."""

    request: ChatRequest
    body: Body
    decision: Decision
    cache_policy: CachePolicy


@dataclass(frozen=True, slots=True)
class AwaitingResponse:
    request: ChatRequest
    stores: bool
    """Whether the answer should be stored."""


@dataclass(frozen=True, slots=True)
class Answering:
    passing: PassingAnswer


@dataclass(frozen=True, slots=True)
class Done:
    """The rest of the exchange passes without the router."""


State = Start | AwaitingBody | Paused | LookingAhead | ReadingSignals | LookingUp | AwaitingResponse | Answering | Done

_ROUTED = (AwaitingResponse, Done)
_LOOKED_FOR = (LookingUp, Paused, *_ROUTED)
_READ = (ReadingSignals, *_LOOKED_FOR)

TRANSITIONS: Mapping[type[State], Mapping[type[Event], tuple[type[State], ...]]] = {
    Start: {RequestHeaders: (AwaitingBody, Done), ResponseHeaders: (Done,), ResponseBody: (Done,)},
    AwaitingBody: {
        RequestBody: (Paused, LookingAhead, *_READ),
        Trailers: (AwaitingBody,),
        ResponseHeaders: (Done,),
        ResponseBody: (Done,),
    },
    Paused: {Resumed: (Paused, LookingAhead, *_READ), Overloaded: (Done,)},
    LookingAhead: {LookedUp: _READ},
    ReadingSignals: {SignalsRead: _READ},
    LookingUp: {LookedUp: (Paused, *_ROUTED)},
    AwaitingResponse: {ResponseHeaders: (Answering, Done), Trailers: (AwaitingResponse,)},
    Answering: {ResponseBody: (Answering, Done), Trailers: (Answering,)},
    Done: {},
}
"""By state and event, the states that may follow. Any other event is a `ProtocolError`. A refused request goes to `Done`."""
