"""`semantic-router cache ...`: operates the cache of a running router over its admin port."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

from router.cli.adminport import AdminPort, Document
from router.core.headers import AUTHORIZATION, CACHE_ENTRY_HEADER, CACHE_STATUS_HEADER
from router.errors import ConfigError, Problem

_TIMEOUT_S = 60.0
_PAGE = 100
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_STORE_WAIT_S, _STORE_POLL_S = 2.0, 0.05
_MAX_NAMED = 20
_HALF_PAIR = re.compile("[\ud800-\udfff]")

Ask = Callable[[str, Mapping[str, object]], Document]
"""Takes an operation's name and document, and returns the router's answer."""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the operations as subcommands. Each sets `operate`, which takes the options and an `Ask`."""
    commands = parser.add_subparsers(required=True, metavar="OPERATION")
    command = commands.add_parser("stats", help="show sizes, hits, misses by reason, and the state of the store")
    command.set_defaults(operate=lambda options, ask: _print(ask("stats", {})))
    command = commands.add_parser("get", help="show one entry with its answer")
    command.add_argument("id", help=f"an entry's id, from the header {CACHE_ENTRY_HEADER} of an answer or from `cache search`")
    command.set_defaults(operate=_get)
    command = commands.add_parser("search", help="list entries whose question contains a text or is similar to it")
    command.add_argument("text", help="a question, or part of one")
    command.add_argument("--decision", default="", metavar="RULE", help="only entries that this rule stored, or `default`")
    command.add_argument("--limit", type=int, default=20, help="show at most this many entries; default: %(default)s")
    command.set_defaults(operate=_search)
    command = commands.add_parser(
        "invalidate", help="delete entries in every replica", description="Delete the entries to which all given options apply."
    )
    command.add_argument("--id", action="append", dest="ids", metavar="ID", help="the entry with this id; may be repeated")
    command.add_argument("--decision", metavar="RULE", help="entries that this rule stored, or `default`")
    command.add_argument("--model", help="entries that this model answered")
    command.add_argument("--scope", metavar="DIGEST", help="entries of this principal; `cache get` shows the digest")
    _add_scope_value(command, "entries of one principal: FILE holds the value of the header that semantic_cache.scope names")
    command.add_argument("--older-than", type=_age, metavar="AGE", help="entries older than this, such as 30m, 12h or 7d")
    command.add_argument("--all", action="store_true", help="every entry")
    command.add_argument("--dry-run", action="store_true", help="only count the entries")
    command.set_defaults(operate=_invalidate)
    command = commands.add_parser("reject", help="report a wrong answer: delete it and never match those two questions again")
    command.add_argument(
        "id",
        help=f"the value of {CACHE_ENTRY_HEADER} that the client got; with an entry's id alone, its question matches none again",
    )
    command.set_defaults(operate=_reject)
    command = commands.add_parser("export", help="write every entry with its answer as JSON lines")
    command.add_argument("file", type=Path, nargs="?", help="where to write; default: standard output")
    command.set_defaults(operate=_export)
    command = commands.add_parser("import", help="add the entries of an export")
    command.add_argument("file", type=Path, help="JSON lines, as `cache export` writes them")
    command.set_defaults(operate=_import)
    command = commands.add_parser("warm", help="send questions through Envoy, so that the cache stores their answers")
    command.add_argument("file", type=Path, help='JSON lines, each a whole chat request or {"prompt": "..."}')
    command.add_argument("--url", default="http://localhost:8801", help="where Envoy listens; default: %(default)s")
    command.add_argument(
        "--authorization",
        default="",
        metavar="VALUE",
        help="the Authorization header of the principal for whom answers are stored",
    )
    _add_scope_value(command, "store for this principal: FILE holds the value of the header that semantic_cache.scope names")
    command.set_defaults(operate=_warm)


def _add_scope_value(command: argparse.ArgumentParser, help_text: str) -> None:
    command.add_argument(
        "--scope-value-file",
        metavar="FILE",
        help=f"{help_text} (- for standard input); an argument would show the secret to all users of the machine",
    )


def asker(port: AdminPort) -> Ask:
    """An `Ask` for the router at `port`. It raises as `AdminPort.post` does."""
    return lambda operation, document: port.post(f"/cache/{operation}", document)


def _print(document: Document) -> int:
    print(_dumps(document, indent=2))
    return 0


def _dumps(document: Document, indent: int | None = None) -> str:
    """JSON for people to read. Half a surrogate pair stays escaped, because UTF-8 cannot encode it."""
    text = json.dumps(document, indent=indent, ensure_ascii=False)
    return _HALF_PAIR.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _get(options: argparse.Namespace, ask: Ask) -> int:
    entries = ask("get", {"id": options.id})["entries"]
    if not entries:
        print(f"there is no entry {options.id}", file=sys.stderr)
        return 1
    return _print(entries[0])


def _search(options: argparse.Namespace, ask: Ask) -> int:
    document = {"text": options.text, "decision": options.decision, "limit": options.limit}
    for entry in ask("search", document)["entries"]:
        print(f"{entry['id']}  {entry['similarity']:.3f}  {entry['decision']:12}  {entry['text'][:100]!r}")
    return 0


def _invalidate(options: argparse.Namespace, ask: Ask) -> int:
    document = {name: getattr(options, name) for name in ("ids", "decision", "model", "scope") if getattr(options, name)}
    if options.scope_value_file:
        document["scope_value"] = _scope_value(options.scope_value_file)
    if options.older_than:
        document["before_ms"] = int((time.time() - options.older_than) * 1000)
    if not document and not options.all:
        ways = "--id, --decision, --model, --scope, --scope-value-file, --older-than, or --all"
        raise ConfigError([Problem("cache", 0, "invalidate", f"say which entries, with {ways}")])
    answer = ask("invalidate", {**document, "all": options.all, "dry_run": options.dry_run})
    count = answer["count"]
    print(f"{_entries(count)} {'would be deleted' if options.dry_run else 'deleted'}")
    if not count:
        print("no entry of this router matches", file=sys.stderr)
    return _store_status(answer) or (0 if count else 1)


def _entries(count: int) -> str:
    return "1 entry" if count == 1 else f"{count} entries"


def _store_status(answer: Document) -> int:
    """0, or 1 with a message when the store has not taken the change yet."""
    if answer.get("store") != "waiting":
        return 0
    message = (
        "the store is unavailable and has not taken the change: other replicas see it when the store is back, if this router "
        "still runs then (see `cache stats`)"
    )
    print(message, file=sys.stderr)
    return 1


def _scope_value(name: str) -> str:
    """A header's value from a file, or from standard input for `-`, without the line end."""
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise ConfigError([Problem(name, 0, "", f"cannot be read: {error.strerror}")]) from None
    value = data.decode("utf-8", "surrogateescape").removesuffix("\n").removesuffix("\r")
    if "\n" in value or "\r" in value or "\0" in value:
        raise ConfigError([Problem(name, 0, "", "holds more than one line; only the header's value was expected")])
    if not value:
        raise ConfigError([Problem(name, 0, "", "is empty; a header's value was expected, such as: Bearer sk-...")])
    return value


def _reject(options: argparse.Namespace, ask: Ask) -> int:
    answer = ask("reject", {"id": options.id})
    if not answer["count"]:
        message = (
            f"there is no such entry; give the value of {CACHE_ENTRY_HEADER} that the client got: it works without the entry"
        )
        print(message, file=sys.stderr)
        return 1
    if answer["reference"] == options.id:
        print("deleted; the two questions never match again")
    else:
        print("deleted; the question that it answered is not known, so its own question never matches another again")
    return _store_status(answer)


def _pages(ask: Ask) -> Iterator[Document]:
    after: str | None = ""
    while after is not None:
        page = ask("export", {"after": after, "limit": _PAGE})
        yield page
        after = page["next"]


def _export(options: argparse.Namespace, ask: Ask) -> int:
    if options.file is None:
        _write(sys.stdout, ask)
        return 0
    with options.file.open("w", encoding="utf-8") as file:
        count = _write(file, ask)
    print(f"{_entries(count)} in {options.file}")
    return 0


def _write(file: IO[str], ask: Ask) -> int:
    count = 0
    for page in _pages(ask):
        for entry in page["entries"]:
            file.write(_dumps({"versions": page["versions"], **entry}) + "\n")
            count += 1
    return count


def _lines(path: Path) -> Iterator[tuple[int, Document]]:
    """The objects of a file with their line numbers."""
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:  # JSON strings may hold other line ends unescaped
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _object(path, number, line)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(str(path), 0, "", f"cannot be read: {error}")]) from None


def _object(path: Path, number: int, line: str) -> Document:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise ConfigError([Problem(str(path), number, "", "a JSON object was expected")])
    return document


def _import(options: argparse.Namespace, ask: Ask) -> int:
    batch: list[tuple[int, Document]] = []
    counts: Counter[str] = Counter()
    versions = ""

    def flush() -> None:
        if not batch:
            return
        answer = ask("import", {"versions": versions, "entries": [entry for _, entry in batch]})
        counts.update({name: answer[name] for name in ("count", "expired", "known")})
        for refused in answer["refused"]:
            counts["refused"] += 1
            if counts["refused"] <= _MAX_NAMED:
                problem = Problem(str(options.file), batch[refused["index"]][0], refused["field"], f"must be {refused['must']}")
                print(problem, file=sys.stderr)
        batch.clear()

    for number, entry in _lines(options.file):
        if len(batch) >= _PAGE or entry.get("versions") != versions:
            flush()
        versions = entry.pop("versions", "")
        batch.append((number, entry))
    flush()
    print(f"{_entries(counts['count'])} imported")
    words = {"expired": "have expired", "known": "are answered here already", "refused": "have errors"}
    for name, word in words.items():
        if counts[name]:
            print(f"{counts[name]} left out: they {word}", file=sys.stderr)
    return 1 if counts["refused"] else 0


def _warm(options: argparse.Namespace, ask: Ask) -> int:
    headers = _principal(options, ask)
    before, statuses = _stored(ask), Counter[str]()
    for count, (_, line) in enumerate(_lines(options.file), 1):
        request = {"messages": [{"role": "user", "content": line["prompt"]}]} if set(line) == {"prompt"} else line
        body = json.dumps({"model": "auto", **request, "stream": False}).encode()
        statuses[_asked(f"{options.url}/v1/chat/completions", body, headers)] += 1
        print(f"\r{count} sent", end="", flush=True)
    print()
    missed = sum(count for status, count in statuses.items() if status.startswith("miss"))
    hits = sum(count for status, count in statuses.items() if status.startswith("hit"))
    stored = _await_stored(ask, before, missed)
    print(f"{stored} stored, {hits} already stored")
    if stored < missed:
        message = f"{missed - stored} answers were not stored; the field `stored` of the router's access log says why"
        print(message, file=sys.stderr)
    for status, count in sorted(statuses.items()):
        if not status.startswith(("miss", "hit")):
            print(f"{count} not stored: {status}", file=sys.stderr)
    return 0 if stored or hits else 1


def _principal(options: argparse.Namespace, ask: Ask) -> dict[str, str]:
    """The headers of the principal for whom answers are stored."""
    name = _workers(ask("stats", {}))[0]["scope_header"]
    headers = {AUTHORIZATION: options.authorization} if options.authorization else {}
    if options.scope_value_file and name:
        headers[name] = _scope_value(options.scope_value_file)
    if name and name not in headers:
        way = "--authorization or --scope-value-file" if name == AUTHORIZATION else "--scope-value-file"
        message = f"the cache stores answers by the header {name}, and none without it; give its value with {way}"
        raise ConfigError([Problem("cache", 0, "warm", message)])
    return headers


def _asked(url: str, body: bytes, headers: Mapping[str, str]) -> str:
    """The `x-vsr-cache-status` of one question, or the HTTP status if it failed."""
    encoded = {name: value.encode("utf-8", "surrogateescape") for name, value in headers.items()}
    request = urllib.request.Request(url, body, {"content-type": "application/json", **encoded})  # type: ignore[dict-item]  # noqa: S310 - the operator's own
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310 - the same
            response.read()
            return str(response.headers.get(CACHE_STATUS_HEADER) or "Envoy bypassed the router, or the cache is off")
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code}"
    except OSError as error:
        message = (
            f"{url} does not answer ({getattr(error, 'reason', error)}); is Envoy running there? --url names another address"
        )
        raise ConfigError([Problem("cache", 0, "warm", message)]) from None


def _await_stored(ask: Ask, before: int, expected: int) -> int:
    """Wait until `expected` answers are stored, and return how many are. Storing happens just after the client has its answer."""
    deadline = time.monotonic() + _STORE_WAIT_S
    while (stored := _stored(ask) - before) < expected and time.monotonic() < deadline:
        time.sleep(_STORE_POLL_S)
    return min(stored, expected)


def _stored(ask: Ask) -> int:
    return sum(int(worker["stored"]) for worker in _workers(ask("stats", {})))


def _workers(stats: Document) -> list[Document]:
    """The figures of each worker. The answer of a single worker has no list."""
    workers: list[Document] = stats.get("workers") or [dict(stats)]
    return workers


def _age(text: str) -> int:
    number, unit = text[:-1], text[-1:]
    if not number.isdecimal() or unit not in _UNITS:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number followed by s, m, h or d, such as 12h")
    return int(number) * _UNITS[unit]
