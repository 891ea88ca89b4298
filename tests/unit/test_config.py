"""The configuration: what operators write becomes what they meant, and every mistake is reported with its place."""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from router.config.load import Config, load, parse
from router.config.models import FAMILIES
from router.config.patterns import compile_pattern
from router.config.reader import Notes
from router.config.server import AdminConfig, ServerConfig, TelemetryConfig, TracingConfig
from router.config.signals import EncoderConfig, GuardsConfig, IntentConfig
from router.core.conditions import AllOf, AnyOf, FlagIs, HeaderMatches, LabelIs, Not, TextMatches, TokensWithin
from router.core.models import Model, Reasoning, ReasoningFamily, SystemPrompt
from router.core.openai.bodysize import BodyBounds
from router.core.policy import Default, Rule
from router.core.selection import Selection
from router.core.types import Block
from router.errors import ConfigError

BAD = Path(__file__).parents[1] / "bad_config"
BUNDLE = BAD / "bundle"

FULL = """
version: 1
server: { address: "unix:/run/router.sock", workers: 3, threads: 2, max_body_bytes: 2048,
          drain_seconds: 1.5, shutdown_timeout_seconds: 7, max_values: 5000,
          max_keys: 600, max_depth: 20, max_messages: 30, state_path: state }
admin: { enabled: false, address: "[::1]:9000", allowed_hosts: [Router.monitoring.svc] }
telemetry:
  log_level: debug
  access_log: false
  metrics: false
  track_token_usage: true
  tracing: { enabled: true, endpoint: "https://collector:4317", insecure: false, sample_ratio: 0.25, service_name: front }
virtual_models: [choose]
reasoning_families:
  mine: { type: reasoning_effort, parameter: thinking_level, default_effort: high, off_effort: none }
  qwen3: { type: chat_template_kwargs, parameter: think }
models:
  fast: { cluster: a, served_name: org/fast, reasoning_family: mine, mock: true, cost_per_million_tokens: 0.2,
          quality_profile: llama-8b }
  slow: { cluster: b, reasoning_family: qwen3, cost_per_million_tokens: 2, quality_profile: llama-70b }
signals:
  deadline_ms: 40
  encoder: { enabled: true, model_path: bundle, max_queue: 5, max_chunks: 3 }
  intent: { threshold: 0.7 }
  guards: { deadline_ms: 3000, max_chars: 5000 }
  custom: { tone: { model_path: ../tiny_models/tone, threshold: 0.9 } }
  keywords:
    code: { words: [c++, Bash script], regex: ['def \\w+'], case_sensitive: true }
rules:
- name: second
  when: { has_tools: false }
  model: slow
  select: { candidates: [fast, slow] }
- name: first
  priority: 9
  when: { keywords: code }
  model: fast
  reasoning: { enabled: true, effort: low }
  system_prompt: { mode: replace, text: Be brief. }
  cache: { enabled: false }
- name: refused
  when: { any: [ { jailbreak: { labels: [harmful], threshold: 0.8 } }, { pii: [CREDIT_CARD] } ] }
  block: { message: Not here., fail_closed: true, reads: conversation }
default:
  model: fast
  select: { candidates: [fast, slow], cost_weight: 0.3 }
  reasoning: { enabled: false }
  system_prompt: { text: Hello. }
  cache: { enabled: false }
semantic_cache:
  enabled: true
  backend_type: memory
  max_false_hit_rate: 0.05
  verifier: { enabled: true, model_path: ../tiny_models/verifier }
  calibration: ../tiny_models/calibration.json
  max_entries: 5
  eviction_policy: lru
  scope: { header: X-Team }
  eligibility: { user_specific: true }
  client_controls: { allow: [no-cache] }
"""

SMALLEST = """
version: 1
models: { small: { cluster: small } }
signals: { encoder: { model_path: bundle } }
default: { model: small }
"""


def read(text: str) -> Config:
    """The configuration, read beside the bundle of these tests."""
    return parse(text, str(BAD / "config.yaml"))


SIGNALS = (
    f"signals: {{ encoder: {{ model_path: '{BUNDLE}' }}, intent: {{ threshold: 0.6 }}, keywords: {{ code: {{ words: [sql] }} }},"
    " custom: { tone: { model_path: ../tiny_models/tone } } }"
)


def when(condition: str) -> object:
    """The condition that this text becomes."""
    rule = f"rules: [ {{ name: r, model: small, when: {condition} }} ]"
    text = f"version: 1\nmodels: {{ small: {{ cluster: small }} }}\n{SIGNALS}\n{rule}\ndefault: {{ model: small }}"
    return read(text).policy.rules[0].when


def problems_of(text: str) -> list[str]:
    """The problems of a configuration, without the file's name."""
    with pytest.raises(ConfigError) as caught:
        read(text)
    return [f"{problem.line}: {problem.path}: {problem.message}" for problem in caught.value.problems]


class TestMistakes:
    @pytest.mark.parametrize("name", sorted(path.name for path in BAD.glob("*.yaml")))
    def test_a_bad_file(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Exactly the problems that the file announces are reported: `#!` at their line, `#!!` for the whole file."""
        monkeypatch.chdir(BAD)
        expected = []
        for number, line in enumerate(Path(name).read_text(encoding="utf-8").splitlines(), 1):
            if line.startswith("#!! "):
                expected.append(f"{name}: {line.removeprefix('#!! ')}")
            expected += [f"{name}:{number}: {said}" for said in line.split("  #! ")[1:]]
        assert expected
        with pytest.raises(ConfigError) as caught:
            load(Path(name))
        assert sorted(map(str, caught.value.problems)) == sorted(expected)

    def test_many_mistakes(self) -> None:
        """All of them are reported at once, in the order of the file."""
        text = SMALLEST.replace("version: 1", "version: 2\nserver: { worker: 1, threads: -1 }").replace("{ model: small }", "{}")
        lines = [problem.split(":")[0] for problem in problems_of(text)]
        assert lines == sorted(lines)
        assert len(lines) == 4

    @pytest.mark.parametrize(
        ("content", "said"),
        [(None, "No such file"), (b"\xff\xfe\xff", "not UTF-8"), (b"#" * 1_000_001, "larger than"), (b"a: \x00", "not YAML")],
        ids=["absent", "binary", "huge", "control character"],
    )
    def test_a_file_that_is_no_text(self, tmp_path: Path, content: bytes | None, said: str) -> None:
        """The operator gets a message, never a traceback."""
        file = tmp_path / "config.yaml"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(ConfigError, match=said):
            load(file)

    @pytest.mark.parametrize(
        ("server", "admin", "said"),
        [
            ("'unix:/run/r', workers: 2", "'unix:/run/r'", "worker 0 listens on unix:/run/r already"),
            ("'unix:/run/r', workers: 2", "'unix:///run/r.1'", "worker 1 listens on"),
            ("'unix:/run/r', workers: 2", "'unix:/run/r.2'", "in a restart, a spare worker listens on"),
            ("'unix:/run/r', workers: 2", "'unix:/run/r.3'", ""),
            ("'unix:/run/r', workers: 2", "'127.0.0.1:1'", ""),
            ("'localhost:5000'", "'127.0.0.1:5000'", "worker 0 listens on port 5000 already"),
            ("'127.0.0.1:5000'", "'Localhost:5001'", "in a restart, a spare worker listens on port 5001"),
            ("'127.0.0.1:65535'", "'127.0.0.1:1'", "ports are 1 to 65535, and the worker and a restart's spare worker needs"),
            ("'127.0.0.1:65534'", "'127.0.0.1:1'", ""),
            ("'127.0.0.1:65533', workers: 3", "'127.0.0.1:1'", "each of the 3 workers and a restart's spare worker needs"),
            (f"'unix:/{'r' * 104}'", "'127.0.0.1:1'", ""),
            (f"'unix:/{'r' * 105}'", "'127.0.0.1:1'", "at most 107 bytes, this one with the suffix .1 is longer"),
            (f"'unix:/{'r' * 104}', workers: 10", "'127.0.0.1:1'", "this one with the suffix .10 is longer"),
            ("'127.0.0.1:1'", f"'unix:/{'ü' * 53}'", ""),
            ("'127.0.0.1:1'", f"'unix:/{'ü' * 54}'", "at most 107 bytes, this one is longer"),
            ('"unix:/a\\0b"', "'127.0.0.1:1'", "is no path that a socket could have"),
        ],
    )
    def test_addresses(self, server: str, admin: str, said: str) -> None:
        """Workers, the spare one of a restart and the operator's port listen on addresses of their own that exist."""
        text = f"{SMALLEST}server: {{ address: {server} }}\nadmin: {{ address: {admin} }}\n"
        if said:
            assert said in " ".join(problems_of(text))
        else:
            read(text)

    @pytest.mark.parametrize("version", ["true", "1.0", "'1'", "[1]"])
    def test_a_version_is_a_whole_number(self, version: str) -> None:
        """Python takes true and 1.0 for 1."""
        assert any(
            "this router reads version 1" in said for said in problems_of(SMALLEST.replace("version: 1", f"version: {version}"))
        )

    @pytest.mark.parametrize("seconds", ["1:30.5", "1:30", "!!float 1:30"])
    def test_no_number_is_of_base_60(self, seconds: str) -> None:
        """YAML 1.1 would take ninety seconds and a half for one minute and thirty."""
        said = problems_of(f"{SMALLEST}semantic_cache: {{ ttl_seconds: {seconds} }}")
        assert any("ttl_seconds: a number from" in each for each in said)

    def test_many_mistakes_of_one_kind(self) -> None:
        """Each takes as long to note as the first: ten times the mistakes take far less than a hundred times as long."""

        def seconds(count: int) -> float:
            notes = Notes("x")
            began = time.process_time()
            for at in range(count):
                notes.add(None, f"rules[{at}]", "unknown key")
            assert len(notes.problems) == count
            return time.process_time() - began

        assert min(seconds(20_000) for _ in range(3)) < 40 * min(seconds(2_000) for _ in range(3))

    @pytest.mark.parametrize("text", ["[" * 400, "a: &a [*a]", "a: &a { b: *a }", "!!bool x: 1", "version: !!bool x"])
    def test_yaml_made_to_hurt(self, text: str) -> None:
        """It is refused like any other mistake."""
        with pytest.raises(ConfigError):
            read(text)

    @given(
        st.integers(1, len(FULL.splitlines()) - 1),
        st.sampled_from(
            [
                "",
                "null",
                "{}",
                "[]",
                "[1]",
                "5",
                "-1",
                "9" * 400,
                ".nan",
                "'' ",
                "!!int x",
                "!!timestamp q",
                "2020-13-45",
                "&a [*a]",
                "{not: {}}",
                "{a: 1, a: 2}",
                "é",
                "- x",
                "? [a]",
            ]
        ),
    )
    def test_a_line_with_something_else_in_it(self, line: int, junk: str) -> None:
        """The result is a configuration or a list of problems, whatever the line holds."""
        lines = FULL.splitlines()
        lines[line] = f"{lines[line].split(':')[0]}: {junk}"
        with contextlib.suppress(ConfigError):
            assert read("\n".join(lines)).models


class TestMeaning:
    def test_every_key(self) -> None:
        """Each key reaches its field, and no key of this file leaves a default in place."""
        config = read(FULL)
        assert config.server == ServerConfig("unix:/run/router.sock", 3, 2, 2048, 5000, 600, 20, 30, 1.5, 7.0, "state")
        assert config.server.state_folder("/etc/router/config.yaml") == Path("/etc/router/state")
        assert config.server.bounds == BodyBounds(5000, 600, 20, 30)
        assert config.admin == AdminConfig(enabled=False, address="[::1]:9000", allowed_hosts=("router.monitoring.svc",))
        tracing = TracingConfig(True, "https://collector:4317", False, 0.25, "front")
        assert config.telemetry == TelemetryConfig("debug", False, False, True, tracing)
        assert config.virtual_models == ("choose",)
        assert config.families["mine"] == ReasoningFamily("reasoning_effort", "thinking_level", "high", "none")
        assert config.families["qwen3"] == ReasoningFamily("chat_template_kwargs", "think")
        assert config.families["gpt-oss"] == FAMILIES["gpt-oss"]
        fast = Model("fast", "a", "org/fast", "mine", 0.2, "llama-8b")
        assert config.models == {"fast": fast, "slow": Model("slow", "b", "slow", "qwen3", 2.0, "llama-70b")}
        assert config.mocks == {"fast"}
        assert (config.signals.deadline_ms, config.signals.intent) == (40, IntentConfig(0.7))
        assert config.signals.encoder == EncoderConfig(enabled=True, model_path=BUNDLE, max_queue=5, max_chunks=3)
        assert config.signals.guards == GuardsConfig(3000, 5000)
        tone = config.signals.custom["tone"]
        assert (tone.folder, tone.threshold, tone.is_detector) == (BAD / "../tiny_models/tone", 0.9, True)
        assert config.policy.intent_threshold == 0.7

    def test_rules(self) -> None:
        """Rules carry their whole result, and are tried in the order of priority."""
        config = read(FULL)
        fast, slow = config.models["fast"], config.models["slow"]
        refused, first, second = config.policy.rules
        assert refused.block == Block("Not here.", fails_closed=True)
        assert (first.name, first.model, first.priority) == ("first", fast, 9)
        assert first.reasoning == Reasoning(enabled=True, effort="low")
        assert first.system_prompt == SystemPrompt("Be brief.", "replace")
        assert second == Rule("second", FlagIs("has_tools", expected=False), slow, selection=Selection((fast, slow), 0.1))
        choice = Selection((fast, slow), 0.3)
        assert config.policy.default == Default(fast, Reasoning(enabled=False), SystemPrompt("Hello.", "insert"), choice)
        assert config.policy.signals == {"conversation jailbreak", "conversation pii", "quality"}
        assert config.default_model == fast

    @pytest.mark.parametrize(
        ("condition", "reads", "signals"),
        [
            ("{ jailbreak: true }", None, {"prompt jailbreak"}),
            ("{ pii: true }", "conversation", {"conversation pii"}),
            ("{ jailbreak: true }", "message", {"jailbreak"}),
            ("{ keywords: code }", None, {"prompt keywords code"}),
            ("{ keywords: code }", "message", set()),
            ("{ signal: { name: tone, labels: [rude] } }", None, {"prompt tone"}),
            ("{ intent: [law] }", None, {"intent"}),
            (
                "{ any: [ { pii: true }, { all: [ { jailbreak: true }, { intent: [law] } ] } ] }",
                None,
                {"prompt pii", "prompt jailbreak", "intent"},
            ),
            ("{ not: { signal: { name: tone, labels: [polite] } } }", None, {"tone"}),
        ],
    )
    def test_what_a_rule_that_blocks_reads(self, condition: str, reads: str | None, signals: set[str]) -> None:
        """A detector reads the whole prompt unless the rule says otherwise. A subject is read from the last message."""
        block = f"{{ reads: {reads} }}" if reads else "{}"
        rule = f"rules: [ {{ name: r, block: {block}, when: {condition} }} ]"
        config = read(f"version: 1\nmodels: {{ small: {{ cluster: small }} }}\n{SIGNALS}\n{rule}\ndefault: {{ model: small }}")
        assert config.policy.signals == signals

    def test_a_rule_that_routes_reads_the_last_message(self) -> None:
        """It is routed by the user's own words."""
        assert "'jailbreak'" in repr(when("{ jailbreak: true }"))
        assert isinstance(when("{ keywords: code }"), TextMatches)

    def test_the_smallest_file(self) -> None:
        """A key that is not written has its default. The threshold is the model's own."""
        config = read(SMALLEST)
        assert (config.server, config.admin, config.telemetry) == (ServerConfig(), AdminConfig(), TelemetryConfig())
        assert config.virtual_models == ("auto", "MoM")
        assert config.families == FAMILIES
        assert config.policy.rules == ()
        assert config.signals.intent == IntentConfig(0.6)
        assert config.signals.encoder == EncoderConfig(model_path=BUNDLE)

    def test_empty_sections(self) -> None:
        """An empty section means the same as none."""
        empty = "server:\nadmin:\ntelemetry:\n  tracing:\nrules:\nvirtual_models: ~\nreasoning_families:\n"
        assert read(SMALLEST + empty) == read(SMALLEST)

    def test_intent_switched_off(self) -> None:
        """The model's files may be absent."""
        config = read(SMALLEST.replace("model_path: bundle", "enabled: false, model_path: nowhere"))
        assert not config.signals.encoder.enabled

    def test_a_date_as_a_name(self) -> None:
        """It stays a name as it was written, for some models are called so."""
        config = read(SMALLEST.replace("{ cluster: small }", "{ cluster: small, served_name: 2024-05-13 }"))
        assert config.models["small"].served_name == "2024-05-13"

    @pytest.mark.parametrize(
        ("written", "meant"),
        [
            ("{ intent: [math, law] }", LabelIs("intent", frozenset({"math", "law"}), 0.6)),
            ("{ intent: { labels: [law] } }", LabelIs("intent", frozenset({"law"}), 0.6)),
            ("{ intent: { labels: [law], threshold: 0.9 } }", LabelIs("intent", frozenset({"law"}), 0.9)),
            ("{ jailbreak: true }", LabelIs("jailbreak", frozenset({"jailbreak", "harmful"}), 0.7)),
            ("{ jailbreak: [harmful] }", LabelIs("jailbreak", frozenset({"harmful"}), 0.7)),
            ("{ pii: { labels: [PERSON], threshold: 0.9 } }", LabelIs("pii", frozenset({"PERSON"}), 0.9)),
            ("{ signal: { name: tone, labels: [rude] } }", LabelIs("tone", frozenset({"rude"}), 0.5)),
            ("{ prompt_tokens: { min: 5 } }", TokensWithin(5, None)),
            ("{ prompt_tokens: { max: 9 } }", TokensWithin(0, 9)),
            ("{ has_images: true }", FlagIs("has_images", expected=True)),
            ("{ is_stream: false }", FlagIs("is_stream", expected=False)),
            ("{ header: { name: X-Tier, equals: a.b } }", HeaderMatches("x-tier", re.compile(r"a\.b"))),
            ("{ header: { name: x-tier, regex: a.b } }", HeaderMatches("x-tier", compile_pattern("a.b"))),
            ("{ header: { name: x-tier, present: true } }", HeaderMatches("x-tier", re.compile(".*", re.DOTALL))),
            ("{ not: { has_tools: true } }", Not(FlagIs("has_tools", expected=True))),
            (
                "{ all: [ { has_tools: true }, { any: [ { is_stream: true } ] } ] }",
                AllOf((FlagIs("has_tools", expected=True), AnyOf((FlagIs("is_stream", expected=True),)))),
            ),
            (
                "{ has_tools: true, prompt_tokens: { min: 1 } }",
                AllOf((TokensWithin(1, None), FlagIs("has_tools", expected=True))),
            ),
        ],
    )
    def test_a_condition(self, written: str, meant: object) -> None:
        """The text becomes the condition that the policy evaluates."""
        assert when(written) == meant


class TestKeywords:
    @pytest.mark.parametrize(
        ("text", "holds"),
        [
            ("Is C++ faster?", True),
            ("use c++.", True),
            ("cc++x", False),
            ("a bash script please", True),
            ("bash scripting", False),
            ("DEF foo", True),
            ("defoe", False),
        ],
    )
    def test_any_case(self, text: str, holds: bool) -> None:
        """A word is found only as a whole word, whatever characters it begins or ends with, and in any case by default."""
        assert _finds(FULL.replace("case_sensitive: true", "case_sensitive: false"), text) is holds

    @pytest.mark.parametrize(("text", "holds"), [("a Bash script", True), ("a bash script", False), ("def f", True)])
    def test_case_sensitive(self, text: str, holds: bool) -> None:
        """Only the written case is found."""
        assert _finds(FULL, text) is holds


def _finds(config: str, text: str) -> bool:
    keywords = next(rule.when for rule in read(config).policy.rules if rule.name == "first")
    assert isinstance(keywords, TextMatches)
    return any(pattern.search(text) for pattern in keywords.patterns)


def test_the_full_file_is_plain_yaml() -> None:
    """Any YAML reader understands the file of these tests as ours does."""
    assert yaml.safe_load(FULL)["server"]["drain_seconds"] == read(FULL).server.drain_seconds
