"""What the documents name exists, and what the code shows to others is documented: states, headers, codes, paths, commands."""

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

from router.cache.checks import CHECKS
from router.cli.help import commands_of
from router.cli.main import _parser
from router.core import events, headers, lookup, states
from router.core.types import DecisionReason
from tests.unit.sources import ROOT, ROUTER, tree_of
from tests.unit.test_docs import DOCUMENTS, identify

CONFIG_README = (ROOT / "config" / "README.md").read_text(encoding="utf-8")
ENVOY = (ROOT / "envoy" / "envoy.yaml").read_text(encoding="utf-8")
SEEN = CONFIG_README.partition("## What clients see")[2].partition("\n## ")[0]
"""The section about answers."""
COMMANDS = dict(commands_of(_parser()))


def first_cells(section: str) -> list[str]:
    """The names in backticks in the first column of a section's tables."""
    rows = re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


# -- the exchange ------------------------------------------------------------------------------------------------------


def test_the_table_of_states_is_the_exchange() -> None:
    """The table holds every state, the events that `TRANSITIONS` lists for it, and the states that follow."""
    section = (ROUTER / "ARCHITECTURE.md").read_text(encoding="utf-8").partition("## The exchange")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.*?)\|$", section, re.MULTILINE)
    assert [name for name, _, _ in rows] == [state.__name__ for state in get_args(states.State)]
    assert set(states.TRANSITIONS) == set(get_args(states.State))
    for state, accepted in states.TRANSITIONS.items():
        takes, goes = next((takes, goes) for name, takes, goes in rows if name == state.__name__)
        told = set(re.findall(r"`(\w+)`", takes))
        passing = {events.Trailers, *EARLY} if state in (states.Start, states.AwaitingBody) else {events.Trailers}
        assert told == {event.__name__ for event in accepted.keys() - passing}
        follow = {after.__name__ for afters in accepted.values() for after in afters}
        assert set(re.findall(r"`([A-Z]\w+)`", goes)) <= follow


EARLY = (events.ResponseHeaders, events.ResponseBody)
"""These belong to an answer of Envoy's own. The text below the table describes them."""


def test_the_exchange_takes_what_the_transitions_say() -> None:
    """The `match` that advances an exchange and `TRANSITIONS` hold the same pairs of state and event."""
    tree = ast.parse((ROUTER / "core" / "exchange.py").read_text(encoding="utf-8"))
    advance = next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "_advance")
    taken = set()
    for case in (case for node in ast.walk(advance) if isinstance(node, ast.Match) for case in node.cases):
        if isinstance(case.pattern, ast.MatchSequence) and len(case.pattern.patterns) == 2:
            held, came = (set(classes_in(part)) for part in case.pattern.patterns)
            taken |= {(state, event) for state in held for event in came}
    assert taken == {(state.__name__, event.__name__) for state, events in states.TRANSITIONS.items() for event in events}


def classes_in(pattern: ast.pattern) -> Iterator[str]:
    """The class names that a pattern matches."""
    for node in ast.walk(pattern):
        if isinstance(node, ast.MatchClass) and isinstance(node.cls, ast.Name):
            yield node.cls.id


# -- headers and codes -------------------------------------------------------------------------------------------------


def words_in_code(pattern: str, *folders: str) -> set[str]:
    """The quoted strings in the modules of these folders."""
    files = [file for folder in folders for file in (ROUTER / folder).rglob("*.py")]
    return {word for file in files for word in re.findall(pattern, file.read_text(encoding="utf-8"))}


def test_headers_that_clients_get_are_documented() -> None:
    """All of them are documented, and no others. Envoy copies those of a model's answer, and removes clients' own."""
    written = words_in_code(r'"(x-vsr-[a-z-]*[a-z]|cache-status)"', "core") - {headers.CACHE_TTL_HEADER}
    assert set(first_cells(SEEN.partition("| code |")[0])) == written
    copied = set(re.findall(r'%REQ\((x-vsr-[a-z-]+|cache-status)\)%" \}, append', ENVOY))
    cleaned = set(re.findall(r"remove: (x-vsr-[a-z-]+|cache-status)", ENVOY)) | {"x-vsr-response-path"}
    assert copied == cleaned
    assert copied <= written


NOT_OURS = {"config", "devstack"}
"""The configuration file uses header names as values, and the mock vLLM backends are foreign servers."""
HTTP_OF_THEIR_OWN = {"admin", "cli", "runtime"}
"""These packages speak HTTP themselves. Of the standard's names they may write those that describe a body."""


def strings_in(file: Path) -> Iterator[str]:
    """The quoted strings, without docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def test_headers_are_named_in_one_module() -> None:
    """Our header names appear nowhere else, not even in a sentence. The same holds for standard names, except where HTTP is
    spoken.
    """
    names = set(strings_in(ROUTER / "core" / "headers.py"))
    standard = {name for name in names if "-" in name} | {headers.AUTHORIZATION, headers.TRACEPARENT, headers.TRACESTATE}
    for file in ROUTER.rglob("*.py"):
        room = file.relative_to(ROUTER).parts[0]
        if room in NOT_OURS or file == ROUTER / "core" / "headers.py":
            continue
        of_a_body = {headers.CONTENT_TYPE, headers.CONTENT_LENGTH} if room in HTTP_OF_THEIR_OWN else set()
        for text in strings_in(file):
            assert not re.search(r"\bx-(?:vsr|upstream)-", text), f"{file}: {text}"
            assert text.lower() not in standard - of_a_body, f"{file}: {text}"


def test_reasons_that_are_documented_are_given() -> None:
    """The policy and the exchange give them, and `DecisionReason` is the same list."""
    row = next(line for line in SEEN.splitlines() if line.startswith("| `x-vsr-decision-reason`"))
    told = set(re.findall(r"`([a-z_]+)`", row))
    given = words_in_code(r'"([a-z_]+)"', "core")
    assert told <= given
    assert told == set(get_args(DecisionReason))


def codes() -> dict[str, set[int]]:
    """The codes of the router's errors to clients, with the statuses beside them."""
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
    """Each code that the core raises is documented, and no other."""
    rows = re.findall(r"^\| (`.+?) \| ([\d, ]+) \|", SEEN, re.MULTILINE)
    told = {code: set(map(int, statuses.split(", "))) for names, statuses in rows for code in re.findall(r"`(\w+)`", names)}
    assert told == codes()


def test_codes_of_envoy_and_of_the_admin_port_are_documented() -> None:
    """The lines below the table hold them."""
    prose = set(re.findall(r"`([a-z_]+)`", SEEN.rpartition("|\n")[2]))
    envoys = {code for code in re.findall(r'code"?: "?([a-z_]+)', ENVOY) if "_" in code}
    assert envoys <= prose
    files = [ROUTER / "cache" / "operations.py", *(ROUTER / "admin").rglob("*.py")]
    admins = {code for file in files for code in re.findall(r'code="([a-z_]+)"', file.read_text(encoding="utf-8"))}
    assert admins - set(codes()) == prose - envoys


# -- the cache's words -------------------------------------------------------------------------------------------------


def words_of(closed_set: object) -> set[str]:
    """The words of one `Literal`, or of several together."""
    found: set[str] = set()
    for one in get_args(closed_set):
        found |= {one} if isinstance(one, str) else words_of(one)
    return found - {""}


def written_words() -> set[str]:
    """Every quoted word in core, cache, the shell and `explain`, except in the closed sets themselves."""
    files = [file for room in ("core", "cache", "extproc", "admin") for file in (ROUTER / room).rglob("*.py")]
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files if file.name != "lookup.py"]
    return {
        node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def test_every_word_of_the_closed_sets_is_used() -> None:
    """mypy holds the code to the sets. Here each word of a set is also used somewhere, or is a kind of failure."""
    given = lookup.Tier | lookup.MissReason | lookup.SkipReason | lookup.StoreResult | lookup.CacheStatus
    failures = words_of(lookup.ModelFailure) | words_of(lookup.VerifierFailure)
    assert words_of(given) - failures - written_words() == set()
    assert words_of(lookup.VerifierFailure) == {f"verifier_{word}" for word in words_of(lookup.ModelFailure)}
    assert words_of(lookup.Check) == set(CHECKS)


def told(table: str) -> dict[str, set[str]]:
    """The words in the table of statuses, by status."""
    found: dict[str, set[str]] = {}
    for status, words in re.findall(r"^\| ([a-z, ]+) \| (`.+?) \|", table, re.MULTILINE):
        found.setdefault(status, set()).update(re.findall(r"`(\w+)`", words))
    return found


def test_what_the_cache_says_is_documented() -> None:
    """The document lists every tier and every reason for a miss or a bypass, and no other."""
    section = CONFIG_README.partition("### What the cache says")[2].partition("Of answers,")[0]
    words = told(section)
    assert words["hit, shadow"] | words["hit"] == words_of(lookup.Tier)
    assert words["skipped"] == words_of(lookup.SkipReason)
    # The table marks failures with an ellipsis. The last two do not belong to requests that a client sends.
    failures = words_of(lookup.ModelFailure) | words_of(lookup.VerifierFailure)
    assert words["miss"] - failures == words_of(lookup.MissReason) - failures - {"off", "unknown"}


def test_what_becomes_of_answers_is_documented() -> None:
    """The document lists every result of `llm_cache_stores_total`, and no other."""
    section = CONFIG_README.partition("Of answers, `llm_cache_stores_total`")[2].partition("\n## ")[0]
    assert set(first_cells(section)) - {"result"} == words_of(lookup.StoreResult)


# -- paths and commands ------------------------------------------------------------------------------------------------


def test_paths_of_the_admin_port_are_documented() -> None:
    """config/README.md lists them at `admin.enabled`, and those that the README names exist."""
    routes = words_in_code(r'web\.(?:get|post)\("(/[a-z]+)', "admin") | set(
        re.findall(r'web\.(?:get|post)\("(/[a-z]+)', (ROUTER / "runtime" / "workers.py").read_text(encoding="utf-8"))
    )
    row = next(line for line in CONFIG_README.splitlines() if line.startswith("| `admin.enabled`"))
    assert set(re.findall(r"`(/[a-z]+)", row)) == routes
    readme = re.search(r"Admin port \(.*?\. Dashboard", (ROOT / "README.md").read_text(), re.DOTALL)
    assert readme
    assert set(re.findall(r"`(?:POST )?(/[a-z]+)", readme[0])) <= routes


def test_the_readme_names_every_command() -> None:
    """It names no other."""
    found = re.search(r"`semantic-router ([a-z]+ \|[a-z| -]+)`", (ROOT / "README.md").read_text())
    assert found
    assert set(found[1].split(" | ")) == {path.split()[0] for path in COMMANDS if path}


def calls(text: str) -> Iterator[str]:
    """The commands that a document shows after `semantic-router`, with continued lines joined."""
    for span in re.findall(r"`([^`]*semantic-router [^`]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        yield span.replace("\n", " ").partition("semantic-router ")[2]
    for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if "semantic-router " in line and not line.lstrip().startswith("#"):
                yield re.sub(r" +# .*", "", line.partition("semantic-router ")[2])


@pytest.mark.parametrize("document", DOCUMENTS, ids=identify)
def test_commands_that_a_document_shows_exist_with_their_options(document: Path) -> None:
    """The words before the first placeholder are a command, and each option is one of that command's."""
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
    """The options of a command and of the commands that contain it."""
    words = path.split()
    for length in range(1, len(words) + 1):
        if (command := COMMANDS.get(" ".join(words[:length]))) is not None:
            yield from command._actions


def test_benches_and_training_that_documents_name_exist() -> None:
    """This covers parts and options of `make bench` and `make train`, and commands and options of `python -m router.training`."""
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
    """Metrics stand in the table of deploy/dashboards, headers among those that clients see or may send."""
    metrics = (ROOT / "deploy/dashboards/README.md").read_text(encoding="utf-8")
    metrics = set(re.findall(r"^\| `(llm_\w+)` \|", metrics, re.MULTILINE))
    headers = set(first_cells(SEEN.partition("| code |")[0])) | {"x-vsr-cache-ttl"}
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        assert set(re.findall(r"`(llm_[a-z_]*[a-z])[`{]", text)) <= metrics, document
        assert set(re.findall(r"\b(x-vsr-[a-z-]*[a-z])\b", text)) <= headers, document


def test_configuration_keys_that_documents_name_exist() -> None:
    """A key written as `section.key` stands in the tables of config/README.md."""
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
    """Sleeps that no condition ends. A line may be exempt if the pause is the situation: a stalled loop, or a slow client."""
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
    """A fixed time is too short on a busy machine and too long on any other."""
    files = [file for file in (ROOT / "tests").rglob("*.py") if "bench" not in file.parts]
    assert [wait for file in files for wait in fixed_waits(file)] == []
