"""`semantic-router check` accepts the shipped envoy.yaml, and reports every single damage to it with its line and path."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from router.envoy import check as module
from router.envoy.check import check
from router.errors import ConfigError, Problem

ROOT = Path(__file__).parents[2]
ENVOY = (ROOT / "envoy/envoy.yaml").read_text(encoding="utf-8")
CONFIG = f"""
version: 1
models: {{ small: {{ cluster: small }}, large: {{ cluster: large }}, coder: {{ cluster: coder }} }}
signals: {{ encoder: {{ model_path: "{ROOT}/tests/bad_config/bundle" }} }}
default: {{ model: small }}
"""
_OPTIONS = "timeout: 0s, idle_timeout: 600s }"
_FILTER = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config"
_EXT = f"{_FILTER}.http_filters[0].typed_config"
_MODE = f"{_FILTER}.route_config.virtual_hosts[0].typed_per_filter_config.envoy.filters.http.ext_proc.overrides.processing_mode"
_HOST = f"{_FILTER}.route_config.virtual_hosts[0]"
_EARLY = f"{_FILTER}.early_header_mutation_extensions"


@pytest.fixture
def without_envoy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without Envoy, so that every problem is our own finding."""

    def find() -> str:
        raise ConfigError([Problem("", 0, "", "there is none")])

    monkeypatch.setattr(module, "find_envoy", find)


def problems(folder: Path, *changes: tuple[str, str], config: str = CONFIG) -> list[Problem]:
    """The problems of the shipped envoy.yaml after some changes, each of which must change something."""
    envoy = ENVOY
    for old, new in changes:
        assert old in envoy
        envoy = envoy.replace(old, new)
    (folder / "envoy.yaml").write_text(envoy, encoding="utf-8")
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    return check(folder / "config.yaml", folder / "envoy.yaml").problems


def told(found: list[Problem]) -> list[tuple[str, str]]:
    """Severity and path of each problem."""
    return [(problem.severity, problem.path) for problem in found]


@pytest.mark.usefixtures("without_envoy")
class TestOneDamage:
    """Changes that silently go wrong in production, and what `check` reports."""

    CASES = (
        # (the change, severity, path, part of the message)
        (("name: coder\n", "name: codr\n"), "error", "models.coder.cluster", "did you mean 'codr'"),
        (("cluster_name: ext_proc }", "cluster_name: extproc }"), "error", f"{_EXT}.grpc_service", "did you mean 'ext_proc'"),
        (("envoy_grpc: {", "google_grpc: {"), "error", f"{_EXT}.grpc_service", "envoy_grpc"),
        (("port_value: 50051", "port_value: 50061"), "error", "static_resources.clusters[0].load_assignment", "worker 0"),
        (("explicit_http_config: { http2_protocol", "explicit_http_config: { http_protocol"), "error", None, "HTTP/2"),
        (
            ("request_body_mode: BUFFERED", "request_body_mode: STREAMED"),
            "error",
            f"{_MODE}.request_body_mode",
            "",
        ),
        (
            ("request_body_mode: BUFFERED", "request_body_mode: FULL_DUPLEX_STREAMED"),
            "error",
            f"{_MODE}.request_body_mode",
            "must be BUFFERED",
        ),
        (
            ("request_body_mode: BUFFERED", "request_body_mode: BUFFERED_PARTIAL"),
            "error",
            f"{_MODE}.request_body_mode",
            "must be BUFFERED",
        ),
        (("request_body_mode: BUFFERED", "#"), "error", f"{_MODE}.request_body_mode", "must be BUFFERED"),
        (("request_header_mode: SEND", "request_header_mode: SKIP"), "error", f"{_MODE}.request_header_mode", ""),
        (("body_mode: STREAMED", "body_mode: BUFFERED"), "error", f"{_MODE}.response_body_mode", "holds back every stream"),
        (("message_timeout: 1s", "message_timeout: 0.2s"), "error", f"{_EXT}.message_timeout", "Envoy gives up"),
        (("message_timeout: 1s", ""), "error", f"{_EXT}.message_timeout", "Envoy gives up"),
        (("message_timeout: 1s", "message_timeout: 0.3s"), "warning", f"{_EXT}.message_timeout", "less than 200 ms"),
        (("failure_mode_allow: true", "observability_mode: true"), "error", f"{_EXT}.observability_mode", "Envoy would ignore"),
        (("failure_mode_allow: true", "disable_immediate_response: true"), "error", None, "the router's own answers"),
        (("failure_mode_allow: true", "route_cache_action: RETAIN"), "error", f"{_EXT}.route_cache_action", "first route"),
        (("x-vsr-[a-z-]+|", ""), "error", f"{_EXT}.mutation_rules.allow_expression.regex", "x-vsr-selected-category"),
        (("^(x-upstream-cluster|", "^("), "error", f"{_EXT}.mutation_rules.allow_expression.regex", "sets x-upstream-cluster,"),
        (("|content-length", ""), "error", f"{_EXT}.mutation_rules.allow_expression.regex", "content-length"),
        (
            ("disallow_all: true", 'disallow_expression: { regex: "x-.*" }'),
            "error",
            f"{_EXT}.mutation_rules.disallow_expression.regex",
            "forbids",
        ),
        (
            ("disallow_all: true", "disallow_all: true\n                disallow_is_error: true"),
            "error",
            f"{_EXT}.mutation_rules.disallow_is_error",
            "500",
        ),
        (
            ("connection_buffer_limit_bytes: 16777216", "connection_buffer_limit_bytes: 16777217"),
            "error",
            "static_resources.listeners[0].per_connection_buffer_limit_bytes",
            "max_body_bytes",
        ),
        (("per_connection_buffer_limit_bytes: 16777216", ""), "warning", "static_resources.listeners[0]", "413"),
        (("key: x-upstream-cluster, value: small", "key: x-other, value: small"), "error", _EARLY, "must overwrite"),
        (("- remove: x-vsr-selected-model", "- remove: x-upstream-cluster"), "error", _EARLY, "must overwrite"),
        (("cluster, value: small", "cluster, value: tiny"), "error", None, "there is no cluster 'tiny'"),
        (("cluster, value: small", "cluster, value: large"), "warning", None, "default model is in the cluster 'small'"),
        (("- remove: x-vsr-selected-model\n", "\n"), "warning", _EARLY, "x-vsr-selected-model"),
        (("headers_to_remove: [ x-upstream-cluster ]", "headers_to_remove: [ x-a ]"), "warning", _HOST, "would see it"),
        (
            ("header: { key: x-vsr-decision-reason,", "header: { key: x-vsr-why,"),
            "warning",
            f"{_HOST}.response_headers_to_add",
            "x-vsr-decision-reason",
        ),
        (
            (
                "path: /v1/chat/completions }",
                'prefix: "/" }\n                route: { cluster: large }\n              - match: { path: /x }',
            ),
            "error",
            f"{_HOST}.routes[0].route",
            "cluster_header",
        ),
        (("cluster_header: x-upstream-cluster,", "cluster: small,"), "error", f"{_HOST}.routes[0].route", "/v1/chat/completions"),
        ((_OPTIONS, "idle_timeout: 600s }"), "error", f"{_HOST}.routes[0].route", "15 s"),
        ((_OPTIONS, "timeout: 30s }"), "error", f"{_HOST}.routes[0].route", "15 s"),
        ((_OPTIONS, "timeout: 0s, idle_timeout: 5s }"), "warning", f"{_HOST}.routes[0].route.idle_timeout", "longer than 5 s"),
        (
            (
                _OPTIONS + "\n              - match: { path: /v1/completions }",
                "timeout: 0s }\n              - match: { path: /x }",
            ),
            "error",
            f"{_HOST}.routes[8]",
            "disables the router",
        ),
        (("grpc_health_check: {", "tcp_health_check: {"), "error", None, "no field 'service_name'"),
        (("healthy_panic_threshold: { value: 0 }", "healthy_panic_threshold: { value: 50 }"), "warning", None, "not 0"),
        (("max_requests: 20000, ", ""), "warning", "static_resources.clusters[0]", "1024 exchanges"),
        ((", max_retries: 1000", ""), "warning", "static_resources.clusters[0]", "retry_policy has no effect"),
        (
            ("failure_mode_allow: true", "failure_mode_alow: true"),
            "error",
            f"{_EXT}.failure_mode_alow",
            "did you mean 'failure_mode_allow'",
        ),
        (("request_header_mode: SEND", "request_header_mode: SENT"), "error", None, "did you mean 'SEND'"),
        (("failure_mode_allow: true", "failure_mode_allow: 1"), "error", f"{_EXT}.failure_mode_allow", "true or false"),
        (("connect_timeout: 0.25s", "connect_timeout: 250ms"), "error", "static_resources.clusters[0].connect_timeout", "0.25s"),
        (("v3.ExternalProcessor\n", "v3.ExternalProcesor\n"), "warning", f"{_EXT}.@type", "v3.ExternalProcessor'"),
        (("stat_prefix: sr", "stat_prefix: 5"), "error", f"{_EXT}.stat_prefix", "in quotes"),
        (("message_timeout: 1s", "messageTimeout: 1s"), "error", f"{_EXT}.messageTimeout", "write it as 'message_timeout'"),
        (("port_value: 8801", "port_value: many"), "error", None, "a whole number"),
    )

    @pytest.mark.parametrize(
        ("change", "severity", "path", "said"), CASES, ids=[f"{case[0][0][:40]}->{case[0][1][:40]}" for case in CASES]
    )
    def test_is_told(self, tmp_path: Path, change: tuple[str, str], severity: str, path: str | None, said: str) -> None:
        """It has its severity and path, and a line of the file. The message names what matters."""
        found = problems(tmp_path, change)
        right = [each for each in found if each.severity == severity and said in each.message and path in (None, each.path)]
        assert right, "\n".join(map(str, found))
        for problem in found:
            assert 0 < problem.line <= len(Path(problem.file).read_text(encoding="utf-8").splitlines())


@pytest.mark.usefixtures("without_envoy")
class TestBothFiles:
    def test_the_shipped_file(self, tmp_path: Path) -> None:
        """Nothing is reported, whatever options the configuration uses."""
        assert problems(tmp_path) == []
        more = "server: { workers: 4 }\ntelemetry: { track_token_usage: true, tracing: { enabled: true } }\n"
        assert problems(tmp_path, config=CONFIG + more) == []

    def test_more_workers_than_endpoints(self, tmp_path: Path) -> None:
        """Each worker that Envoy would never ask is named."""
        found = problems(tmp_path, config=CONFIG + "server: { workers: 7 }\n")
        assert [problem.message[:8] for problem in found] == ["worker 5", "worker 6"]

    @pytest.mark.parametrize(("workers", "what"), [(5, "one worker less would serve"), (1, "a restart would be refused")])
    def test_no_endpoint_for_the_spare_worker_of_a_restart(self, tmp_path: Path, workers: int, what: str) -> None:
        """`check` says what a restart would cost, before one is needed."""
        lines = (ROOT / "envoy" / "envoy.yaml").read_text().splitlines(keepends=True)
        gone = [(line, "") for line in lines if workers == 1 and re.search(r"port_value: 5005[2-5]", line)]
        (problem,) = problems(tmp_path, *gone, config=CONFIG + f"server: {{ workers: {workers} }}\n")
        assert problem.severity == "warning"
        assert what in problem.message

    @pytest.mark.parametrize(
        ("drain_s", "old", "new", "needed"),
        [
            ("4", "", "", ""),
            ("3", "", "", ""),
            ("2.9", "", "", "3"),
            ("0", "", "", "3"),
            ("4", " interval: 1s\n", " interval: 5s\n", "11"),
            ("11", " interval: 1s\n", " interval: 5s\n", ""),
            ("4", "unhealthy_threshold: 2", "unhealthy_threshold: 5", "6"),
            ("4", "- timeout: 1s\n", "- timeout: 2.5s\n", "4.5"),
        ],
    )
    def test_a_worker_leaves_before_envoy_has_noticed(
        self, tmp_path: Path, drain_s: str, old: str, new: str, needed: str
    ) -> None:
        """Both values and the remedy are reported, at the line in the router's file."""
        found = problems(tmp_path, *([(old, new)] if old else []), config=CONFIG + f"server:\n  drain_seconds: {drain_s}\n")
        assert told(found) == ([("warning", "server.drain_seconds")] if needed else [])
        for problem in found:
            assert (Path(problem.file).name, problem.line) == ("config.yaml", len(CONFIG.splitlines()) + 2)
            assert f"drain_seconds ({drain_s} s)" in problem.message
            assert f"write {needed} or more" in problem.message

    def test_where_no_drain_is_written_the_default_is_compared(self, tmp_path: Path) -> None:
        """The default is compared with what a longer interval in an operator's own envoy.yaml needs."""
        (problem,) = problems(tmp_path, (" interval: 1s\n", " interval: 5s\n"))
        assert problem.message.startswith("drain_seconds (4 s) is shorter")

    def test_retries_with_one_endpoint_have_nowhere_else_to_go(self, tmp_path: Path) -> None:
        """With several endpoints, the predicate has to send them elsewhere. One name may stand for several endpoints."""
        lines = ENVOY.splitlines(keepends=True)
        alone = [(line, "") for line in lines if re.search(r"port_value: 5005[2-5]", line)]
        other = ("v3.PreviousHostsPredicate", "v3.OtherPredicate")

        def retries(*changes: tuple[str, str]) -> list[str]:
            return [each.severity for each in problems(tmp_path, *changes) if "no previous_hosts predicate" in each.message]

        assert retries(other, *alone) == []
        assert retries(other) == ["warning"]
        named = ("type: STATIC\n    connect_timeout: 0.25s", "type: STRICT_DNS\n    connect_timeout: 0.25s")
        assert retries(other, named, *alone) == ["warning"]

    def test_envoy_waits_as_long_as_guards_read(self, tmp_path: Path) -> None:
        """Otherwise Envoy would ignore the router's request for more time, and let the request pass."""
        guard = "rules:\n- name: g\n  when: { jailbreak: true }\n  block: {}\n"
        config = CONFIG.replace("rules:\n", guard, 1) if "rules:\n" in CONFIG else CONFIG + guard
        change = ("max_message_timeout: 120s", "max_message_timeout: 10s")
        assert "at least 31 s" in "".join(problem.message for problem in problems(tmp_path, change, config=config))
        found = [*problems(tmp_path, config=config), *problems(tmp_path, change)]
        assert "max_message_timeout" not in "".join(problem.message for problem in found)

    def test_workers_on_other_hosts(self, tmp_path: Path) -> None:
        """Names of other hosts cannot be compared with the router's own address."""
        change = ("address: 127.0.0.1, port_value: 5005", "address: router.example, port_value: 5005")
        assert problems(tmp_path, change, config=CONFIG + 'server: { address: "0.0.0.0:50051" }\n') == []

    def test_unix_sockets(self, tmp_path: Path) -> None:
        """Worker i is expected at the path with the suffix `.i`."""
        sockets = [
            (f"socket_address: {{ address: 127.0.0.1, port_value: {50051 + index} }}", f"pipe: {{ path: /run/r{suffix} }}")
            for index, suffix in enumerate(("", ".1", ".2", ".3", ".4"))
        ]
        assert problems(tmp_path, *sockets, config=CONFIG + 'server: { address: "unix:/run/r", workers: 4 }\n') == []
        assert len(problems(tmp_path, *sockets, config=CONFIG + 'server: { address: "unix:/run/q" }\n')) == 1

    def test_usage_needs_response_modes(self, tmp_path: Path) -> None:
        """Response modes only matter if something reads responses."""
        change = ("response_body_mode: STREAMED", "response_body_mode: NONE")
        assert problems(tmp_path, change) == []
        found = problems(tmp_path, change, config=CONFIG + "telemetry: { track_token_usage: true }\n")
        assert told(found) == [("error", f"{_MODE}.response_body_mode")]

    def test_both_files_are_bad(self, tmp_path: Path) -> None:
        """The problems of both are reported together."""
        found = problems(tmp_path, ("stat_prefix: sr", "stat_prefx: sr"), config=CONFIG.replace("model: small", "model: smal"))
        assert {Path(problem.file).name for problem in found} == {"config.yaml", "envoy.yaml"}

    def test_a_key_that_stands_twice(self, tmp_path: Path) -> None:
        """It is reported where the first one stands."""
        found = problems(
            tmp_path, ("failure_mode_allow: true", "failure_mode_allow: true\n              failure_mode_allow: false")
        )
        assert ["occurs twice" in problem.message for problem in found] == [True]

    @pytest.mark.parametrize("text", ["", "- a", "a: [", "a: &a [*a]", "[" * 1500, "a: !!int x"], ids=range(6))
    def test_a_file_that_is_none(self, tmp_path: Path, text: str) -> None:
        """The operator gets a problem, never a traceback."""
        (tmp_path / "config.yaml").write_text(CONFIG, encoding="utf-8")
        (tmp_path / "envoy.yaml").write_text(text, encoding="utf-8")
        assert check(tmp_path / "config.yaml", tmp_path / "envoy.yaml").problems
        assert check(tmp_path / "config.yaml", tmp_path / "absent.yaml").problems

    def test_no_ext_proc_filter(self, tmp_path: Path) -> None:
        """An Envoy that never asks the router is an error."""
        found = problems(tmp_path, ("filters.http.ext_proc.v3.ExternalProcessor", "filters.http.router.v3.Router"))
        assert any("has no ext_proc HTTP filter" in problem.message for problem in found)

    def test_another_virtual_host(self, tmp_path: Path) -> None:
        """A virtual host that takes none of the router's paths is ignored."""
        routes = "[ { match: { path: /status }, direct_response: { status: 200 } } ]"
        other = f"- {{ name: status, domains: [status.example], routes: {routes} }}"
        assert problems(tmp_path, ("virtual_hosts:\n", f"virtual_hosts:\n            {other}\n")) == []

    def test_clusters_told_at_run_time(self, tmp_path: Path) -> None:
        """Their absence from the file proves nothing, so it is only a warning."""
        dynamic = "dynamic_resources: { cds_config: { ads: {} } }\nstatic_resources:"
        found = problems(tmp_path, ("static_resources:", dynamic), ("name: coder\n", "name: other\n"))
        assert told(found) == [("warning", "models.coder.cluster")]

    def test_the_summary(self, tmp_path: Path) -> None:
        """It says which model serves what, and what happens without the router."""
        problems(tmp_path)
        summary = check(tmp_path / "config.yaml", tmp_path / "envoy.yaml").summary
        assert "small -> cluster small -> 127.0.0.1:8101  (default)" in summary
        assert summary[-1] == "while the router is down: the cluster small serves"
        problems(tmp_path, ("failure_mode_allow: true", "failure_mode_allow: false"))
        assert (
            check(tmp_path / "config.yaml", tmp_path / "envoy.yaml").summary[-1]
            == "while the router is down: clients get an error"
        )
