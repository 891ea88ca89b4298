"""`semantic-router check`: checks the two configurations, each alone and both together, and reports every problem at once."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from router.config.load import Config, load
from router.config.reader import compose, suggest
from router.core.headers import (
    ACCEPT_ENCODING,
    CLUSTER_HEADER,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    COPIED_HEADERS,
    PATH_HEADER,
    TRACEPARENT,
    TRACESTATE,
)
from router.core.types import Endpoint
from router.envoy import guardcheck, limitcheck, sharecheck
from router.envoy.binary import find_envoy
from router.envoy.cachecheck import cache_problems, cache_summary
from router.envoy.file import EnvoyFile, Place, endpoints_of, read_envoy, socket_of
from router.envoy.pair import Pair, first_route, matches
from router.envoy.schema import check_types
from router.errors import ConfigError, Problem

_MARGIN_MS = 200  # for parsing, queueing and gRPC beside the signals; their p99 was measured below 20 ms on two cores
_DEFAULT_STREAMS = 1024  # Envoy's default limit of open requests to a cluster
_DEFAULT_RETRIES = 3  # Envoy's default limit of concurrent retries to a cluster
_MIN_IDLE_S = 60  # the first token of a large model after a long prompt can take nearly a minute
_VALIDATE_S = 20
_CONSTRAINT = re.compile(r"(\w+)ValidationError\.(\w+)(?:\[(\w+)\])?: ")
"""Envoy names a field by a chain of such links: message, field, position in a list."""


@dataclass(frozen=True, slots=True)
class Report:
    problems: list[Problem]
    summary: list[str]
    """Lines for a person that say what goes where. Empty when the files do not tell."""


def check(config_path: Path, envoy_path: Path) -> Report:
    """Every problem in the two files, as far as they can be read."""
    problems: list[Problem] = []
    config = file = None
    try:
        config = load(config_path)
    except ConfigError as error:
        problems += error.problems
    try:
        file = read_envoy(envoy_path)
        problems += check_types(file)
    except ConfigError as error:
        problems += error.problems
    if file is None:
        return Report(problems, [])
    problems += guardcheck.filters_are_in_order(file)
    if not any(problem.severity == "error" and problem.file == file.name for problem in problems):
        problems += _ask_envoy(file)
    if config is None:
        return Report(problems, [])
    problems += cache_problems(config.cache, str(config_path))
    pairs = list(_pairs(config, _settings(config_path), file))
    if not pairs:
        problems.append(file.problem(file.top, "has no ext_proc HTTP filter with a grpc_service; see envoy/envoy.yaml"))
    for pair in pairs:
        for rule in RULES:
            problems += (problem for problem in rule(pair) if problem not in problems)
    return Report(problems, _summary(pairs[0]) if pairs else [])


def _settings(path: Path) -> EnvoyFile:
    """The router's file as a tree. It was read before, so reading cannot fail."""
    return EnvoyFile(str(path), Place(compose(path.read_text(encoding="utf-8"), str(path)), "", 1))


def _pairs(config: Config, settings: EnvoyFile, file: EnvoyFile) -> Iterator[Pair]:
    for listener, manager in file.managers():
        for http_filter in manager.at("http_filters").items():
            place = http_filter.at("typed_config")
            if place.at("@type").text.endswith(".ExternalProcessor") and place.at("grpc_service"):
                yield Pair(config, settings, file, listener, manager, place, http_filter.at("name").text)


def _ask_envoy(file: EnvoyFile) -> Iterator[Problem]:
    """The problem that Envoy itself finds, if it is installed."""
    try:
        envoy = find_envoy()
    except ConfigError:
        return
    command = [shutil.which(envoy) or envoy, "--mode", "validate", "--log-level", "error", "-c", file.name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_VALIDATE_S, check=False)  # noqa: S603 - our own list
    except subprocess.TimeoutExpired:
        return
    if done.returncode:
        said = next((line for line in reversed((done.stderr + done.stdout).splitlines()) if line.strip()), "without a reason")
        yield _refusal(file, said.split("] ")[-1].removeprefix(": "))


def _refusal(file: EnvoyFile, said: str) -> Problem:
    """Envoy's message as a problem. If it names the fields from the top down, the problem is at the last that the file has."""
    chain = _CONSTRAINT.findall(said)
    if not chain or chain[0][0] != "Bootstrap":
        return file.problem(file.top, f"Envoy refuses it: {said[:400]}")
    place = file.top
    for _, field, position in chain:
        place = place.at(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", field).lower())
        place = place.at(int(position)) if position.isdigit() else place
    return file.problem(place, f"Envoy refuses it: {said.rpartition(': ')[2].rstrip(')')[:400]}")


# -- rules, each for one thing ---------------------------------------------------------------------------------------


def _clusters_exist(pair: Pair) -> Iterator[Problem]:
    clusters = pair.file.clusters()
    # Envoy may get clusters at run time (CDS), so a cluster that the file lacks may exist.
    severity = "warning" if pair.file.top.at("dynamic_resources", "cds_config") else "error"
    for model in pair.config.models.values():
        if model.cluster not in clusters:
            place = pair.settings.top.at("models", model.name, "cluster")
            message = f"there is no cluster '{model.cluster}' in {pair.file.name}"
            yield pair.settings.problem(
                place, message + suggest(model.cluster, clusters.keys() - {pair.router_cluster}), severity
            )
    service = pair.ext_proc.at("grpc_service")
    if not pair.router_cluster:
        yield pair.file.problem(service, "envoy_grpc with a cluster_name was expected; google_grpc is neither checked nor tested")
    elif pair.router_cluster not in clusters:
        message = f"there is no cluster '{pair.router_cluster}'{suggest(pair.router_cluster, clusters)}"
        yield pair.file.problem(service, message, severity)


def _workers_have_endpoints(pair: Pair) -> Iterator[Problem]:
    cluster = pair.file.clusters().get(pair.router_cluster)
    if cluster is None or cluster.at("type").text == "EDS":
        return
    known, server = {_as_seen_by_envoy(_written(*endpoint)) for endpoint in endpoints_of(cluster)}, pair.config.server
    if _is_elsewhere(known):
        return
    unknown = [index for index in range(server.workers + 1) if _as_seen_by_envoy(server.address_of(index)) not in known]
    for index in unknown:
        address = server.address_of(index)
        if index < server.workers:
            message = f"worker {index} listens on {address} (config: server), but this cluster has no such endpoint"
            yield pair.file.problem(cluster.at("load_assignment"), message)
        elif len(unknown) == 1:
            message = f"lacks {address}, the address of the spare worker during `semantic-router restart`: "
            message += "one worker less would serve meanwhile" if index > 1 else "a restart would be refused"
            yield pair.file.problem(cluster.at("load_assignment"), message, "warning")


def _written(host: str, port: int) -> str:
    if host.startswith("unix:"):
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _as_seen_by_envoy(address: str) -> str:
    host, _, port = address.rpartition(":")
    return f"127.0.0.1:{port}" if host in ("0.0.0.0", "localhost", "[::]") else address  # noqa: S104 - only compared


def _is_elsewhere(known: set[str]) -> bool:
    """Whether the router runs on other hosts, whose names cannot be compared with its listening addresses."""
    return any(not endpoint.startswith(("127.", "unix:", "localhost", "[::1]")) for endpoint in known)


def _router_cluster_works(pair: Pair) -> Iterator[Problem]:
    cluster = pair.file.clusters().get(pair.router_cluster)
    if cluster is None:
        return
    options = cluster.at("typed_extension_protocol_options", "envoy.extensions.upstreams.http.v3.HttpProtocolOptions")
    if not options.at("explicit_http_config", "http2_protocol_options") and not cluster.at("http2_protocol_options"):
        yield pair.file.problem(cluster, "gRPC needs HTTP/2: add explicit_http_config with http2_protocol_options")
    if not any(place.at("grpc_health_check") for place in cluster.at("health_checks").items()):
        yield pair.file.problem(cluster, "has no grpc_health_check: clients will notice restarts of the router", "warning")
    panic = cluster.at("common_lb_config", "healthy_panic_threshold", "value")
    if not panic or panic.value != 0:
        message = "healthy_panic_threshold is not 0: when all workers are down, Envoy would still send them requests"
        yield pair.file.problem(cluster, message, "warning")
    streams = max((place.at("max_requests").number for place in cluster.at("circuit_breakers", "thresholds").items()), default=0)
    if (streams or _DEFAULT_STREAMS) <= _DEFAULT_STREAMS:
        message = (
            f"allows {streams or _DEFAULT_STREAMS} exchanges at once (circuit_breakers max_requests); more bypass the router"
        )
        yield pair.file.problem(cluster, message, "warning")
    retries = max((place.at("max_retries").number for place in cluster.at("circuit_breakers", "thresholds").items()), default=0)
    if pair.ext_proc.at("grpc_service", "retry_policy") and (retries or _DEFAULT_RETRIES) <= _DEFAULT_RETRIES:
        message = (
            f"allows {retries or _DEFAULT_RETRIES} retries at once (circuit_breakers max_retries), so under load the router's"
        )
        yield pair.file.problem(cluster, f"{message} retry_policy has no effect", "warning")


_MODES = {"request_header_mode": ("SEND", ("", "SEND", "DEFAULT")), "request_body_mode": ("BUFFERED", ("BUFFERED",))}
_RESPONSE_MODES = {
    "response_header_mode": ("SEND", ("", "SEND", "DEFAULT")),
    "response_body_mode": ("STREAMED", ("STREAMED",)),
}


def _modes_work(pair: Pair) -> Iterator[Problem]:
    for mode in pair.processing_modes:
        yield from _mode_works(pair, mode)
    mode = pair.ext_proc.at("processing_mode", "response_header_mode")
    if mode.text != "SKIP":
        message = (
            "write SKIP here and SEND on the virtual host; else Envoy's 400 and 426 to requests that are not HTTP wait for it"
        )
        yield pair.file.problem(mode, message, "warning")


def _mode_works(pair: Pair, mode: Place) -> Iterator[Problem]:
    """Checks the mode that applies to some of the router's requests."""
    wanted = {**_MODES, **(_RESPONSE_MODES if pair.reads_answers else {})}
    why = {
        "request_body_mode": "in any other mode Envoy silently drops the cluster header, or cannot fail open",
        "request_header_mode": "the router needs the path",
        "response_body_mode": "telemetry.track_token_usage and semantic_cache read the answers",
        "response_header_mode": "telemetry.track_token_usage and semantic_cache read the answers",
    }
    for name, (right, allowed) in wanted.items():
        if mode.at(name).text not in allowed:
            yield pair.file.problem(mode.at(name), f"{name} must be {right}: {why[name]}")
    if mode.at("response_body_mode").text == "BUFFERED":
        yield pair.file.problem(mode.at("response_body_mode"), "BUFFERED holds back every stream until its end; use STREAMED")


def _answers_are_heard(pair: Pair) -> Iterator[Problem]:
    if pair.ext_proc.at("observability_mode").value is True:
        yield pair.file.problem(pair.ext_proc.at("observability_mode"), "Envoy would ignore the router's answers; remove it")
    if pair.ext_proc.at("route_cache_action").text == "RETAIN" or pair.ext_proc.at("disable_clear_route_cache").value is True:
        place = pair.ext_proc.at("route_cache_action") or pair.ext_proc.at("disable_clear_route_cache")
        yield pair.file.problem(place, "keeps the first route, so Envoy would ignore the router's choice; remove it")
    if pair.ext_proc.at("disable_immediate_response").value is True:
        place = pair.ext_proc.at("disable_immediate_response")
        yield pair.file.problem(place, "clients would not get the router's own answers and errors; remove it")


def _timeouts_fit(pair: Pair) -> Iterator[Problem]:
    place, deadline_ms = pair.ext_proc.at("message_timeout"), pair.config.signals.deadline_ms
    seconds = place.seconds if place else 0.2  # Envoy's default
    if seconds is None:
        return
    if seconds * 1000 <= deadline_ms:
        message = f"message_timeout ({seconds:g} s) must exceed config's signals.deadline_ms ({deadline_ms}), else Envoy gives up"
        yield pair.file.problem(place, message)
    elif seconds * 1000 < deadline_ms + _MARGIN_MS:
        message = f"message_timeout ({seconds:g} s) is less than {_MARGIN_MS} ms above signals.deadline_ms ({deadline_ms})"
        yield pair.file.problem(place, message, "warning")


def _waiting_fits(pair: Pair) -> Iterator[Problem]:
    """Envoy must wait for the router as long as the cache waits for an equal question and the guards read."""
    cache_s = max((terms.coalesce_timeout_s for terms in pair.config.cache.policies.values()), default=0.0)
    guards_s = pair.config.signals.guards.deadline_ms / 1000 if pair.config.policy.reads_prompt else 0.0
    longest_s = cache_s + guards_s
    if not longest_s:
        return
    place = pair.ext_proc.at("max_message_timeout")
    if (place.seconds or 0.0) < longest_s + 1:
        waits = {"coalesce_timeout_seconds": cache_s, "signals.guards.deadline_ms / 1000": guards_s}
        words = " and ".join(f"{name} is {seconds:g}" for name, seconds in waits.items() if seconds)
        message = f"max_message_timeout must be at least {longest_s + 1:g} s: config's {words}"
        yield pair.file.problem(place or pair.ext_proc, message)


def _headers_may_be_set(pair: Pair) -> Iterator[Problem]:
    rules = pair.ext_proc.at("mutation_rules")
    if rules.at("disallow_is_error").value is True:
        message = "turns a refused header into a 500 for the client, even with failure_mode_allow; remove it"
        yield pair.file.problem(rules.at("disallow_is_error"), message)
    needed = [CLUSTER_HEADER, PATH_HEADER, *COPIED_HEADERS, CONTENT_LENGTH, CONTENT_TYPE]
    if pair.reads_answers:
        needed.append(ACCEPT_ENCODING)
    if pair.config.telemetry.tracing.enabled:
        needed += [TRACEPARENT, TRACESTATE]
    allowed, banned = rules.at("allow_expression", "regex"), rules.at("disallow_expression", "regex")
    if banned and (refused := [name for name in needed if matches(banned.text, name)]):
        yield pair.file.problem(banned, f"the router sets {', '.join(refused)}, which this forbids")
    if rules.at("disallow_all").value is True and (refused := [name for name in needed if not matches(allowed.text, name)]):
        yield pair.file.problem(allowed, f"the router sets {', '.join(refused)}, which this does not allow")


def _clients_cannot_choose(pair: Pair) -> Iterator[Problem]:
    """Envoy must overwrite the cluster header with an existing cluster before it chooses the first route."""
    place = pair.manager.at("early_header_mutation_extensions")
    set_to: dict[str, Place] = {}
    removed: set[str] = set()
    for extension in place.items():
        for mutation in extension.at("typed_config", "mutations").items():
            name, value = mutation.at("append", "header", "key").text.lower(), mutation.at("append", "header", "value")
            if mutation.at("append", "append_action").text == "OVERWRITE_IF_EXISTS_OR_ADD":
                set_to[name] = value
            gone = mutation.at("remove").text.lower()
            removed.add(gone)
            set_to.pop(gone, None)
    default = pair.config.default_model.cluster
    if CLUSTER_HEADER not in set_to:
        message = f"must overwrite {CLUSTER_HEADER}, else clients choose a cluster, and while the router is down there is none"
        yield pair.file.problem(place or pair.manager, f"early_header_mutation_extensions {message}")
    elif set_to[CLUSTER_HEADER].text not in pair.file.clusters():
        message = f"there is no cluster '{set_to[CLUSTER_HEADER].text}'; config's default model is in '{default}'"
        yield pair.file.problem(set_to[CLUSTER_HEADER], message)
    elif set_to[CLUSTER_HEADER].text != default:
        message = f"config's default model is in the cluster '{default}'; while the router is down, another cluster would serve"
        yield pair.file.problem(set_to[CLUSTER_HEADER], message, "warning")
    for name in (PATH_HEADER, *COPIED_HEADERS):
        if name not in removed and name not in set_to:
            message = f"a client may send {name} and get it back as if the router had set it; remove the header here"
            yield pair.file.problem(place or pair.manager, message, "warning")


def _answers_show_the_decision(pair: Pair) -> Iterator[Problem]:
    for host in pair.hosts:
        if CLUSTER_HEADER not in [place.text.lower() for place in host.at("request_headers_to_remove").items()]:
            message = f"request_headers_to_remove lacks {CLUSTER_HEADER}, so the models would see it"
            yield pair.file.problem(host, message, "warning")
        copied = {place.at("header", "key").text.lower() for place in host.at("response_headers_to_add").items()}
        missing = [name for name in (*COPIED_HEADERS, PATH_HEADER) if name not in copied]
        if missing:
            message = f"response_headers_to_add lacks {', '.join(missing)}, so clients do not see the decision"
            yield pair.file.problem(host.at("response_headers_to_add"), message, "warning")


def _routes_work(pair: Pair) -> Iterator[Problem]:
    if pair.manager.at("rds"):
        yield pair.file.problem(pair.manager.at("rds"), "routes that Envoy gets at run time are not checked", "warning")
        return
    hosts = pair.hosts
    for path in (endpoint.value for endpoint in Endpoint):
        routes = [(host, route) for host in hosts if (route := first_route(host, path))]
        if not routes:
            yield pair.file.problem(pair.manager.at("route_config", "virtual_hosts"), f"no route takes {path}")
        for host, route in routes:
            yield from _route_works(pair, host, route, path)


def _route_works(pair: Pair, host: Place, route: Place, path: str) -> Iterator[Problem]:
    """The first route for a path must let the router choose the cluster."""
    action, (level, settings) = route.at("route"), pair.filter_settings(route, host)
    if settings.at("disabled").value is True:
        message = f"takes {path} first and disables the router; put a route for {path} before it"
        yield pair.file.problem(level, message)
    if action.at("cluster_header").text.lower() != CLUSTER_HEADER:
        yield pair.file.problem(action, f"takes {path} and needs 'cluster_header: {CLUSTER_HEADER}'")
    if action.at("timeout").seconds != 0:
        yield pair.file.problem(action, f"takes {path} and needs 'timeout: 0s'; Envoy's default of 15 s would cut long answers")
    idle = action.at("idle_timeout") or pair.manager.at("stream_idle_timeout")
    if idle.seconds and idle.seconds < _MIN_IDLE_S:
        message = f"cuts answers to {path} whose first token takes longer than {idle.seconds:g} s"
        yield pair.file.problem(idle, message, "warning")


RULES: tuple[Callable[[Pair], Iterator[Problem]], ...] = (
    _clusters_exist,
    _workers_have_endpoints,
    _router_cluster_works,
    _modes_work,
    _answers_are_heard,
    _timeouts_fit,
    _waiting_fits,
    _headers_may_be_set,
    _clients_cannot_choose,
    _answers_show_the_decision,
    _routes_work,
    *guardcheck.RULES,
    *limitcheck.RULES,
    *sharecheck.RULES,
)
"""One function for each thing to check."""


def _summary(pair: Pair) -> list[str]:
    clusters = pair.file.clusters()
    host, port = socket_of(pair.listener.at("address"))
    lines = [f"clients -> {host}:{port}"]
    for model in pair.config.models.values():
        endpoints = endpoints_of(clusters[model.cluster]) if model.cluster in clusters else []
        places = ", ".join(_written(*endpoint) for endpoint in endpoints) or "nowhere"
        mark = "  (default)" if model is pair.config.default_model else ""
        lines.append(f"{model.name} -> cluster {model.cluster} -> {places}{mark}")
    served = f"the cluster {pair.config.default_model.cluster} serves" if pair.is_fail_open else "clients get an error"
    return [*lines, *guardcheck.summary(pair), cache_summary(pair.config.cache), f"while the router is down: {served}"]
