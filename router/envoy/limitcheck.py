"""What `semantic-router check` says of limits, errors and failures: lines of envoy.yaml whose absence nobody notices in time."""

from __future__ import annotations

from collections.abc import Iterator

from router.core.types import Endpoint
from router.envoy.file import Place, endpoints_of
from router.envoy.pair import Pair, first_route, named
from router.errors import Problem

_DEFAULT_BUFFER_BYTES = 1024 * 1024  # Envoy's own per_connection_buffer_limit_bytes
_CLIENT_LIMITS = (
    (("request_timeout",), "a client may take for ever to send its body"),
    (("request_headers_timeout",), "a client may take for ever to send its headers"),
    (("common_http_protocol_options", "idle_timeout"), "a client may keep a connection for an hour without asking"),
)
_ACTIONS = ("reset_high_memory_stream", "stop_accepting_requests")
_LEAST_PICKS = 20  # with 5, two of 400 requests, eight at a time, still met nothing but the dead one of two workers; with 50 none
_QUERIES = ("%REQ(:PATH", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH", "%PATH(WQ", "%PATH%")
_LOGS = "type.googleapis.com/envoy.extensions.access_loggers."


def bodies_fit(pair: Pair) -> Iterator[Problem]:
    """Envoy takes what the router takes, and no more."""
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
        message = f"{name} ({limit}) is small: every longer body gets a 413, such as a document, a picture or a long conversation"
        yield pair.file.problem(place, f"{message}; {ours} is what config's server.max_body_bytes allows", "warning")


def clients_are_bounded(pair: Pair) -> Iterator[Problem]:
    """In time, in number, in memory."""
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
            message = f"overload_manager has no envoy.resource_monitors.{name}: the {what} may take is unbounded"
            yield pair.file.problem(manager, f"{message}; see envoy/envoy.yaml", "warning")
    acts = {place.at("name").text.removeprefix("envoy.overload_actions.") for place in manager.at("actions").items()}
    if monitors and (missing := [action for action in _ACTIONS if action not in acts]):
        message = f"has no action {' and no action '.join(missing)}: nothing happens when the heap is full; see envoy/envoy.yaml"
        yield pair.file.problem(manager, message, "warning")


def upgrades_are_not_read(pair: Pair) -> Iterator[Problem]:
    """What becomes another protocol has no body that ends."""
    for place in pair.manager.at("upgrade_configs").items():
        if place.at("enabled").value is not False:
            message = "upgrades to this protocol hang on every path that the router reads; allow them on a route of their own"
            yield pair.file.problem(place, message, "warning")


def errors_are_openais(pair: Pair) -> Iterator[Problem]:
    """Envoy's own errors are ones that a client's library can read."""
    replies = pair.manager.at("local_reply_config")
    if not replies:
        message = (
            "local_reply_config is missing: Envoy's own errors (413, 503) are plain text, which OpenAI's clients cannot read"
        )
        yield pair.file.problem(pair.manager, f"{message}; copy it from envoy/envoy.yaml", "warning")
        return
    if "503" not in [place.text for place in named(replies, "status_code")]:
        message = "nothing turns a 504 into a 503: with failure_mode_allow false, a router that is silent looks like a slow model"
        yield pair.file.problem(replies, f"{message}; copy the mapper from envoy/envoy.yaml", "warning")
    elif not any("sr_" in place.text for place in named(replies, "expression")):
        message = "the router's own 413, 503 and 504 would lose their words; copy the first mapper from envoy/envoy.yaml"
        yield pair.file.problem(replies, message, "warning")


def missing_clusters_are_outages(pair: Pair) -> Iterator[Problem]:
    """A misspelt cluster is no missing page; Envoy's own word for it, when the file has none, is 503."""
    told = set()
    for endpoint in Endpoint:
        route = _route(pair, endpoint.value)
        place = route.at("route", "cluster_not_found_response_code") if route else None
        if place and place.text == "NOT_FOUND" and place.line not in told:
            told.add(place.line)
            message = "makes an unknown cluster, which is an outage, look like a missing page; write SERVICE_UNAVAILABLE"
            yield pair.file.problem(place, message, "warning")


def _route(pair: Pair, path: str) -> Place | None:
    """The first route of any host that takes a path."""
    return next((route for host in pair.hosts if (route := first_route(host, path))), None)


def failing_over_is_quick(pair: Pair) -> Iterator[Problem]:
    """A request that meets a worker just killed goes to the next one."""
    policy = pair.ext_proc.at("grpc_service", "retry_policy")
    if not policy:
        message = "retry_policy is missing: a request that meets a worker just killed bypasses the router"
        yield pair.file.problem(pair.ext_proc.at("grpc_service"), f"{message}; copy it from envoy/envoy.yaml", "warning")
    elif not policy.at("retry_back_off"):
        message = "retry_back_off is missing: Envoy's own pauses cost up to a second; copy it from envoy/envoy.yaml"
        yield pair.file.problem(policy, message, "warning")
    cluster = pair.file.clusters().get(pair.router_cluster)
    if policy and cluster and _has_several_endpoints(cluster):
        yield from _retries_elsewhere(pair, policy)
    for check in cluster.at("health_checks").items() if cluster else ():
        if check.at("grpc_health_check") and not check.at("no_traffic_interval"):
            message = "no_traffic_interval is not set: before the first request Envoy checks once a minute; write 1s"
            yield pair.file.problem(check, message, "warning")


def _has_several_endpoints(cluster: Place) -> bool:
    """Those that the file tells; names and EDS may each stand for many."""
    return cluster.at("type").text not in ("", "STATIC") or len(endpoints_of(cluster)) > 1


def _retries_elsewhere(pair: Pair, policy: Place) -> Iterator[Problem]:
    """The second attempt is not at the worker where the first failed. Envoy picks anew so many times; once if it is not told."""
    predicates = policy.at("retry_host_predicate")
    if not any(place.at("typed_config", "@type").text.endswith(".PreviousHostsPredicate") for place in predicates.items()):
        message = "has no previous_hosts predicate: the retry may meet the same dead worker again and bypass the living ones"
        yield pair.file.problem(predicates or policy, f"{message}; copy retry_host_predicate from envoy/envoy.yaml", "warning")
    elif (tries := policy.at("host_selection_retry_max_attempts")).number < _LEAST_PICKS:
        message = f"host_selection_retry_max_attempts ({tries.number or 1}) is small: the retry may meet the same dead worker"
        yield pair.file.problem(tries, f"{message}; write 50", "warning")


def leaving_is_noticed(pair: Pair) -> Iterator[Problem]:
    """A worker serves on until Envoy's health check has taken it out."""
    cluster, drain_seconds = pair.file.clusters().get(pair.router_cluster), pair.config.server.drain_seconds
    for check in cluster.at("health_checks").items() if cluster else ():
        interval_s, timeout_s = check.at("interval").seconds or 0.0, check.at("timeout").seconds or 0.0
        times = max(check.at("unhealthy_threshold").number, 1)
        needed_s = interval_s * times + timeout_s
        if check.at("grpc_health_check") and drain_seconds < needed_s:
            said = f"interval ({interval_s:g} s) x unhealthy_threshold ({times}) + timeout ({timeout_s:g} s)"
            message = f"drain_seconds ({drain_seconds:g} s) is shorter than the health check's {said} in {pair.file.name}, line {check.line}"
            remedy = (
                f"requests meet a worker that has left, and have to be retried; write {needed_s:g} or more, or check more often"
            )
            yield pair.settings.problem(pair.settings.top.at("server", "drain_s"), f"{message}: {remedy}", "warning")


def only_some_headers_may_be_set(pair: Pair) -> Iterator[Problem]:
    """The router can change the headers that it needs, and no others."""
    if not pair.ext_proc.at("mutation_rules"):
        message = "mutation_rules are missing: the router could change any header; copy them from envoy/envoy.yaml"
        yield pair.file.problem(pair.ext_proc, message, "warning")


def logs_hold_no_query(pair: Pair) -> Iterator[Problem]:
    """Some clients send their key in it."""
    for log in pair.manager.at("access_log").items():
        config = log.at("typed_config")
        if not config.at("@type").text.startswith(_LOGS):
            continue
        texts = list(config.texts())
        shown = next((place for place in texts if any(word in place.text.upper() for word in _QUERIES)), None)
        if shown or not (config.at("log_format") or config.at("format")):
            message = "prints the query, in which some clients send their key; write %PATH(NQ)%"
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
