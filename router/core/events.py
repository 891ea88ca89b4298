"""The events and actions of an exchange: one event for each message of Envoy, one action for each event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from router.core.lookup import CachePolicy, CacheQuery, Found
from router.core.prompt import Prompt
from router.core.types import ChatRequest, Reading, ResponsePath

# -- events ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RequestHeaders:
    headers: Mapping[str, str]
    """By lower-case name, with the pseudo-headers `:path` and `:method`; repeated headers are joined by `, `."""
    is_end: bool
    """True when no body follows."""


@dataclass(frozen=True, slots=True)
class RequestBody:
    data: bytes
    """The whole body, because Envoy buffers it."""


@dataclass(frozen=True, slots=True)
class SignalsRead:
    """The shell's answer to `ReadSignals`."""

    readings: Mapping[str, Reading]


@dataclass(frozen=True, slots=True)
class LookedUp:
    """The shell's answer to `Lookup`."""

    found: Found
    now_s: int
    """Unix time; the `created` of a replayed answer."""
    reply_id: str
    """A new id; the `id` of a replayed answer."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """The shell's answer to `Pause`."""


@dataclass(frozen=True, slots=True)
class Overloaded:
    """The other answer of the shell to `Pause`: too many large bodies wait."""


@dataclass(frozen=True, slots=True)
class ResponseHeaders:
    headers: Mapping[str, str]
    is_end: bool


@dataclass(frozen=True, slots=True)
class ResponseBody:
    data: bytes
    """One chunk, split at any byte."""
    is_end: bool


@dataclass(frozen=True, slots=True)
class Trailers:
    """Trailers of either direction. The router never changes them."""


Event = RequestHeaders | RequestBody | Resumed | Overloaded | SignalsRead | LookedUp | ResponseHeaders | ResponseBody | Trailers


# -- actions: one goes out for each event ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Continue:
    """Go on and change nothing."""

    is_last: bool = False
    """The core is done: the shell ends the gRPC stream, and the rest passes without the router."""


@dataclass(frozen=True, slots=True)
class Pause:
    """More work is left: let other exchanges run, then answer with `Resumed`. Never sent to Envoy."""


@dataclass(frozen=True, slots=True)
class ReadSignals:
    """Read the signals of this request, then answer with `SignalsRead`. Never sent to Envoy."""

    request: ChatRequest
    wanted: frozenset[str]
    """Names of the readings that the rules need; `core/prompt.py` explains the names for rules that block."""
    prompt: Prompt | None = None
    """Everything that the model will read; set when a rule that blocks needs it."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """Look for a cached answer, then answer with `LookedUp`. Never sent to Envoy."""

    query: CacheQuery
    cache_policy: CachePolicy
    is_ahead: bool = False
    """Find only what memory holds under the same text, and wait for nothing. A miss does not count; another lookup follows it."""


@dataclass(frozen=True, slots=True)
class Route:
    """Send the request to the cluster that `CLUSTER_HEADER` names, perhaps with a new body."""

    set_headers: Mapping[str, str]
    body: bytes | None = None
    """The rewritten body; None keeps the client's bytes."""
    remove_headers: tuple[str, ...] = ()
    is_last: bool = True
    """As in `Continue`; false when the response must pass the router, too."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer the client; no backend is asked."""

    http_status: int
    headers: Mapping[str, str]
    body: bytes
    details: str
    """A fixed word for Envoy's access log (`%RESPONSE_CODE_DETAILS%`), such as `sr_model_not_found`."""
    path: ResponsePath = "error"
    """The same value as in the headers."""


@dataclass(frozen=True, slots=True)
class Replace:
    """Pass this response chunk on with other bytes."""

    data: bytes
    is_last: bool = False


Action = Continue | Pause | ReadSignals | Lookup | Route | Reply | Replace
