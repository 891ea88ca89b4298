"""Checks of limits, error replies and failover: parts of envoy.yaml whose absence is noticed too late."""

from __future__ import annotations

from collections.abc import Iterator

from router.core.types import Endpoint
from router.envoy.file import Place, endpoints_of
from router.envoy.pair import Pair, first_route, named
from router.errors import Problem

_DEFAULT_BUFFER_BYTES = 1024 * 1024  # Envoy's default per_connection_buffer_limit_bytes
_CLIENT_LIMITS = (
    (("request_timeout",), "a client may take any time to send its body"),
    (("request_headers_timeout",), "a client may take any time to send its headers"),
    (("common_http_protocol_options", "idle_timeout"), "a client may keep an unused connection for an hour"),
)
_ACTIONS = ("reset_high_memory_stream", "stop_accepting_requests")
_MIN_PICKS = 20  # with 5, two of 400 requests met only the dead one of two workers; with 50, none did
_QUERIES = ("%REQ(:PATH", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH", "%PATH(WQ", "%PATH%")
_LOGS = "type.googleapis.com/envoy.extensions.access_loggers."


def bodies_fit(pair: Pair) -> Iterator[Problem]:
    """Envoy accepts the bodies that the router accepts, and no larger ones."""
    place = pair.listener.at("per_connection_buffer_limit_bytes")
    yield from _buffer_fits(pair, place, "per_connection_buffer_limit_bytes")
    if not place:
        message = "per_connection_buffer_limit_bytes is not set: bodies over 1 MiB get a 413"
        yield pair.file.problem(pair.listener, message, "warning")
    told = set()
    for level in (*pair.hosts, *filter(None, (_route(pair, endpoint.value) for endpoint in Endpoint))):
        for name in ("per_request_buffer_limit_bytes", "request_body_buffer_limit"):
            if level.at(name) and level.at(name).path not in told:
                told.add(level.at(name).path)
                yield from _buffer_fits(pair, level.at(name), name)


def _buffer_fits(pair: Pair, place: Place, name: str) -> Iterator[Problem]:
    limit, ours = place.number or _DEFAULT_BUFFER_BYTES, pair.config.server.max_body_bytes
    if limit > ours:
        yield pair.file.problem(place, f"{name} ({limit}) must not exceed config's server.max_body_bytes ({ours})")
    elif limit < min(ours, _DEFAULT_BUFFER_BYTES):
        message = (
            f"{name} ({limit}) is small: every longer body, such as a document, a picture or a long conversation, gets a 413"
        )
        yield pair.file.problem(place, f"{message}; config's server.max_body_bytes allows {ours}", "warning")


def clients_are_bounded(pair: Pair) -> Iterator[Problem]:
    """Clients are bounded in time, number and memory."""
    for path, otherwise in _CLIENT_LIMITS:
        place = pair.manager.at(*path)
        if not place.seconds:
            yield pair.file.problem(place, f"{path[-1]} is not set: {otherwise}; see envoy/envoy.yaml", "warning")
    manager = pair.file.top.at("overload_manager")
    monitors = {place.at("name").text for place in manager.at("resource_monitors").items()}
    for name, what in (
        ("fixed_heap", "memory that clients"),
        ("global_downstream_max_connections", "number of connections they"),
    ):
        if f"envoy.resource_monitors.{name}" not in monitors:
            message = f"overload_manager has no envoy.resource_monitors.{name}, so the {what} may take is unbounded"
            yield pair.file.problem(manager, f"{message}; see envoy/envoy.yaml", "warning")
    acts = {place.at("name").text.removeprefix("envoy.overload_actions.") for place in manager.at("actions").items()}
    if monitors and (missing := [action for action in _ACTIONS if action not in acts]):
        message = (
            f"has no action {' and no action '.join(missing)}, so nothing happens when the heap is full; see envoy/envoy.yaml"
        )
        yield pair.file.problem(manager, message, "warning")


def upgrades_are_not_read(pair: Pair) -> Iterator[Problem]:
    """Upgrades to another protocol are not allowed on the paths that the router reads, because their body never ends."""
    for place in pair.manager.at("upgrade_configs").items():
        if place.at("enabled").value is not False:
            message = "an upgrade to this protocol hangs on every path that the router reads; allow it on a separate route"
            yield pair.file.problem(place, message, "warning")


def errors_are_openais(pair: Pair) -> Iterator[Problem]:
    """Envoy's own errors have OpenAI's shape, which client libraries can read."""
    replies = pair.manager.at("local_reply_config")
    if not replies:
        message = (
            "local_reply_config is missing, so Envoy's own errors (413, 503) are plain text, which OpenAI's clients cannot read"
        )
        yield pair.file.problem(pair.manager, f"{message}; copy it from envoy/envoy.yaml", "warning")
        return
    if "503" not in [place.text for place in named(replies, "status_code")]:
        message = "nothing turns a 504 into a 503, so with failure_mode_allow false, a silent router looks like a slow model"
        yield pair.file.problem(replies, f"{message}; copy the mapper from envoy/envoy.yaml", "warning")
    elif not any("sr_" in place.text for place in named(replies, "expression")):
        message = "the router's own 413, 503 and 504 would lose their messages; copy the first mapper from envoy/envoy.yaml"
        yield pair.file.problem(replies, message, "warning")


def missing_clusters_are_outages(pair: Pair) -> Iterator[Problem]:
    """An unknown cluster gives a 503, which is Envoy's default, and not a 404."""
    told = set()
    for endpoint in Endpoint:
        route = _route(pair, endpoint.value)
        place = route.at("route", "cluster_not_found_response_code") if route else None
        if place and place.text == "NOT_FOUND" and place.line not in told:
            told.add(place.line)
            message = "answers an unknown cluster with a 404, although it is an outage; write SERVICE_UNAVAILABLE"
            yield pair.file.problem(place, message, "warning")


def _route(pair: Pair, path: str) -> Place | None:
    """The first route for a path, of any virtual host."""
    return next((route for host in pair.hosts if (route := first_route(host, path))), None)


def failing_over_is_quick(pair: Pair) -> Iterator[Problem]:
    """A request whose worker was just killed goes to another one."""
    policy = pair.ext_proc.at("grpc_service", "retry_policy")
    if not policy:
        message = "retry_policy is missing, so a request whose worker was just killed bypasses the router"
        yield pair.file.problem(pair.ext_proc.at("grpc_service"), f"{message}; copy it from envoy/envoy.yaml", "warning")
    elif not policy.at("retry_back_off"):
        message = "retry_back_off is missing: Envoy's default pauses take up to a second; copy it from envoy/envoy.yaml"
        yield pair.file.problem(policy, message, "warning")
    cluster = pair.file.clusters().get(pair.router_cluster)
    if policy and cluster and _has_several_endpoints(cluster):
        yield from _retries_elsewhere(pair, policy)
    for check in cluster.at("health_checks").items() if cluster else ():
        if check.at("grpc_health_check") and not check.at("no_traffic_interval"):
            message = "no_traffic_interval is not set: before the first request Envoy checks once a minute; write 1s"
            yield pair.file.problem(check, message, "warning")


def _has_several_endpoints(cluster: Place) -> bool:
    """Whether the cluster may have several endpoints. A DNS name or EDS may stand for many."""
    return cluster.at("type").text not in ("", "STATIC") or len(endpoints_of(cluster)) > 1


def _retries_elsewhere(pair: Pair, policy: Place) -> Iterator[Problem]:
    """A retry goes to another worker than the failed attempt. Envoy picks again up to a limit, by default once."""
    predicates = policy.at("retry_host_predicate")
    if not any(place.at("typed_config", "@type").text.endswith(".PreviousHostsPredicate") for place in predicates.items()):
        message = "has no previous_hosts predicate, so the retry may go to the same dead worker and bypass the living ones"
        yield pair.file.problem(predicates or policy, f"{message}; copy retry_host_predicate from envoy/envoy.yaml", "warning")
    elif (tries := policy.at("host_selection_retry_max_attempts")).number < _MIN_PICKS:
        message = f"host_selection_retry_max_attempts ({tries.number or 1}) is small: the retry may go to the same dead worker"
        yield pair.file.problem(tries, f"{message}; write 50", "warning")


def leaving_is_noticed(pair: Pair) -> Iterator[Problem]:
    """A leaving worker serves until Envoy's health check has removed it."""
    cluster, drain_seconds = pair.file.clusters().get(pair.router_cluster), pair.config.server.drain_seconds
    for check in cluster.at("health_checks").items() if cluster else ():
        interval_s, timeout_s = check.at("interval").seconds or 0.0, check.at("timeout").seconds or 0.0
        times = max(check.at("unhealthy_threshold").number, 1)
        needed_s = interval_s * times + timeout_s
        if check.at("grpc_health_check") and drain_seconds < needed_s:
            said = f"interval ({interval_s:g} s) x unhealthy_threshold ({times}) + timeout ({timeout_s:g} s)"
            place = f"{pair.file.name}, line {check.line}"
            message = f"drain_seconds ({drain_seconds:g} s) is shorter than the health check's {said} in {place}"
            remedy = (
                f"requests go to a worker that has left, and must be retried; write {needed_s:g} or more, or check more often"
            )
            yield pair.settings.problem(pair.settings.top.at("server", "drain_seconds"), f"{message}: {remedy}", "warning")


def only_some_headers_may_be_set(pair: Pair) -> Iterator[Problem]:
    """The router can change only the headers that it needs."""
    if not pair.ext_proc.at("mutation_rules"):
        message = "mutation_rules are missing, so the router could change any header; copy them from envoy/envoy.yaml"
        yield pair.file.problem(pair.ext_proc, message, "warning")


def logs_hold_no_query(pair: Pair) -> Iterator[Problem]:
    """Access logs do not show the query, in which some clients send their key."""
    for log in pair.manager.at("access_log").items():
        config = log.at("typed_config")
        if not config.at("@type").text.startswith(_LOGS):
            continue
        texts = list(config.texts())
        shown = next((place for place in texts if any(word in place.text.upper() for word in _QUERIES)), None)
        if shown or not (config.at("log_format") or config.at("format")):
            message = "logs the query, in which some clients send their key; write %PATH(NQ)%"
            yield pair.file.problem(shown or config, message, "warning")


RULES = (
    bodies_fit,
    clients_are_bounded,
    upgrades_are_not_read,
    errors_are_openais,
    missing_clusters_are_outages,
    failing_over_is_quick,
    leaving_is_noticed,
    only_some_headers_may_be_set,
    logs_hold_no_query,
)
