"""`semantic-router check` knows what a guarded setup lacks: ways to bypass the router, filters in the wrong order, open ports."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.envoy.check import check
from router.errors import Problem
from tests.contract.test_check_findings import CONFIG, problems, without_envoy

__all__ = ["without_envoy"]
pytestmark = pytest.mark.usefixtures("without_envoy")

_SIGNALS = CONFIG[CONFIG.index("signals:") : CONFIG.index("default:")]
_GUARD = (
    _SIGNALS.replace(" } }\n", " }, keywords: { bad: { words: [bad] } } }\n")
    + "rules:\n- { name: guard, when: { keywords: bad }, "
)
OPEN = CONFIG
GUARDED = CONFIG.replace(_SIGNALS, _GUARD + "block: {} }\n")
STRICT = CONFIG.replace(_SIGNALS, _GUARD + "block: { fail_closed: true } }\n")
CACHING = CONFIG + "semantic_cache: { enabled: true, backend_type: memory }\n"
SWITCHED = ("numerator: 0 }", "numerator: 100 }")
CLOSED = ("failure_mode_allow: true", "failure_mode_allow: false")
_UNREAD = (
    "typed_per_filter_config: { envoy.filters.http.ext_proc: { "
    '"@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute, '
)


def only(found: list[Problem]) -> Problem:
    """The single problem."""
    assert len(found) == 1, "\n".join(map(str, found))
    return found[0]


def route(text: str) -> tuple[str, str]:
    """A change that puts a route above all others."""
    return "              routes:\n", f"              routes:\n              - {text}\n"


@pytest.mark.parametrize(("config", "severity"), [(GUARDED, "warning"), (STRICT, "error")])
def test_a_guard_in_front_of_the_shipped_file(tmp_path: Path, config: str, severity: str) -> None:
    """Other paths bypass the guard. Where the rule fails closed, a dead router opens it too."""
    found = problems(tmp_path, config=config)
    assert {problem.severity for problem in found} == {severity}
    assert any("GUARDED, numerator: 100" in problem.message for problem in found)
    assert any("failure_mode_allow" in problem.path for problem in found) == (severity == "error")
    assert "guarded by guard: other paths pass unread" in check(tmp_path / "config.yaml", tmp_path / "envoy.yaml").summary


def test_a_guard_with_all_that_it_needs(tmp_path: Path) -> None:
    """Nothing is reported, and the summary says that the setup is guarded."""
    assert problems(tmp_path, SWITCHED, config=GUARDED) == []
    assert problems(tmp_path, SWITCHED, CLOSED, config=STRICT) == []
    assert "guarded by guard: other paths are refused" in check(tmp_path / "config.yaml", tmp_path / "envoy.yaml").summary


def test_an_envoy_without_the_last_route_needs_no_switch(tmp_path: Path) -> None:
    """Envoy refuses what no route takes."""
    last = (
        "- match: { prefix: / }\n                route:",
        "- match: { path: /metrics, headers: *reading }\n                route:",
    )
    upgrades = ("                  upgrade_configs: [ { upgrade_type: websocket } ]\n", "")
    assert problems(tmp_path, last, upgrades, config=GUARDED) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (route("{ match: { path: /v1/responses }, route: { cluster: small } }"), "forwards /v1/responses unread"),
        (route("{ match: { prefix: /v1/audio/ }, route: { cluster: small } }"), "forwards /v1/audio/ unread"),
        (route("{ match: { safe_regex: { regex: '/v1/messages.*' } }, route: { cluster: small } }"), "what it matches"),
        (("{ prefix: /v1/models/, headers: *reading }", "{ prefix: /v1/models/ }"), "forwards /v1/models/ unread"),
        (
            route(
                "{ match: { path: /v1/chat/completions, headers: [ { name: x-beta, present_match: true } ] },"
                f" route: {{ cluster_header: x-upstream-cluster }}, {_UNREAD}disabled: true }} }} }}"
            ),
            "from some clients",
        ),
        (
            route(
                "{ match: { path: /v1/chat/completions, headers: [ { name: x-beta, present_match: true } ] },"
                " route: { cluster_header: x-upstream-cluster, upgrade_configs: [ { upgrade_type: websocket } ] } }"
            ),
            "another protocol",
        ),
        (
            (
                "static_resources:\n  listeners:\n",
                "static_resources:\n  listeners:\n  - name: side\n    address: { pipe: { path: /a } }\n"
                "    filter_chains: [ { filters: [ { name: tcp, typed_config: {"
                ' "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy,'
                " stat_prefix: side, cluster: large } } ] } ]\n",
            ),
            "the cluster 'large' unread",
        ),
        (
            (
                "static_resources:\n  listeners:\n",
                "static_resources:\n  listeners:\n  - name: side\n    address: { pipe: { path: /a } }\n"
                "    filter_chains: [ { filters: [ { name: http, typed_config: {"
                ' "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager,'
                " stat_prefix: side, route_config: { virtual_hosts: [ { name: a, domains: [ '*' ], routes: ["
                " { match: { prefix: / }, route: { cluster: large } } ] } ] }, http_filters: [ { name: router, typed_config: {"
                ' "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router } } ] } } ] } ]\n',
            ),
            "has no ext_proc filter",
        ),
    ],
)
def test_another_way_to_a_model(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    """It is reported at its place if a rule blocks, and not otherwise."""
    told = [problem for problem in problems(tmp_path, SWITCHED, change, config=GUARDED) if said in problem.message]
    assert only(told).severity == "warning"
    assert not [problem for problem in problems(tmp_path, change) if "blocks" in problem.message]


@pytest.mark.parametrize(
    "text",
    [
        "{ match: { path: /version }, route: { cluster: small } }",
        "{ match: { prefix: /docs, headers: [ { name: ':method', string_match: { exact: GET } } ] }, route: { cluster: small } }",
        "{ match: { prefix: /old }, redirect: { path_redirect: /v1/models } }",
    ],
)
def test_a_path_that_takes_no_prompts_may_be_opened(tmp_path: Path, text: str) -> None:
    """Nothing is reported."""
    assert problems(tmp_path, SWITCHED, CLOSED, route(text), config=STRICT) == []


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("normalize_path", ("normalize_path: true", "normalize_path: false")),
        ("merge_slashes", ("merge_slashes: true", "#")),
        ("path_with_escaped_slashes_action", ("slashes_action: UNESCAPE_AND_FORWARD", "slashes_action: KEEP_UNCHANGED")),
        ("path_with_escaped_slashes_action", ("path_with_escaped_slashes_action:", "#")),
    ],
)
def test_a_path_that_envoy_and_the_models_read_differently(tmp_path: Path, key: str, change: tuple[str, str]) -> None:
    """This is an error if a rule blocks. Otherwise a request only misses its rules."""
    for config, severity in ((OPEN, "warning"), (GUARDED, "error")):
        problem = only([each for each in problems(tmp_path, SWITCHED, change, config=config) if each.path.endswith(key)])
        assert problem.severity == severity


def test_a_route_that_fails_open_where_the_filter_does_not(tmp_path: Path) -> None:
    """The route's setting counts."""
    override = (
        "timeout: 0s, idle_timeout: 600s }\n",
        f"timeout: 0s }}\n                {_UNREAD}overrides: {{ failure_mode_allow: true }} }} }}\n",
    )
    problem = only(problems(tmp_path, SWITCHED, CLOSED, override, config=STRICT))
    assert (problem.severity, problem.path.rpartition(".")[2]) == ("error", "failure_mode_allow")


def test_a_route_that_keeps_the_body_from_the_router(tmp_path: Path) -> None:
    """The body would pass any guard."""
    mode = "overrides: { processing_mode: { request_body_mode: NONE } }"
    override = ("timeout: 0s, idle_timeout: 600s }\n", f"timeout: 0s }}\n                {_UNREAD}{mode} }} }}\n")
    assert only(problems(tmp_path, override)).severity == "error"


_EXTENSION = "type.googleapis.com/envoy.extensions"
_KINDS = {
    "rbac": "rbac.v3.RBAC }",
    "ext_authz": "ext_authz.v3.ExtAuthz }",
    "jwt": "jwt_authn.v3.JwtAuthentication }",
    "api_key": "api_key_auth.v3.ApiKeyAuth }",
    "basic": "basic_auth.v3.BasicAuth }",
    "oauth2": "oauth2.v3.OAuth2 }",
}
_ROUTER = "          - name: envoy.filters.http.router\n"
_EXT = "          - name: envoy.filters.http.ext_proc\n            typed_config"


def _filter(kind: str) -> str:
    return f'          - {{ name: {kind}, typed_config: {{ "@type": {_EXTENSION}.filters.http.{_KINDS[kind]} }}\n'


def behind_the_router(kind: str) -> tuple[str, str]:
    """A change that puts a filter between ours and the last."""
    return _ROUTER, _filter(kind) + _ROUTER


@pytest.mark.parametrize("kind", _KINDS)
def test_who_may_ask_is_decided_behind_the_router(tmp_path: Path, kind: str) -> None:
    """A hit would be given to those who may not ask. Without a cache it is only wasted work. Before the router such a filter is
    right.
    """
    for config, severity in ((CACHING, "error"), (OPEN, "warning")):
        problem = only(problems(tmp_path, behind_the_router(kind), config=config))
        assert (problem.severity, "behind ext_proc" in problem.message) == (severity, True)
    assert problems(tmp_path, (_EXT, _filter(kind) + _EXT), config=CACHING) == []


def test_filters_behind_the_router_filter(tmp_path: Path) -> None:
    """They never run. The filter is named at its line."""
    chain = (
        _EXT,
        _ROUTER
        + '            typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }\n'
        + _EXT,
    )
    found = problems(tmp_path, chain)
    assert any("envoy.filters.http.ext_proc is behind" in problem.message and problem.line > 1 for problem in found)
    none = ("filters.http.router.v3.Router", "filters.http.rbac.v3.RBAC")
    assert any("does not end with" in problem.message for problem in problems(tmp_path, none))


def test_a_cache_that_everybody_shares(tmp_path: Path) -> None:
    """This includes clients whose key the models would refuse."""
    config = CONFIG + "semantic_cache:\n  enabled: true\n  backend_type: memory\n  scope: global\n"
    problem = only(problems(tmp_path, config=config))
    assert (problem.severity, problem.path, problem.line) == ("warning", "semantic_cache.scope", config.count("\n"))


def test_tenants_that_name_themselves(tmp_path: Path) -> None:
    """A header that Envoy neither sets nor removes is the client's own claim."""
    config = CONFIG + "semantic_cache:\n  enabled: true\n  backend_type: memory\n  scope: { header: X-Tenant-Id }\n"
    problem = only(problems(tmp_path, config=config))
    assert (problem.severity, problem.path, problem.line) == ("warning", "semantic_cache.scope.header", config.count("\n"))
    removed = (
        "              mutations:\n",
        "              mutations:\n              - remove: x-tenant-id\n",
    )
    assert not problems(tmp_path, removed, config=config)


SHARING = (
    CACHING
    + """
rules:
- name: house
  when: { header: { name: x-tier, equals: gold } }
  model: large
  system_prompt: { text: Never name competitors. }
  cache: { ttl_seconds: 60 }
"""
)
APART = ("  cache: { ttl_seconds: 60 }\n", "  system_prompt: { text: Never name competitors. }\n")


@pytest.mark.parametrize(
    ("removed", "said"),
    [
        ((), "adds a system prompt"),
        (APART[1:], "takes requests by the header x-tier"),
        (
            ("  system_prompt: { text: Never name competitors. }\n", "header: { name: x-tier, equals: gold }"),
            "takes requests by the signal pii",
        ),
    ],
)
def test_answers_shaped_by_what_clients_do_not_see(tmp_path: Path, removed: tuple[str, ...], said: str) -> None:
    """The rule is named with the key that settles it, unless it says `share` itself, or shares by model, or is not cached."""
    config = SHARING
    for text in removed:
        config = config.replace(text, "pii: true" if text.startswith("header") else "")
    problem = only(problems(tmp_path, config=config))
    assert (problem.severity, problem.path) == ("warning", "rules[0]")
    assert said in problem.message
    assert "`share: model`" in problem.message
    for settled in ("share: all", "share: model", "share: decision", "enabled: false"):
        assert problems(tmp_path, config=config.replace("ttl_seconds: 60", settled)) == []
    assert problems(tmp_path, config=config.replace("backend_type: memory", "backend_type: memory, share: model")) == []
    assert problems(tmp_path, config=config.replace(CACHING, CONFIG).replace("  cache: { ttl_seconds: 60 }\n", "")) == []


def test_the_scopes_own_header_tells_clients_apart_anyway(tmp_path: Path) -> None:
    """And the default may add a system prompt as well as a rule."""
    config = SHARING.replace(APART[1], "").replace("x-tier", "authorization")
    assert problems(tmp_path, config=config) == []
    config = CACHING.replace("default: { model: small }", "default: { model: small, system_prompt: { text: Be formal. } }")
    problem = only(problems(tmp_path, config=config))
    assert (problem.path, "adds a system prompt" in problem.message) == ("default", True)


def test_admin_ports_that_others_reach(tmp_path: Path) -> None:
    """Both ports are reported, each in its own file."""
    problem = only(problems(tmp_path, config=CONFIG + 'admin: { address: "0.0.0.0:8802" }\n'))
    assert (problem.severity, problem.path) == ("warning", "admin.address")
    problem = only(problems(tmp_path, ("address: 127.0.0.1, port_value: 9901", "address: 0.0.0.0, port_value: 9901")))
    assert (problem.severity, problem.path) == ("warning", "admin.address")
