"""Checks of safety: paths that bypass the router, the order of filters, the addresses of the two admin ports.

With a blocking rule, some findings are errors that are only warnings without one.
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
"""Paths on which vLLM accepts no prompt, with any method."""
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
    """The filter envoy.filters.http.router ends every chain, because filters behind it never run."""
    for _, manager in file.managers():
        filters = list(manager.at("http_filters").items())
        kinds = [place.at("typed_config", "@type").text for place in filters]
        ends = [index for index, kind in enumerate(kinds) if kind.endswith(".router.v3.Router")]
        if not ends:
            message = "does not end with envoy.filters.http.router, so Envoy would forward nothing; add it as the last filter"
            yield file.problem(manager.at("http_filters"), message)
            continue
        for place, kind in zip(filters[ends[0] + 1 :], kinds[ends[0] + 1 :], strict=True):
            name = place.at("name").text or kind
            message = f"{name} is behind envoy.filters.http.router, where it never runs; move it above that filter"
            yield file.problem(place, message)


# -- both files ------------------------------------------------------------------------------------------------------


def authorization_comes_first(pair: Pair) -> Iterator[Problem]:
    """Filters that authorize clients come before the router, because the router answers some requests itself."""
    filters = list(pair.manager.at("http_filters").items())
    ours = next(index for index, place in enumerate(filters) if place.at("typed_config").path == pair.ext_proc.path)
    for place in filters[ours + 1 :]:
        kind = place.at("typed_config", "@type").text.removeprefix(_FILTERS)
        if kind not in _AUTHORIZATION:
            continue
        if pair.config.cache.enabled:
            message = "cached answers are served before it runs, also to clients that it would refuse"
            severity = "error"
        else:
            message, severity = "the router works for clients that it would refuse, and a cache would answer them", "warning"
        message = f"{_AUTHORIZATION[kind]} is behind ext_proc: {message}; move it above {pair.filter_name}"
        yield pair.file.problem(place, message, severity)


def fail_closed_is_closed(pair: Pair) -> Iterator[Problem]:
    """With a rule that says fail_closed, requests must not pass while the router is down."""
    if not pair.strict_guards:
        return
    says = f"config's rule '{pair.strict_guards[0].name}' says fail_closed, but with failure_mode_allow requests pass unread"
    remedy = "set it to false (clients then get a 503), or remove fail_closed"
    if pair.is_fail_open:
        yield pair.file.problem(
            pair.ext_proc.at("failure_mode_allow"), f"{says} while the router is down or slow or Envoy is overloaded; {remedy}"
        )
    told = set()
    for host in pair.virtual_hosts:
        for route in host.at("routes").items():
            place = pair.filter_settings(route, host)[1].at("overrides", "failure_mode_allow")
            if place.value is True and place.path not in told and _is_read(route):
                told.add(place.path)
                yield pair.file.problem(place, f"{says} on this route; {remedy}")


def paths_are_normalised(pair: Pair) -> Iterator[Problem]:
    """Envoy normalises paths as the models do, so that both see the same path."""
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
        message = f"{what}: a chat sent to {example} takes another route in Envoy, but the models serve it"
        yield pair.file.problem(place, message, "error" if pair.guards else "warning")


def what_is_not_read_is_refused(pair: Pair) -> Iterator[Problem]:
    """With a blocking rule, nothing reaches a model unread."""
    if not pair.guards:
        return
    severity = "error" if pair.strict_guards else "warning"
    guard = pair.guards[0].name
    for place, what in _ways_round(pair):
        yield pair.file.problem(place, f"config's rule '{guard}' blocks, and this {what}", severity)


def _ways_round(pair: Pair) -> Iterator[tuple[Place, str]]:
    """Every place where prompts bypass the router, with a description and the remedy."""
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
    """Whether the router reads all requests of a route."""
    return route.at("match", "path").text in _ENDPOINTS


def _passing(route: Place) -> str:
    match = route.at("match")
    shown = match.at("prefix").text or match.at("path").text or match.at("path_separated_prefix").text
    what = f"forwards {shown or 'what it matches'} unread"
    if may_take(match, "/v1/responses") and may_take(match, "/invocations"):
        what = "forwards every other path unread, such as /v1/responses, /v1/messages and /invocations"
        return f"{what}; refuse them in a route above (in our envoy.yaml: GUARDED, numerator: 100)"
    return f"{what}; remove it, limit it to GET, or replace it by exact paths that accept no prompts"


def _unread_here(pair: Pair, route: Place, host: Place) -> Iterator[tuple[Place, str]]:
    """A route for a path that the router reads which disables the router or changes the protocol."""
    level, settings = pair.filter_settings(route, host)
    path = route.at("match", "path").text
    if settings.at("disabled").value is True and first_route(host, path) != route:
        yield level, f"takes {path} from some clients and disables the router; remove it"
    if route.at("route", "upgrade_configs"):
        yield route.at("route", "upgrade_configs"), f"allows {path} to switch to another protocol; remove it"


def _other_ways(pair: Pair) -> Iterator[tuple[Place, str]]:
    """Listeners that lead to the models without our filter."""
    models = {model.cluster for model in pair.config.models.values()}
    for listener in pair.file.listeners():
        for chain in listener.at("filter_chains").items():
            for place in chain.at("filters").items():
                config = place.at("typed_config")
                if config.at("@type").text.endswith(".TcpProxy") and config.at("cluster").text in models:
                    yield config, f"forwards bytes to the cluster '{config.at('cluster').text}' unread; remove it"
    for _, manager in pair.file.managers():
        if any(place.at("typed_config", "grpc_service") for place in manager.at("http_filters").items()):
            continue
        for host in manager.at("route_config", "virtual_hosts").items():
            for route in host.at("routes").items():
                if route.at("route", "cluster").text in models or route.at("route", "cluster_header"):
                    yield (
                        route,
                        "leads to a model, but its connection manager has no ext_proc filter; add the filter or remove the route",
                    )


def sharing_is_meant(pair: Pair) -> Iterator[Problem]:
    """A global cache also answers clients whose key the models would refuse."""
    place = pair.settings.top.at("semantic_cache", "scope")
    if pair.config.cache.enabled and place.text == "global":
        message = (
            "global serves stored answers to everybody, also to clients whose missing or wrong key the models would refuse; "
            "let Envoy check keys before ext_proc, or name a header instead"
        )
        yield pair.settings.problem(place, message, "warning")


def tenants_are_not_chosen(pair: Pair) -> Iterator[Problem]:
    """A client must not choose whose answers it gets. `Authorization` is a secret; any other header could be forged."""
    name = pair.config.cache.scope_header
    if (
        not pair.config.cache.enabled
        or name in ("", AUTHORIZATION)
        or any(name in place.text.lower() for place in pair.file.top.texts())
    ):
        return
    message = (
        f"nothing in Envoy's file sets or removes {name}, so clients choose whose answers they get; let Envoy set it "
        "(jwt_authn's claim_to_headers, ext_authz, a header mutation), or a gateway that clients cannot bypass"
    )
    yield pair.settings.problem(pair.settings.top.at("semantic_cache", "scope", "header"), message, "warning")


def admin_ports_are_private(pair: Pair) -> Iterator[Problem]:
    """The two admin ports listen on loopback, because neither asks for a password."""
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
    """One line if a rule blocks: what happens to requests for other paths."""
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
