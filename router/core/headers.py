"""The names of all headers that the router reads or sets, each written once. Other modules read their values."""

from __future__ import annotations

# -- ours: the decision travels on the request, and Envoy copies it to the response -------------------------------------

CLUSTER_HEADER = "x-upstream-cluster"
"""The routes of envoy.yaml name it as their `cluster_header`."""
PATH_HEADER = "x-vsr-response-path"
"""Who answered: see `ExchangeRecord.response_path`. Envoy presets `bypass`."""
CATEGORY_HEADER = "x-vsr-selected-category"
CONFIDENCE_HEADER = "x-vsr-selected-confidence"
DECISION_HEADER = "x-vsr-selected-decision"
MODEL_HEADER = "x-vsr-selected-model"
REASONING_HEADER = "x-vsr-selected-reasoning"
REASON_HEADER = "x-vsr-decision-reason"

CACHE_HIT_HEADER = "x-vsr-cache-hit"
CACHE_STATUS_HEADER = "x-vsr-cache-status"
STANDARD_CACHE_STATUS = "cache-status"
"""The standard form of `CACHE_STATUS_HEADER` (RFC 9211)."""
CACHE_SIMILARITY_HEADER = "x-vsr-cache-similarity"
CACHE_VERIFIED_HEADER = "x-vsr-cache-verified"
CACHE_ENTRY_HEADER = "x-vsr-cache-entry"
CACHE_AGE_HEADER = "x-vsr-cache-age"
CACHE_DECISION_HEADER = "x-vsr-cache-decision"
CACHE_MODEL_HEADER = "x-vsr-cache-model"
"""Of a hit: the decision that stored the answer, and the model that wrote it. `DECISION_HEADER` and `MODEL_HEADER` say what was
decided for the request itself."""
CACHE_TTL_HEADER = "x-vsr-cache-ttl"
"""Sent by clients: for how many seconds the answer may be stored."""

CACHE_HEADERS = frozenset({CACHE_HIT_HEADER, CACHE_STATUS_HEADER, STANDARD_CACHE_STATUS})
"""The cache headers of an answer that a model gave."""
COPIED_HEADERS = (
    CATEGORY_HEADER,
    CONFIDENCE_HEADER,
    DECISION_HEADER,
    MODEL_HEADER,
    REASONING_HEADER,
    REASON_HEADER,
    CACHE_HIT_HEADER,
    CACHE_STATUS_HEADER,
    STANDARD_CACHE_STATUS,
)
"""Headers that Envoy copies from the request to the model's answer."""

# -- HTTP's and others' --------------------------------------------------------------------------------------------------

METHOD, PATH, STATUS = ":method", ":path", ":status"
ACCEPT_ENCODING = "accept-encoding"
AGE = "age"
AUTHORIZATION = "authorization"
CACHE_CONTROL = "cache-control"
CONTENT_ENCODING = "content-encoding"
CONTENT_LENGTH = "content-length"
CONTENT_TYPE = "content-type"
DATE = "date"
EXPIRES = "expires"
ORIGIN = "origin"
PRAGMA = "pragma"
RETRY_AFTER = "retry-after"
VARY = "vary"
REQUEST_ID = "x-request-id"
"""Set by Envoy."""
TRACEPARENT, TRACESTATE = "traceparent", "tracestate"

SECRET_HEADERS = frozenset({AUTHORIZATION, "proxy-authorization", "cookie", "x-api-key", "api-key"})
"""Their values are never shown."""
