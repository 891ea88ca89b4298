"""The words of the core: what comes in, what goes out, and what is decided in between. Start reading here.

Everything is frozen: a value that two exchanges, a thread or a log line can share without asking.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

# -- what is measured ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Classification:
    """What a signal measured: one label out of a fixed set."""

    label: str
    """The most probable label."""
    confidence: float
    """Calibrated probability of `label`, 0 to 1."""
    probabilities: Mapping[str, float] = field(default_factory=dict)
    """Probability of every label; they sum to 1. May be empty for a signal that gives only its best label."""


@dataclass(frozen=True, slots=True)
class Missing:
    """What stands in for a reading that could not be taken. A value of its own: neither false nor zero."""

    reason: str
    """One of a few fixed words, such as `deadline`, `no_text` or `disabled`; never text from a request."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What a signal measured: several things that may hold at once, each with its own probability."""

    values: Mapping[str, float]
    """Calibrated probability of each, 0 to 1; they need not sum to 1."""


Reading = Classification | Scores | Missing


# -- what is asked ---------------------------------------------------------------------------------------------------


class Endpoint(Enum):
    """The OpenAI endpoints whose bodies the router reads."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    EMBEDDINGS = "/v1/embeddings"


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What the rules and the signals may know of one request."""

    endpoint: Endpoint
    model: str
    """The name the client asked for, as it was sent."""
    text: str
    """What rules and signals see: the text parts of the last user message, joined by newlines; empty when there are none. Of
    more than 16,384 characters the first and the last 8,192."""
    prompt_tokens: int
    """Estimated size of the whole prompt in tokens: UTF-8 bytes of all message text / 4, rounded up."""
    is_text_whole: bool = True
    """`text` is the whole message: nothing was left out of its middle."""
    is_stream: bool = False
    has_tools: bool = False
    """The request offers tools, or carries tool calls or tool results."""
    has_images: bool = False
    wants_usage: bool = False
    """The client itself asked for `stream_options.include_usage`."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Request headers by lower-case name; repeated headers are joined by a comma and a space."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One message, one tool or one other field, its texts joined by newlines as chat templates join a message's parts."""

    text: str
    is_instruction: bool = False
    """Written by the application, as a rule: a system or developer message, a tool, a format for the answer."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model reads of a request."""

    pieces: tuple[Piece, ...]
    """The newest message first. Pieces of nothing but white space and ASCII's signs are left out."""
    unread: str = ""
    """Why `pieces` is not everything: `too_long`, `token_ids`, `embeddings` (in the place of text) or `chat_template` (a program
    that could say anything); empty when it is."""
    most_shown_chars: int | None = None
    """About how many characters of it reach the model, where the request has the backend cut the rest off."""

    @property
    def conversation(self) -> Prompt:
        """Without what the application wrote."""
        return replace(self, pieces=tuple(piece for piece in self.pieces if not piece.is_instruction))


# -- what is decided -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Whether the model shall think, and how hard."""

    enabled: bool
    effort: str | None = None
    """`low`, `medium` or `high` for families that know an effort; None leaves the family's default."""


@dataclass(frozen=True, slots=True)
class ReasoningFamily:
    """How the models of one family are told to think or not."""

    kind: str
    """`chat_template_kwargs`: a boolean `parameter` inside that object. `reasoning_effort`: a word at the top level."""
    parameter: str
    default_effort: str = "medium"
    """Sent when reasoning is on and the rule names no effort."""
    off_effort: str = "low"
    """Sent when reasoning is off, for families that cannot switch it off altogether."""


@dataclass(frozen=True, slots=True)
class SystemPrompt:
    """A system prompt that a rule adds to the request."""

    text: str
    mode: str = "insert"
    """`insert` puts it before the client's own system prompt; `replace` puts it in its place."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model that clients may name and that vLLM serves."""

    name: str
    """What clients ask for."""
    cluster: str
    """The Envoy cluster that serves it."""
    served_name: str
    """What the body's `model` says when it reaches vLLM (`--served-model-name`)."""
    reasoning_family: str | None = None
    """A key of the config's `reasoning_families`; None leaves reasoning switches alone."""
    price: float = 0.0
    """What a request costs in the operator's own unit, such as dollars per million tokens."""
    answers_like: str = ""
    """The recorded model whose chances of a right answer stand for this one's; empty when the operator named none."""


@dataclass(frozen=True, slots=True)
class Block:
    """Refuse the request instead of serving it."""

    message: str
    """What the client is told."""
    fails_closed: bool = False
    """Block also when a signal that the rule asks for could not be read."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policy chose for one request."""

    name: str
    """The rule that won, `default`, or `direct` for a concrete model that the client named."""
    model: Model
    reason: str
    """Why: `matched`, `chosen` (by price and chance), `no_match`, `below_threshold`, `intent_missing`, `signal_missing` (of a
    rule that fails closed) or `concrete_model`."""
    reasoning: Reasoning | None = None
    """None leaves the client's own reasoning switches as they are."""
    system_prompt: SystemPrompt | None = None
    block: Block | None = None
    """Refuse; the model is not asked."""
    missing: str = ""
    """Of `signal_missing`: why the signal could not be read; a fixed word."""


# -- what may be answered from the cache -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Question:
    """What is looked up, and under which its answer is stored."""

    text: str
    """The last user message, whole."""
    partition: str
    """32 hex digits: everything else that the answer depends on."""
    key: str
    """32 hex digits: the partition and the text, for the exact tier."""
    scope: str
    """Whose answers these are: a keyed digest, or `global`."""
    decision: str
    model: str
    """The configured model that was chosen."""


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms one question is looked up and its answer stored."""

    threshold: float
    """Least cosine similarity of a candidate, 0 to 1; necessary, not sufficient."""
    ttl_s: float
    guards: tuple[str, ...]
    """Names of the conflicts that keep a candidate from being served; see `cache/checks.py`."""
    at_least: float = 0.0
    """Least probability, by the verifier, that one answer fits both questions; unused without one."""
    wait_s: float = 0.0
    """How long to wait for an equal question that is under way."""
    shadow: bool = False
    """Decide and count, and serve nothing."""
    is_semantic: bool = True
    """False: the exact tier alone."""
    may_look_up: bool = True
    may_store: bool = True
    max_age_s: float | None = None
    false_hit_budget: float | None = None
    """The share of wrong hits that `at_least` was chosen for; None when the operator named the bar himself."""

    @property
    def floor(self) -> float:
        """Similarity from which a candidate that is not served is counted as a near miss."""
        return min(self.threshold, 0.70)  # keeps 92% of the true duplicates among QQP's test pairs


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the answer to one question may be given to another."""

    refusal: str
    """Why not: a guard's name, `verifier`, or what failed; empty when it may."""
    probability: float | None = None
    """As in `Hit.verified`."""


@dataclass(frozen=True, slots=True)
class Hit:
    """An answer that may be given."""

    entry_id: str
    """Of this hit: the entry's id, and a digest of the two questions. What `cache report` takes."""
    answer: bytes
    """As `Answer.encode` gave it."""
    tier: str
    """`exact`, `semantic`, or `flight`: from a request that was under way."""
    similarity: float
    """Cosine; 1 for the same text."""
    age_s: float
    verified: float | None = None
    """Probability, by the verifier, that the answer fits; None when it was not asked."""


@dataclass(frozen=True, slots=True)
class Miss:
    reason: str
    """`empty`, `no_candidate`, `near_miss`, `late`, a guard's name, ...; a fixed word."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """An equal question is under way, and its answer is worth waiting for."""

    wait_s: float


Found = Hit | Miss


# -- events: one for each of Envoy's messages ------------------------------------------------------------------------


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
class Sensed:
    """The shell's answer to `Sense`."""

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
    """The shell's other answer to `Pause`: too many large bodies wait for their turn."""


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


Event = RequestHeaders | RequestBody | Resumed | Overloaded | Sensed | LookedUp | ResponseHeaders | ResponseBody | Trailers


# -- actions: one goes out for each event ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Continue:
    """Go on, nothing changes."""

    is_last: bool = False
    """The core is done with this exchange: the shell ends the gRPC stream and the rest passes untouched."""


@dataclass(frozen=True, slots=True)
class Pause:
    """There is more to do: let other exchanges have their turn and come back with `Resumed`. Never leaves the process."""


@dataclass(frozen=True, slots=True)
class Sense:
    """Measure this request and come back with `Sensed`. Never leaves the process."""

    request: ChatRequest
    wanted: frozenset[str]
    """Names of the readings that the rules need for this request; see `core/prompt.py` for those of rules that block."""
    prompt: Prompt | None = None
    """Everything that the model will read, when a rule that blocks wants it."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """Look for a stored answer and come back with `LookedUp`. Never leaves the process."""

    question: Question
    terms: Terms


@dataclass(frozen=True, slots=True)
class Route:
    """Send the request to a cluster, perhaps with a new body."""

    cluster: str
    set_headers: Mapping[str, str]
    body: bytes | None = None
    """The rewritten body; None leaves the client's bytes."""
    remove_headers: tuple[str, ...] = ()
    is_last: bool = True
    """As in `Continue`: false when the response has to pass through us too."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer the client ourselves; nothing reaches a backend."""

    http_status: int
    headers: Mapping[str, str]
    body: bytes
    details: str
    """A fixed word for Envoy's access log (`%RESPONSE_CODE_DETAILS%`), such as `sr_model_not_found`."""


@dataclass(frozen=True, slots=True)
class Replace:
    """Pass this response chunk on with other bytes."""

    data: bytes
    is_last: bool = False


Action = Continue | Pause | Sense | Lookup | Route | Reply | Replace


# -- how it ended ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts as the backend reported them."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """The frozen record of one exchange, handed to every instrument. Holds no text of a prompt or an answer."""

    ending: str
    """`routed` (a model was asked, and our part ended before its answer or without reading it), `replied` (we answered),
    `completed` (the whole answer passed us), `passed` (no path of ours: it goes on as it came), `abandoned` (it ended early:
    client gone, backend gone, or Envoy gave up on us) or `failed` (a fault of ours)."""
    endpoint: str = "other"
    """`chat`, `completions`, `embeddings`, `models` or `other`."""
    response_path: str = "upstream"
    """As in the `x-vsr-response-path` header: `upstream` (a model was asked), `cache`, `models`, `error`, or `bypass` where we
    neither routed nor answered."""
    request_id: str = ""
    """Envoy's `x-request-id`."""
    requested_model: str = ""
    """The configured name or alias that the client asked for; empty when it named none that we know."""
    model: str = ""
    """The configured model that was chosen; empty when none was."""
    cluster: str = ""
    decision: str = ""
    reason: str = ""
    """As in `Decision.reason`."""
    category: str = "none"
    """The intent's label; `none` when it was not measured, `unknown` when it could not be."""
    confidence: float = 0.0
    """Confidence of `category`, 0 to 1."""
    reasoning: str = "unchanged"
    """`on`, `off` or `unchanged`."""
    effort: str = ""
    is_stream: bool = False
    missing: Mapping[str, str] = field(default_factory=dict)
    """Signals that could not be read, each with its reason."""
    cache: str = "off"
    """`hit`, `shadow` (would have been one), `miss`, `skipped` (no question that may be cached) or `off`."""
    cache_reason: str = ""
    """The tier of a hit, or why there was none; a fixed word."""
    cache_similarity: float = 0.0
    cache_verified: float | None = None
    """As in `Hit.verified`."""
    cache_entry: str = ""
    stored: str = ""
    """`stored`, or why the answer was not; empty when it was not to be."""
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
