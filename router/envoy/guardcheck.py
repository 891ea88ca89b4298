"""What `semantic-router check` says of safety: ways round the router, the order of filters, whom the two admin ports answer.

"Guarded" is a configuration with a rule that blocks. What is a matter of taste without one is a hole with one.
"""

from __future__ import annotations

from collections.abc import Iterator

from router.core.headers import AUTHORIZATION
from router.core.types import Endpoint
from router.envoy.file import EnvoyFile, Place, socket_of
from router.envoy.pair import Pair, first_route, may_take, refuses_the_rest, takes_prompts
from router.errors import Problem

_ENDPOINTS = frozenset(endpoint.value for endpoint in Endpoint)
_HARMLESS = frozenset({"/v1/models", "/health", "/ping", "/version", "/metrics"})
"""Paths on which vLLM takes no prompt, by whatever method."""
_SLASH_ACTIONS = ("UNESCAPE_AND_FORWARD", "UNESCAPE_AND_REDIRECT", "REJECT_REQUEST")
_AUTHORIZATION = {
    "rbac.v3.RBAC": "RBAC",
    "ext_authz.v3.ExtAuthz": "ext_authz",
    "jwt_authn.v3.JwtAuthentication": "jwt_authn",
    "api_key_auth.v3.ApiKeyAuth": "api_key_auth",
    "basic_auth.v3.BasicAuth": "basic_auth",
    "oauth2.v3.OAuth2": "oauth2",
}
_FILTERS = "type.googleapis.com/envoy.extensions.filters.http."
_LOOPBACK = ("127.", "localhost", "[::1]", "::1", "unix:")


# -- Envoy's file alone ----------------------------------------------------------------------------------------------


def filters_are_in_order(file: EnvoyFile) -> Iterator[Problem]:
    """The router filter ends every chain: what stands behind it never runs."""
    for _, manager in file.managers():
        filters = list(manager.at("http_filters").items())
        kinds = [place.at("typed_config", "@type").text for place in filters]
        ends = [index for index, kind in enumerate(kinds) if kind.endswith(".router.v3.Router")]
        if not ends:
            message = "does not end with envoy.filters.http.router, so nothing would be sent anywhere; add it as the last filter"
            yield file.problem(manager.at("http_filters"), message)
            continue
        for place, kind in zip(filters[ends[0] + 1 :], kinds[ends[0] + 1 :], strict=True):
            name = place.at("name").text or kind
            message = f"{name} stands behind envoy.filters.http.router, where it never runs; move it above that filter"
            yield file.problem(place, message)


# -- both files ------------------------------------------------------------------------------------------------------


def authorization_comes_first(pair: Pair) -> Iterator[Problem]:
    """The router answers by itself (from the cache, lists, errors): what decides who may ask stands before it."""
    filters = list(pair.manager.at("http_filters").items())
    ours = next(index for index, place in enumerate(filters) if place.at("typed_config").path == pair.ext_proc.path)
    for place in filters[ours + 1 :]:
        kind = place.at("typed_config", "@type").text.removeprefix(_FILTERS)
        if kind not in _AUTHORIZATION:
            continue
        if pair.config.cache.enabled:
            message = "a cached answer is given before it is asked, also to clients that it would refuse"
            severity = "error"
        else:
            message, severity = "the router works for clients that it would refuse, and would give them cached answers", "warning"
        message = f"{_AUTHORIZATION[kind]} stands behind ext_proc: {message}; move it above {pair.filter_name}"
        yield pair.file.problem(place, message, severity)


def fail_closed_is_closed(pair: Pair) -> Iterator[Problem]:
    """A rule that must not be passed unseen is not passed while the router is down, either."""
    if not pair.strict_guards:
        return
    says = f"config's rule '{pair.strict_guards[0].name}' says fail_closed, yet with failure_mode_allow requests pass unread"
    remedy = "set it to false (clients then get a 503), or take fail_closed away"
    if pair.is_fail_open:
        yield pair.file.problem(
            pair.ext_proc.at("failure_mode_allow"), f"{says} while the router is down or slow, or Envoy overloaded; {remedy}"
        )
    told = set()
    for host in pair.virtual_hosts:
        for route in host.at("routes").items():
            place = pair.filter_settings(route, host)[1].at("overrides", "failure_mode_allow")
            if place.value is True and place.path not in told and _is_read(route):
                told.add(place.path)
                yield pair.file.problem(place, f"{says} on this route; {remedy}")


def paths_are_normalised(pair: Pair) -> Iterator[Problem]:
    """Envoy matches the path that the models will serve: they decode it."""
    manager = pair.manager
    wrong = []
    if manager.at("normalize_path").value is not True:
        wrong.append((manager.at("normalize_path"), "normalize_path must be true", "/v1/chat/complet%69ons"))
    if manager.at("merge_slashes").value is not True:
        wrong.append((manager.at("merge_slashes"), "merge_slashes must be true", "//v1/chat/completions"))
    action = manager.at("path_with_escaped_slashes_action")
    if action.text not in _SLASH_ACTIONS:
        wrong.append((action, "path_with_escaped_slashes_action must be UNESCAPE_AND_FORWARD", "/v1/chat%2Fcompletions"))
    for place, what, example in wrong:
        message = f"{what}: as {example} a chat takes another route here, and the models serve it all the same"
        yield pair.file.problem(place, message, "error" if pair.guards else "warning")


def what_is_not_read_is_refused(pair: Pair) -> Iterator[Problem]:
    """Nothing reaches a model unread where a rule blocks."""
    if not pair.guards:
        return
    severity = "error" if pair.strict_guards else "warning"
    guard = pair.guards[0].name
    for place, what in _ways_round(pair):
        yield pair.file.problem(place, f"config's rule '{guard}' blocks, and this {what}", severity)


def _ways_round(pair: Pair) -> Iterator[tuple[Place, str]]:
    """Every place where a prompt passes that the router does not read, with what passes there and the remedy."""
    for host in pair.virtual_hosts:
        for route in host.at("routes").items():
            if refuses_the_rest(route):
                break
            if not route.at("route") or not takes_prompts(route):
                continue
            if _is_read(route):
                yield from _unread_here(pair, route, host)
            elif route.at("match", "path").text not in _HARMLESS:
                yield route, _passing(route)
    yield from _other_ways(pair)


def _is_read(route: Place) -> bool:
    """Whether all that a route takes is for the router to read."""
    return route.at("match", "path").text in _ENDPOINTS


def _passing(route: Place) -> str:
    match = route.at("match")
    shown = match.at("prefix").text or match.at("path").text or match.at("path_separated_prefix").text
    what = f"passes {shown or 'what it matches'} on unread"
    if may_take(match, "/v1/responses") and may_take(match, "/invocations"):
        what = "passes every other path on unread, such as /v1/responses, /v1/messages and /invocations"
        return f"{what}; refuse them in a route above (in our envoy.yaml: GUARDED, numerator: 100)"
    return f"{what}; remove it, limit it to GET, or replace it by the exact path of something that takes no prompts"


def _unread_here(pair: Pair, route: Place, host: Place) -> Iterator[tuple[Place, str]]:
    """A route of a path that the router reads, for some clients with the router switched off."""
    level, settings = pair.filter_settings(route, host)
    path = route.at("match", "path").text
    if settings.at("disabled").value is True and first_route(host, path) != route:
        yield level, f"takes {path} of some clients and has the router disabled; remove it"
    if route.at("route", "upgrade_configs"):
        yield route.at("route", "upgrade_configs"), f"lets {path} become another protocol; remove it"


def _other_ways(pair: Pair) -> Iterator[tuple[Place, str]]:
    """Listeners that lead to the models past our filter."""
    models = {model.cluster for model in pair.config.models.values()}
    for listener in pair.file.listeners():
        for chain in listener.at("filter_chains").items():
            for place in chain.at("filters").items():
                config = place.at("typed_config")
                if config.at("@type").text.endswith(".TcpProxy") and config.at("cluster").text in models:
                    yield config, f"passes bytes on to the cluster '{config.at('cluster').text}' unread; remove it"
    for _, manager in pair.file.managers():
        if any(place.at("typed_config", "grpc_service") for place in manager.at("http_filters").items()):
            continue
        for host in manager.at("route_config", "virtual_hosts").items():
            for route in host.at("routes").items():
                if route.at("route", "cluster").text in models or route.at("route", "cluster_header"):
                    yield (
                        route,
                        "leads to a model, and this connection manager has no ext_proc filter; add it, or remove the route",
                    )


def sharing_is_meant(pair: Pair) -> Iterator[Problem]:
    """Answers for everybody are answers for those whose key the models would refuse."""
    place = pair.settings.top.at("semantic_cache", "scope")
    if pair.config.cache.enabled and place.text == "global":
        message = (
            "global gives stored answers to everybody, also to clients without a key, or with a wrong one, that the models would"
            " refuse; let Envoy check keys before ext_proc, or name a header in its place"
        )
        yield pair.settings.problem(place, message, "warning")


def tenants_are_not_chosen(pair: Pair) -> Iterator[Problem]:
    """Whose answers a client gets is not for the client to say. `Authorization` is a secret; other headers are names."""
    name = pair.config.cache.scope_header
    if (
        not pair.config.cache.enabled
        or name in ("", AUTHORIZATION)
        or any(name in place.text.lower() for place in pair.file.top.texts())
    ):
        return
    message = (
        f"nothing in Envoy's file sets or removes {name}, so clients say themselves whose answers they get; let Envoy set"
        " it (jwt_authn's claim_to_headers, ext_authz, a header mutation), or a gateway that clients cannot go round"
    )
    yield pair.settings.problem(pair.settings.top.at("semantic_cache", "scope", "header"), message, "warning")


def admin_ports_are_private(pair: Pair) -> Iterator[Problem]:
    """Neither of the two asks who is there."""
    place = pair.settings.top.at("admin", "address")
    if pair.config.admin.enabled and not pair.config.admin.address.startswith(_LOOPBACK):
        message = "the router's admin port asks for no password and can empty the cache; listen on 127.0.0.1"
        yield pair.settings.problem(place, message, "warning")
    address = pair.file.top.at("admin", "address")
    host, _ = socket_of(address)
    if host and not host.startswith(_LOOPBACK):
        message = "Envoy's admin port asks for no password and can stop Envoy; listen on 127.0.0.1"
        yield pair.file.problem(address, message, "warning")


def summary(pair: Pair) -> Iterator[str]:
    """One line where a rule blocks: what becomes of requests that it is not asked of."""
    if pair.guards:
        rest = "pass unread" if list(what_is_not_read_is_refused(pair)) else "are refused"
        yield f"guarded by {', '.join(rule.name for rule in pair.guards)}: other paths {rest}"


RULES = (
    authorization_comes_first,
    fail_closed_is_closed,
    paths_are_normalised,
    what_is_not_read_is_refused,
    sharing_is_meant,
    tenants_are_not_chosen,
    admin_ports_are_private,
)
