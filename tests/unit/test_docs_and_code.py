"""What documents name is there, and what the code shows to others is documented: states, headers, codes, paths, commands."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import yaml

from router.cache.checks import GUARDS
from router.cache.wording import UNREAD
from router.cli.help import commands_of
from router.cli.main import _parser
from router.core import exchange, messages
from tests.unit.sources import ROOT, ROUTER, tree_of
from tests.unit.test_docs import DOCUMENTS, identify

CONFIG_README = (ROOT / "config" / "README.md").read_text(encoding="utf-8")
ENVOY = (ROOT / "envoy" / "envoy.yaml").read_text(encoding="utf-8")
SEEN = CONFIG_README.partition("## What clients see")[2].partition("\n## ")[0]
"""The section on answers."""
COMMANDS = dict(commands_of(_parser()))


def first_cells(section: str) -> list[str]:
    """What the rows of a section's tables are about, in backticks."""
    rows = re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


# -- the exchange ------------------------------------------------------------------------------------------------------


def test_the_table_of_states_is_the_exchange() -> None:
    """Every state is in it, takes what it says, and goes to states that there are."""
    text = (ROUTER / "ARCHITECTURE.md").read_text(encoding="utf-8").partition("## The exchange")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.*?)\|$", text, re.MULTILINE)
    states = {state.__name__ for state in get_args(exchange.State)}
    events = {event.__name__ for event in get_args(messages.Event)}
    assert [name for name, _, _ in rows] == [state.__name__ for state in get_args(exchange.State)]
    taken = {name for _, takes, _ in rows for name in re.findall(r"`(\w+)`", takes)}
    assert taken | {"Trailers"} == events
    assert {name for _, _, goes in rows for name in re.findall(r"`([A-Z]\w+)`", goes)} <= states


def test_a_state_takes_the_events_that_its_row_says() -> None:
    """By the one `match` that advances an exchange."""
    tree = ast.parse((ROUTER / "core" / "exchange.py").read_text(encoding="utf-8"))
    advance = next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "_advance")
    pairs = set()
    for case in (case for node in ast.walk(advance) if isinstance(node, ast.Match) for case in node.cases):
        if isinstance(case.pattern, ast.MatchSequence) and len(case.pattern.patterns) == 2:
            states, events = (set(classes_in(part)) for part in case.pattern.patterns)
            pairs |= {(state, event) for state in states for event in events - {"Trailers"}}
    text = (ROUTER / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (`.+?) \| .*\|$", text.partition("## The exchange")[2].partition("\n## ")[0], re.MULTILINE)
    told = {(state, event) for state, takes in rows for event in re.findall(r"`(\w+)`", takes)}
    assert told <= pairs
    early = {(state, event) for state in ("Start", "AwaitingBody") for event in ("ResponseHeaders", "ResponseBody")}
    assert pairs - told <= early  # an answer of Envoy's own, of which the text below the table tells


def classes_in(pattern: ast.pattern) -> Iterator[str]:
    """Names of the classes that a pattern asks for."""
    for node in ast.walk(pattern):
        if isinstance(node, ast.MatchClass) and isinstance(node.cls, ast.Name):
            yield node.cls.id


# -- headers and codes -------------------------------------------------------------------------------------------------


def words_in_code(pattern: str, *folders: str) -> set[str]:
    """What is written in quotes in the modules of some folders."""
    files = [file for folder in folders for file in (ROUTER / folder).rglob("*.py")]
    return {word for file in files for word in re.findall(pattern, file.read_text(encoding="utf-8"))}


def test_headers_that_clients_get_are_documented() -> None:
    """All of them and no others; those that a model's answer carries are copied, and cleaned of clients' own, by Envoy."""
    written = words_in_code(r'"(x-vsr-[a-z-]*[a-z])"', "core", "extproc") - {"x-vsr-cache-ttl"}
    assert set(first_cells(SEEN.partition("| code |")[0])) == written
    copied = set(re.findall(r'%REQ\((x-vsr-[a-z-]+)\)%" \}, append', ENVOY))
    cleaned = set(re.findall(r"remove: (x-vsr-[a-z-]+)", ENVOY)) | {"x-vsr-response-path"}
    assert copied == cleaned
    assert copied <= written


def test_reasons_that_are_documented_are_given() -> None:
    """In the policy and the exchange; what `Decision.reason` says of itself is the same list."""
    row = next(line for line in SEEN.splitlines() if line.startswith("| `x-vsr-decision-reason`"))
    told = set(re.findall(r"`([a-z_]+)`", row))
    given = words_in_code(r'"([a-z_]+)"', "core")
    assert told <= given
    docstring = re.search(r'reason: str\n    """Why: (.*?)"""', (ROUTER / "core" / "types.py").read_text(), re.DOTALL)
    assert docstring
    assert told == set(re.findall(r"`([a-z_]+)`", docstring[1]))


def codes() -> dict[str, set[int]]:
    """Codes of the router's errors to clients, with the statuses that are written beside them."""
    found: dict[str, set[int]] = {}
    for file in (ROUTER / "core").rglob("*.py"):
        for node in ast.walk(tree_of(file)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "RequestError":
                code = next(
                    word.value.value for word in node.keywords if word.arg == "code" and isinstance(word.value, ast.Constant)
                )
                status = node.args[0].value if isinstance(node.args[0], ast.Constant) else 503
                found.setdefault(code, set()).add(status)
    return found


def test_codes_of_errors_are_documented_with_their_statuses() -> None:
    """Each that the core raises, and no others."""
    rows = re.findall(r"^\| (`.+?) \| ([\d, ]+) \|", SEEN, re.MULTILINE)
    told = {code: set(map(int, statuses.split(", "))) for names, statuses in rows for code in re.findall(r"`(\w+)`", names)}
    assert told == codes()


def test_codes_of_envoy_and_of_the_admin_port_are_documented() -> None:
    """In the lines below the table."""
    prose = set(re.findall(r"`([a-z_]+)`", SEEN.rpartition("|\n")[2]))
    envoys = {code for code in re.findall(r'code"?: "?([a-z_]+)', ENVOY) if "_" in code}
    assert envoys <= prose
    files = [ROUTER / "cache" / "operations.py", *(ROUTER / "admin").rglob("*.py")]
    admins = {code for file in files for code in re.findall(r'code="([a-z_]+)"', file.read_text(encoding="utf-8"))}
    assert admins - set(codes()) == prose - envoys


# -- the cache's words -------------------------------------------------------------------------------------------------


def words_given(called: str, *functions: str) -> set[str]:
    """Words that core and cache hand to calls of a name, and those that some functions return."""
    found: set[str] = set()
    for file in [*(ROUTER / "core").rglob("*.py"), *(ROUTER / "cache").rglob("*.py")]:
        if not any(name in file.read_text(encoding="utf-8") for name in (called, *functions)):
            continue
        for node in ast.walk(tree_of(file)):
            if isinstance(node, ast.Call) and called_name(node.func) == called and node.args:
                found |= texts_in(node.args[0])
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name in functions:
                for each in ast.walk(node):
                    if isinstance(each, ast.Return) and each.value is not None:
                        found |= texts_in(each.value)
    return found - {""}


def called_name(function: ast.expr) -> str:
    """The last word of what is called."""
    return function.id if isinstance(function, ast.Name) else function.attr if isinstance(function, ast.Attribute) else ""


def texts_in(node: ast.expr) -> set[str]:
    """What an expression may be, where that is written in it: of a choice both sides, of a call nothing."""
    match node:
        case ast.Constant(str(text)):
            return {text}
        case ast.IfExp(_, one, other):
            return texts_in(one) | texts_in(other)
        case ast.BoolOp(_, values):
            return set().union(*map(texts_in, values))
        case _:
            return set()


def told(table: str) -> dict[str, set[str]]:
    """Words of the table of statuses, by status."""
    found: dict[str, set[str]] = {}
    for status, words in re.findall(r"^\| ([a-z, ]+) \| (`.+?) \|", table, re.MULTILINE):
        found.setdefault(status, set()).update(re.findall(r"`(\w+)`", words))
    return found


def test_what_the_cache_says_is_documented() -> None:
    """Every tier, every reason of a miss and of a request that is skipped, and no other."""
    section = CONFIG_README.partition("### What the cache says")[2].partition("Of answers,")[0]
    words = told(section)
    assert words["hit, shadow"] == {"exact", "semantic", "coalesced"}
    assert words["skipped"] == words_given("Ineligible", "_why_not") | {"explicit_model"}
    # `Verdict` says more to who asks `explain`; and the words of what failed are those of whatever failed.
    only_explained = {"not_judged", "not_near", "too_old"}
    judged = words_given("Verdict") | set(GUARDS) | {UNREAD, "verifier", "empty", "no_candidate"}
    missed = (words_given("Miss", "_sense") | judged) - only_explained
    failed = {"overloaded", "model_failed"}
    assert {word for word in words["miss"] if not word.startswith("verifier_")} == missed | failed


def test_what_becomes_of_answers_is_documented() -> None:
    """Every result that `llm_cache_stores_total` can have, and no other."""
    section = CONFIG_README.partition("Of answers, `llm_cache_stores_total`")[2].partition("\n## ")[0]
    named = words_given("NotStorable", "_why_unread") | words_given("_give_up")
    assert set(first_cells(section)) - {"result"} == named | {"stored", "no_store", "private"}


# -- paths and commands ------------------------------------------------------------------------------------------------


def test_paths_of_the_admin_port_are_documented() -> None:
    """In config/README.md at `admin.enabled`, and those that the README names exist."""
    routes = words_in_code(r'web\.(?:get|post)\("(/[a-z]+)', "admin") | set(
        re.findall(r'web\.(?:get|post)\("(/[a-z]+)', (ROUTER / "runtime" / "workers.py").read_text(encoding="utf-8"))
    )
    row = next(line for line in CONFIG_README.splitlines() if line.startswith("| `admin.enabled`"))
    assert set(re.findall(r"`(/[a-z]+)", row)) == routes
    readme = re.search(r"Admin port \(.*?\. Dashboard", (ROOT / "README.md").read_text(), re.DOTALL)
    assert readme
    assert set(re.findall(r"`(?:POST )?(/[a-z]+)", readme[0])) <= routes


def test_the_readme_names_every_command() -> None:
    """And no other."""
    found = re.search(r"`semantic-router ([a-z]+ \|[a-z| ]+)`", (ROOT / "README.md").read_text())
    assert found
    assert set(found[1].split(" | ")) == {path.split()[0] for path in COMMANDS if path}


def calls(text: str) -> Iterator[str]:
    """What follows `semantic-router` wherever a document shows it as code, lines that go on joined."""
    for span in re.findall(r"`([^`]*semantic-router [^`]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        yield span.replace("\n", " ").partition("semantic-router ")[2]
    for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if "semantic-router " in line and not line.lstrip().startswith("#"):
                yield re.sub(r" +# .*", "", line.partition("semantic-router ")[2])


@pytest.mark.parametrize("document", DOCUMENTS, ids=identify)
def test_commands_that_a_document_shows_exist_with_their_options(document: Path) -> None:
    """Placeholders and all: the words before the first of them are a command, and each option is one of its."""
    for call in calls(document.read_text(encoding="utf-8")):
        if "|" in call:
            continue  # the list of commands
        words = shlex.split(call.replace("...", ""))
        known = max((path for path in COMMANDS if words[: len(path.split())] == path.split()), key=len, default=None)
        if any(path.split()[: len(words)] == words for path in COMMANDS):
            continue  # a group of commands
        assert known, call
        options = {text for action in actions(known) for text in action.option_strings}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options, call


def actions(path: str) -> Iterator[argparse.Action]:
    """A command's, and those of the commands around it."""
    words = path.split()
    for length in range(1, len(words) + 1):
        if (command := COMMANDS.get(" ".join(words[:length]))) is not None:
            yield from command._actions


def test_benches_and_training_that_documents_name_exist() -> None:
    """Parts and options of `make bench` and `make train`, commands and options of `python -m router.training`."""
    bench, training = (
        set(re.findall(r'"((?:--)?[a-z][a-z-]+)"', file.read_text(encoding="utf-8")))
        for file in (ROOT / "tests/bench/__main__.py", ROUTER / "training/__main__.py")
    )
    prose = "".join(re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL) for path in DOCUMENTS)
    shown = [text.replace("\n", " ") for text in re.findall(r"`[^`]+`", prose)]
    calls_of = {
        r"`make bench ARGS=(?:\"(.+)\"|(\S+))`": bench,
        r"`make train ARGS=(?:\"(.+)\"|(\S+))`": training | {"gptcache_qqp,synth_guard"},
        r"`python -m router\.training (.+)`": training | {"prompts"},
    }
    for pattern, known in calls_of.items():
        named = [" ".join(found.groups(default="")) for text in shown if (found := re.fullmatch(pattern, text))]
        assert named, pattern
        assert {word for call in named for word in call.split()} <= known


def test_metrics_and_headers_that_documents_name_exist() -> None:
    """Those in the table of deploy/dashboards, which the code's own are held to, and those that clients see or may send."""
    metrics = (ROOT / "deploy/dashboards/README.md").read_text(encoding="utf-8")
    metrics = set(re.findall(r"^\| `(llm_\w+)` \|", metrics, re.MULTILINE))
    headers = set(first_cells(SEEN.partition("| code |")[0])) | {"x-vsr-cache-ttl"}
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        assert set(re.findall(r"`(llm_[a-z_]*[a-z])[`{]", text)) <= metrics, document
        assert set(re.findall(r"\b(x-vsr-[a-z-]*[a-z])\b", text)) <= headers, document


def test_configuration_keys_that_documents_name_exist() -> None:
    """Written out in full, anywhere: `section.key`, as the tables of config/README.md have them."""
    known = set(first_cells(CONFIG_README))
    sections = (
        "server",
        "admin",
        "telemetry",
        "models",
        "reasoning_families",
        "signals",
        "semantic_cache",
        "connection",
        "collection",
    )
    sections += ("performance", "data_management", "development")
    spelt = re.compile(rf"`((?:{'|'.join(sections)})\.[a-z_.]+)(?:: [^`]*)?`")
    for document in DOCUMENTS:
        for key in spelt.findall(document.read_text(encoding="utf-8")):
            is_file = (ROOT / key).exists() or key.rpartition(".")[2] in ("md", "py", "yaml", "json", "db", "rejections")
            named = [key, re.sub(r"^((?:models|signals\.custom)\.)\w+", r"\1*", key)]
            assert is_file or set(named) & known or any(each.startswith(f"{key}.") for each in known), f"{document}: {key}"


def test_the_shipped_files_are_what_the_documents_call_them() -> None:
    """YAML that a document shows as configuration can be read."""
    for document in DOCUMENTS:
        for block in re.findall(r"```yaml\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL):
            assert yaml.safe_load(block)


# -- tests -------------------------------------------------------------------------------------------------------------


def fixed_waits(file: Path) -> Iterator[str]:
    """Sleeps of a file that no condition ends. A line may be the situation: a loop held up, a client at its own pace."""
    text = file.read_text(encoding="utf-8")
    if "sleep(" not in text:
        return
    lines, tree = text.splitlines(), ast.parse(text)
    polls = {call for loop in ast.walk(tree) if isinstance(loop, ast.While) for call in ast.walk(loop)}
    for call in ast.walk(tree):
        if (
            isinstance(call, ast.Call)
            and call not in polls
            and ast.unparse(call.func) in ("sleep", "time.sleep", "asyncio.sleep")
        ):
            line = lines[call.lineno - 1]
            if ast.unparse(call.args[0]) != "0" and not re.search(r"# .*(the situation under test|own pace)", line):
                yield f"{identify(file)}:{call.lineno}: {line.strip()}"


def test_no_test_waits_for_a_fixed_time() -> None:
    """As tests/README.md says: too short where a machine is busy, and too long everywhere else."""
    files = [file for file in (ROOT / "tests").rglob("*.py") if "bench" not in file.parts]
    assert [wait for file in files for wait in fixed_waits(file)] == []
