"""`semantic-router cache ...`: asks a running router over its admin port."""

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
from typing import IO, Any

from router.errors import ConfigError, Problem

_TIMEOUT_S = 60.0
_PAGE = 100
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_STORE_WAIT_S, _STORE_POLL_S = 2.0, 0.05
_MAX_NAMED = 20
_HALF_PAIR = re.compile("[\ud800-\udfff]")

Ask = Callable[[str, Mapping[str, Any]], dict[str, Any]]


def add_commands(parser: argparse.ArgumentParser) -> None:
    """The operations as subcommands; each sets `operate`, which takes the options and a way to ask."""
    commands = parser.add_subparsers(required=True, metavar="OPERATION")
    command = commands.add_parser("stats", help="sizes, hits, misses by reason, the store's state")
    command.set_defaults(operate=lambda options, ask: _print(ask("stats", {})))
    command = commands.add_parser("get", help="one entry with its answer")
    command.add_argument("id", help="x-vsr-cache-entry of an answer, or from `cache search`")
    command.set_defaults(operate=_get)
    command = commands.add_parser("search", help="entries whose question holds a text or is near to it")
    command.add_argument("text", help="a question, or a part of one")
    command.add_argument("--decision", default="", help="only of what this rule decided; `default` for none")
    command.add_argument("--limit", type=int, default=20, help="how many at most; default: %(default)s")
    command.set_defaults(operate=_search)
    command = commands.add_parser("invalidate", help="forget entries, in every replica")
    command.add_argument("--id", action="append", dest="ids", help="may be given several times")
    command.add_argument("--decision", help="what this rule decided")
    command.add_argument("--model", help="what this model answered")
    command.add_argument("--scope", metavar="DIGEST", help="of one principal, as `cache get` shows it")
    _add_scope_value(command, "of the principal whose value of the scope's header, such as Authorization, is in FILE")
    command.add_argument("--older-than", type=_age, metavar="AGE", help="such as 30m, 12h or 7d")
    command.add_argument("--all", action="store_true", help="every entry")
    command.add_argument("--dry-run", action="store_true", help="only count them")
    command.set_defaults(operate=_invalidate)
    command = commands.add_parser("reject", help="an answer was wrong: forget it, and do not pair those questions again")
    command.add_argument(
        "id", help="x-vsr-cache-entry as the client got it; an entry's id alone takes its question out of all pairing"
    )
    command.set_defaults(operate=_reject)
    command = commands.add_parser("export", help="every entry with its answer, as JSON lines")
    command.add_argument("file", type=Path, nargs="?", help="default: standard output")
    command.set_defaults(operate=_export)
    command = commands.add_parser("import", help="take entries that export wrote")
    command.add_argument("file", type=Path, help="JSON lines, as `cache export` writes them")
    command.set_defaults(operate=_import)
    command = commands.add_parser("warm", help="ask questions through Envoy, so that their answers are stored")
    command.add_argument("file", type=Path, help='JSON lines: a whole chat request, or {"prompt": "..."}')
    command.add_argument("--url", default="http://localhost:8801", help="where Envoy listens; default: %(default)s")
    command.add_argument("--authorization", default="", help="this header's value: answers are stored for this principal")
    _add_scope_value(command, "the value of the scope's header, which need not be Authorization, is in FILE")
    command.set_defaults(operate=_warm)


def _add_scope_value(command: argparse.ArgumentParser, help_text: str) -> None:
    command.add_argument(
        "--scope-value-file",
        metavar="FILE",
        help=f"{help_text}; - for standard input: a secret in the arguments is for all to see",
    )


def asker(address: str) -> Ask:
    """A way to ask the admin port at `address`, host:port.

    What it raises is a ConfigError: nobody answers there, or the router refuses.
    """

    def ask(operation: str, document: Mapping[str, Any]) -> dict[str, Any]:
        return _post(
            f"http://{address}/cache/{operation}", json.dumps(document).encode(), {}, f"the router's admin port at {address}"
        )

    return ask


def _post(url: str, body: bytes, headers: Mapping[str, str], whom: str) -> dict[str, Any]:
    request = urllib.request.Request(url, body, {"content-type": "application/json", **headers})  # noqa: S310 - the operator's own
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310 - the same
            document: dict[str, Any] = json.load(response)
            return document
    except urllib.error.HTTPError as error:
        raise ConfigError([Problem("cache", 0, "", _reason(error))]) from None
    except (OSError, ValueError) as error:
        message = f"{whom} does not answer ({getattr(error, 'reason', error)}); is it running?"
        raise ConfigError([Problem("cache", 0, "", message)]) from None


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {error.code}"


def _print(document: Mapping[str, Any]) -> int:
    print(_dumps(document, indent=2))
    return 0


def _dumps(document: Mapping[str, Any], indent: int | None = None) -> str:
    """JSON for people to read. Half a surrogate pair is no UTF-8 and stays escaped."""
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
        raise ConfigError([Problem("cache", 0, "invalidate", f"say which entries: {ways}")])
    answer = ask("invalidate", {**document, "all": options.all, "dry_run": options.dry_run})
    count = answer["count"]
    print(f"{count} entries {'would be forgotten' if options.dry_run else 'forgotten'}")
    if not count:
        print("nothing that this router holds was meant", file=sys.stderr)
    return _told(answer) or (0 if count else 1)


def _told(answer: Mapping[str, Any]) -> int:
    """0, or 1 and a word on what the store has not heard yet."""
    if answer.get("store") != "waiting":
        return 0
    message = (
        "the store has not heard of it yet: other replicas do when it is back, unless this router ends before (`cache stats`)"
    )
    print(message, file=sys.stderr)
    return 1


def _scope_value(name: str) -> str:
    """A header's value from a file, `-` for standard input; the end of its line is no part of it."""
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise ConfigError([Problem(name, 0, "", f"cannot be read: {error.strerror}")]) from None
    value = data.decode("utf-8", "surrogateescape").removesuffix("\n").removesuffix("\r")
    if "\n" in value or "\r" in value or "\0" in value:
        raise ConfigError([Problem(name, 0, "", "holds more than one line; the header's value alone was expected")])
    if not value:
        raise ConfigError([Problem(name, 0, "", "is empty; the header's value was expected, such as: Bearer sk-...")])
    return value


def _reject(options: argparse.Namespace, ask: Ask) -> int:
    answer = ask("reject", {"id": options.id})
    if not answer["count"]:
        message = "there is no such entry; give x-vsr-cache-entry as the client got it, which works when the entry is gone, too"
        print(message, file=sys.stderr)
        return 1
    if answer["reference"] == options.id:
        print("forgotten, and not paired again")
    else:
        print("forgotten; whom it was given to is not known, so its question is not paired with any other again")
    return _told(answer)


def _pages(ask: Ask) -> Iterator[dict[str, Any]]:
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
    print(f"{count} entries in {options.file}")
    return 0


def _write(file: IO[str], ask: Ask) -> int:
    count = 0
    for page in _pages(ask):
        for entry in page["entries"]:
            file.write(_dumps({"versions": page["versions"], **entry}) + "\n")
            count += 1
    return count


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file with their line numbers."""
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:  # no other end of a line: JSON may hold those as they are
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _object(path, number, line)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(str(path), 0, "", f"cannot be read: {error}")]) from None


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise ConfigError([Problem(str(path), number, "", "a JSON object was expected")])
    return document


def _import(options: argparse.Namespace, ask: Ask) -> int:
    batch: list[tuple[int, dict[str, Any]]] = []
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
    print(f"{counts['count']} entries taken")
    words = {"expired": "have expired", "known": "ask what has an answer here", "refused": "are wrong"}
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
        print(f"\r{count} asked", end="", flush=True)
    print()
    missed = sum(count for status, count in statuses.items() if status.startswith("miss"))
    hits = sum(count for status, count in statuses.items() if status.startswith("hit"))
    stored = _await_stored(ask, before, missed)
    print(f"{stored} stored, {hits} there already")
    if stored < missed:
        print(f"{missed - stored} answers were not kept: the router's log says why, as `stored`", file=sys.stderr)
    for status, count in sorted(statuses.items()):
        if not status.startswith(("miss", "hit")):
            print(f"{count} not stored: {status}", file=sys.stderr)
    return 0 if stored or hits else 1


def _principal(options: argparse.Namespace, ask: Ask) -> dict[str, str]:
    """Headers that say for whom answers are stored."""
    name = _workers(ask("stats", {}))[0]["scope_header"]
    headers = {"authorization": options.authorization} if options.authorization else {}
    if options.scope_value_file and name:
        headers[name] = _scope_value(options.scope_value_file)
    if name and name not in headers:
        way = "--authorization or --scope-value-file" if name == "authorization" else "--scope-value-file"
        message = f"answers are stored for a principal, and nothing is without the header {name}; give its value with {way}"
        raise ConfigError([Problem("cache", 0, "warm", message)])
    return headers


def _asked(url: str, body: bytes, headers: Mapping[str, str]) -> str:
    """What became of one question, as `x-vsr-cache-status` says it, or the HTTP status of one that failed."""
    encoded = {name: value.encode("utf-8", "surrogateescape") for name, value in headers.items()}
    request = urllib.request.Request(url, body, {"content-type": "application/json", **encoded})  # type: ignore[dict-item]  # noqa: S310 - the operator's own
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310 - the same
            response.read()
            return str(response.headers.get("x-vsr-cache-status") or "the router was bypassed, or its cache is off")
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code}"
    except OSError as error:
        message = f"{url} does not answer ({getattr(error, 'reason', error)}); is Envoy running? --url says where"
        raise ConfigError([Problem("cache", 0, "warm", message)]) from None


def _await_stored(ask: Ask, before: int, expected: int) -> int:
    """How many answers were stored: that happens a moment after the client has its own."""
    deadline = time.monotonic() + _STORE_WAIT_S
    while (stored := _stored(ask) - before) < expected and time.monotonic() < deadline:
        time.sleep(_STORE_POLL_S)
    return min(stored, expected)


def _stored(ask: Ask) -> int:
    return sum(int(worker["stored"]) for worker in _workers(ask("stats", {})))


def _workers(stats: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures of each worker; a single process has no workers."""
    workers: list[dict[str, Any]] = stats.get("workers") or [dict(stats)]
    return workers


def _age(text: str) -> int:
    number, unit = text[:-1], text[-1:]
    if not number.isdecimal() or unit not in _UNITS:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number with s, m, h or d, such as 12h")
    return int(number) * _UNITS[unit]
