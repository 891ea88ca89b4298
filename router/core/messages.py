"""What an exchange takes and gives: one event for each of Envoy's messages, one action for each event."""

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
    """Lower-case names, pseudo-headers (`:path`, `:method`) included; repeated ones joined by `, `."""
    is_end: bool
    """No body follows."""


@dataclass(frozen=True, slots=True)
class RequestBody:
    data: bytes
    """The whole body: Envoy buffers it."""


@dataclass(frozen=True, slots=True)
class SignalsRead:
    """The shell's answer to `ReadSignals`."""

    readings: Mapping[str, Reading]


@dataclass(frozen=True, slots=True)
class LookedUp:
    """The shell's answer to `Lookup`."""

    found: Found
    now_s: int
    """Unix time, for the `created` of a replay."""
    reply_id: str
    """A new id, for the `id` of a replay."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """The shell's answer to `Pause`."""


@dataclass(frozen=True, slots=True)
class Overloaded:
    """The shell's other answer to `Pause`: too many large bodies are waiting."""


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
    """Trailers of either direction; never changed."""


Event = RequestHeaders | RequestBody | Resumed | Overloaded | SignalsRead | LookedUp | ResponseHeaders | ResponseBody | Trailers


# -- actions: one goes out for each event ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Continue:
    """Go on, nothing changes."""

    is_last: bool = False
    """The core is done: the shell ends the gRPC stream, and the rest of the exchange passes untouched."""


@dataclass(frozen=True, slots=True)
class Pause:
    """More work is left: let other exchanges run, then come back with `Resumed`. Never leaves the process."""


@dataclass(frozen=True, slots=True)
class ReadSignals:
    """Measure this request and come back with `SignalsRead`. Never leaves the process."""

    request: ChatRequest
    wanted: frozenset[str]
    """Names of the readings that the rules need for this request; see `core/prompt.py` for those of rules that block."""
    prompt: Prompt | None = None
    """Everything that the model will read, when a rule that blocks needs it."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """Look for a stored answer and come back with `LookedUp`. Never leaves the process."""

    query: CacheQuery
    cache_policy: CachePolicy


@dataclass(frozen=True, slots=True)
class Route:
    """Send the request to a cluster, perhaps with a new body."""

    cluster: str
    set_headers: Mapping[str, str]
    body: bytes | None = None
    """The rewritten body; None leaves the client's bytes."""
    remove_headers: tuple[str, ...] = ()
    is_last: bool = True
    """As in `Continue`; false when the response must pass through the router, too."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer the client ourselves; nothing reaches a backend."""

    http_status: int
    headers: Mapping[str, str]
    body: bytes
    details: str
    """A fixed word for Envoy's access log (`%RESPONSE_CODE_DETAILS%`), such as `sr_model_not_found`."""
    path: ResponsePath = "error"
    """As the headers say."""


@dataclass(frozen=True, slots=True)
class Replace:
    """Pass this response chunk on with other bytes."""

    data: bytes
    is_last: bool = False


Action = Continue | Pause | ReadSignals | Lookup | Route | Reply | Replace
