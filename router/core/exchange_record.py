"""The record of one exchange. Logs, metrics and traces are made from it and from nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from router.core.lookup import CacheStatus, MissReason, SkipReason, StoreResult, Tier
from router.core.types import DecisionReason, EndpointWord, ReasoningWord, ResponsePath

Ending = Literal["routed", "replied", "completed", "passed", "abandoned", "failed"]
"""`routed`: a model was asked, and the router did not read its answer. `replied`: the router answered itself. `completed`: the
whole answer passed the router. `passed`: the router does not serve this path, and the request went on unchanged. `abandoned`: the
exchange ended early, because the client or the backend left, or Envoy stopped waiting. `failed`: a fault of the router."""
CacheReason = Tier | MissReason | SkipReason


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts that the backend reported."""

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
    """Label of the intent; `none` when it was not measured, `unknown` when it could not be measured."""
    confidence: float = 0.0
    """Confidence of `category`, 0 to 1."""
    reasoning: ReasoningWord = "unchanged"
    effort: str = ""
    is_stream: bool = False
    missing: Mapping[str, str] = field(default_factory=dict)
    """Signals that could not be read, each with its reason."""
    cache: CacheStatus = "off"
    cache_reason: CacheReason | Literal[""] = ""
    """The tier of a hit, or the reason of a miss or skip; empty when the cache is off."""
    cache_similarity: float = 0.0
    """Of a hit, or of the candidate for which a miss has its reason; 0 without a candidate."""
    cache_verified: float | None = None
    """As in `Hit.verified`."""
    cache_entry: str = ""
    """As in `Hit.entry_id`, or the id of this candidate."""
    cache_model: str = ""
    """The model that wrote the answer of a hit; it may not be `model`. Empty without a hit."""
    stored: StoreResult = ""
    block_reason: str = ""
    """For a request that a rule blocked: `matched`, or why it could not be read. Empty for all others."""
    error_code: str = ""
    """Machine-readable code of our own error reply, such as `model_not_found`."""
    http_status: int = 0
    """Status of our reply, or of the backend's response if it passed the router; 0 when neither is known."""
    usage: Usage | None = None
    routing_s: float = 0.0
    """Seconds from Envoy's first message to the routing answer, including the time in which Envoy buffers the body."""
    signals_s: float = 0.0
    """Seconds of `routing_s` that were spent waiting for signals."""
    first_token_s: float | None = None
    """Seconds from the routing answer to the first byte of a streamed answer; None when no stream passed the router."""
    duration_s: float = 0.0
    """Seconds from the first message to the end of the exchange."""

    @property
    def answering_model(self) -> str:
        """The model that wrote the client's answer: of a hit the one that was asked then, else `model`."""
        return self.cache_model if self.cache == "hit" else self.model

    @property
    def is_routed(self) -> bool:
        """Whether a model was asked; false when the router answered itself, from the cache or with an error."""
        return self.routing_s > 0


@dataclass(slots=True)
class CacheResult:
    """What the cache did in this exchange; see `ExchangeRecord`."""

    status: CacheStatus = "off"
    reason: CacheReason | Literal[""] = ""
    similarity: float = 0.0
    verified: float | None = None
    entry_id: str = ""
    model: str = ""
    stored: StoreResult = ""
