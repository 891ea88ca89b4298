"""How an exchange ended: the one record that logs, metrics and traces are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from router.core.lookup import CacheStatus, MissReason, SkipReason, StoreResult, Tier
from router.core.types import DecisionReason, EndpointWord, ReasoningWord, ResponsePath

Ending = Literal["routed", "replied", "completed", "passed", "abandoned", "failed"]
"""`routed`: a model was asked, and our part ended before its answer or without reading it. `replied`: we answered.
`completed`: the whole answer passed us. `passed`: the path is none of ours, and the request goes on as it came. `abandoned`: the
exchange ended early, because the client or the backend left or Envoy gave up on us. `failed`: a fault of ours."""
CacheReason = Tier | MissReason | SkipReason


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts as the backend reported them."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class ExchangeRecord:
    """The frozen record of one exchange, handed to every instrument. Holds no text of a prompt or an answer."""

    ending: Ending
    endpoint: EndpointWord = "other"
    response_path: ResponsePath = "upstream"
    request_id: str = ""
    """Envoy's `x-request-id`."""
    requested_model: str = ""
    """The configured name or alias that the client asked for; empty when it named none that we know."""
    model: str = ""
    """The configured model that was chosen; empty when none was."""
    cluster: str = ""
    decision: str = ""
    reason: DecisionReason | Literal[""] = ""
    category: str = "none"
    """The intent's label; `none` when it was not measured, `unknown` when it could not be."""
    confidence: float = 0.0
    """Confidence of `category`, 0 to 1."""
    reasoning: ReasoningWord = "unchanged"
    effort: str = ""
    is_stream: bool = False
    missing: Mapping[str, str] = field(default_factory=dict)
    """Signals that could not be read, each with its reason."""
    cache: CacheStatus = "off"
    cache_reason: CacheReason | Literal[""] = ""
    """The tier of a hit, or why there was none; empty when the cache is off."""
    cache_similarity: float = 0.0
    cache_verified: float | None = None
    """As in `Hit.verified`."""
    cache_entry: str = ""
    stored: StoreResult = ""
    block_reason: str = ""
    """Of a request that a rule blocked: `matched`, or why it could not be read; empty of others."""
    error_code: str = ""
    """Machine-readable code of our own error reply, such as `model_not_found`."""
    http_status: int = 0
    """Status of our reply, or of the backend's when the response passed us; 0 when neither is known."""
    usage: Usage | None = None
    routing_s: float = 0.0
    """From Envoy's first message to our answer to the request, in seconds; Envoy's buffering of the body included."""
    sensing_s: float = 0.0
    """Of that, spent waiting for signals."""
    first_token_s: float | None = None
    """From our routing answer to the first byte of a streamed answer; None when it was none, or did not pass us."""
    duration_s: float = 0.0
    """From the first message to the end of our part."""

    @property
    def is_routed(self) -> bool:
        """A model was asked. Not so where the router answered itself, from the cache or with an error."""
        return self.routing_s > 0


@dataclass(slots=True)
class CacheResult:
    """What became of the cache in this exchange; see `ExchangeRecord`."""

    status: CacheStatus = "off"
    reason: CacheReason | Literal[""] = ""
    similarity: float = 0.0
    verified: float | None = None
    entry_id: str = ""
    stored: StoreResult = ""
