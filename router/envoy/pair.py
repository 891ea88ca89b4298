"""The router's and Envoy's configuration together, as the rules of `semantic-router check` see them. Contains no rules."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from router.config.load import Config
from router.core.headers import METHOD
from router.core.policy import Rule
from router.core.types import Endpoint
from router.envoy.file import EnvoyFile, Place

READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that carry no prompt."""
_METHODS = (*READING_METHODS, "POST", "PUT", "PATCH", "DELETE", "post", "X")
_NARROWER = ("headers", "query_parameters", "grpc", "dynamic_metadata", "filter_state", "tls_context", "cookies")
"""Parts of a match that restrict it to some requests of a path."""
_DENOMINATORS = {"": 100, "HUNDRED": 100, "TEN_THOUSAND": 10_000, "MILLION": 1_000_000}


@dataclass(frozen=True, slots=True)
class Pair:
    """Both configurations, and the relevant places in Envoy's."""

    config: Config
    settings: EnvoyFile
    """The router's file, for problems at one of its lines."""
    file: EnvoyFile
    listener: Place
    manager: Place
    """The HTTP connection manager that has our filter."""
    ext_proc: Place
    """The filter's configuration."""
    filter_name: str
    """The name by which routes configure the filter."""

    @property
    def router_cluster(self) -> str:
        """The cluster of the router."""
        return self.ext_proc.at("grpc_service", "envoy_grpc", "cluster_name").text

    @property
    def reads_answers(self) -> bool:
        """Whether answers pass through the router, for their token counts or for the cache."""
        return self.config.telemetry.track_token_usage or self.config.cache.enabled

    @property
    def is_fail_open(self) -> bool:
        """Whether requests go to the default cluster when the router does not answer."""
        return self.ext_proc.at("failure_mode_allow").value is True

    @property
    def guards(self) -> list[Rule]:
        """The blocking rules. With one of them, nothing may bypass the router."""
        return [rule for rule in self.config.policy.rules if rule.block]

    @property
    def strict_guards(self) -> list[Rule]:
        """The blocking rules that say `fail_closed`."""
        return [rule for rule in self.guards if rule.block and rule.block.fails_closed]

    @property
    def virtual_hosts(self) -> list[Place]:
        """The manager's virtual hosts that are in the file."""
        return list(self.manager.at("route_config", "virtual_hosts").items())

    @property
    def hosts(self) -> list[Place]:
        """The virtual hosts with a route for an endpoint that the router reads."""
        return [host for host in self.virtual_hosts if any(first_route(host, endpoint.value) for endpoint in Endpoint)]

    def filter_settings(self, route: Place, host: Place) -> tuple[Place, Place]:
        """Our filter's settings for one route, and the level that has them: the route, its host, or all routes."""
        for level in (route, host, self.manager.at("route_config")):
            if said := level.at("typed_per_filter_config", self.filter_name):
                return level, said
        return route, route.at("typed_per_filter_config", self.filter_name)

    @property
    def processing_modes(self) -> list[Place]:
        """Every processing mode that applies to requests that the router reads."""
        routes = [(host, route) for host in self.hosts for path in Endpoint if (route := first_route(host, path.value))]
        modes = [self._processing_mode(route, host) for host, route in routes] or [self.ext_proc.at("processing_mode")]
        return list({mode.path: mode for mode in modes}.values())

    def _processing_mode(self, route: Place, host: Place) -> Place:
        for level in (route, host, self.manager.at("route_config")):
            if said := level.at("typed_per_filter_config", self.filter_name, "overrides", "processing_mode"):
                return said
        return self.ext_proc.at("processing_mode")


# -- matches ---------------------------------------------------------------------------------------------------------


def first_route(host: Place, path: str) -> Place | None:
    """A virtual host's first route that takes every POST to a path."""
    return next((place for place in host.at("routes").items() if takes(place.at("match"), path)), None)


def takes(match: Place, path: str) -> bool:
    """Whether a match takes every POST to a path."""
    return not is_narrow(match) and may_take(match, path)


def may_take(match: Place, path: str) -> bool:
    """Whether a match takes some requests to a path."""
    prefix, exact, regex = match.at("prefix"), match.at("path"), match.at("safe_regex", "regex")
    if match.at("path_separated_prefix"):
        return f"{path}/".startswith(f"{match.at('path_separated_prefix').text}/")
    return bool(
        (prefix and path.startswith(prefix.text)) or (exact and exact.text == path) or (regex and matches(regex.text, path))
    )


def is_narrow(match: Place) -> bool:
    """Whether a match depends on more than the path, so that some requests go to the next route."""
    share = match.at("runtime_fraction", "default_value")
    whole = _DENOMINATORS.get(share.at("denominator").text, 100)
    is_partial = bool(match.at("runtime_fraction")) and share.at("numerator").number < whole
    return is_partial or any(match.at(part) for part in _NARROWER)


def refuses_the_rest(route: Place) -> bool:
    """Whether a route takes every request and forwards none."""
    everything = takes(route.at("match"), "/") and takes(route.at("match"), "/any/other")
    return everything and not route.at("route")


def takes_prompts(route: Place) -> bool:
    """Whether a route lets a method through that can carry a prompt. A web socket opens with GET."""
    if route.at("route", "upgrade_configs"):
        return True
    for header in route.at("match", "headers").items():
        if header.at("name").text == METHOD and header.at("invert_match").value is not True:
            return not {method for method in _METHODS if _is(header, method)} <= READING_METHODS
    return True


def _is(header: Place, value: str) -> bool:
    test = header.at("string_match")
    exact, regex = test.at("exact") or header.at("exact_match"), test.at("safe_regex", "regex")
    if exact or regex:
        return exact.text == value if exact else matches(regex.text, value)
    return True  # any other test may match


def matches(pattern: str, name: str) -> bool:
    """Whether one of Envoy's regular expressions matches a whole name."""
    try:
        return bool(pattern) and re.fullmatch(pattern, name) is not None
    except re.error:
        return True  # RE2's syntax differs from Python's; Envoy itself validates the pattern


def named(place: Place, key: str) -> Iterator[Place]:
    """Every value of a key, at any depth."""
    for name, value in place.pairs():
        if name == key:
            yield value
        yield from named(value, key)
    for item in place.items():
        yield from named(item, key)
