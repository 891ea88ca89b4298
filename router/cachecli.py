"""`semantic-router cache ...`: asks a running router over its admin port."""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from router.errors import ConfigError, Problem

_TIMEOUT_S = 60.0
_PAGE = 100
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

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
    command.add_argument("--older-than", type=_age, metavar="AGE", help="such as 30m, 12h or 7d")
    command.add_argument("--all", action="store_true", help="every entry")
    command.add_argument("--dry-run", action="store_true", help="only count them")
    command.set_defaults(operate=_invalidate)
    command = commands.add_parser("report", help="an answer was wrong: forget it, and do not pair those questions again")
    command.add_argument("id", help="x-vsr-cache-entry of the wrong answer")
    command.set_defaults(operate=_report)
    command = commands.add_parser("export", help="every entry with its answer, as JSON lines")
    command.add_argument("file", type=Path, nargs="?", help="default: standard output")
    command.set_defaults(operate=_export)
    command = commands.add_parser("import", help="take entries that export wrote")
    command.add_argument("file", type=Path, help="JSON lines, as `cache export` writes them")
    command.set_defaults(operate=_import)
    command = commands.add_parser("warm", help="ask questions through Envoy, so that their answers are stored")
    command.add_argument("file", type=Path, help='JSON lines: a whole chat request, or {"prompt": "..."}')
    command.add_argument("--url", default="http://localhost:8801", help="where Envoy listens; default: %(default)s")
    command.add_argument("--authorization", default="", help="the header's value: answers are stored for this principal")
    command.set_defaults(operate=_warm)


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
    print(json.dumps(document, indent=2, ensure_ascii=False))
    return 0


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
    if options.older_than:
        document["before_ms"] = int((time.time() - options.older_than) * 1000)
    if not document and not options.all:
        ways = "--id, --decision, --model, --scope, --older-than, or --all"
        raise ConfigError([Problem("cache", 0, "invalidate", f"say which entries: {ways}")])
    count = ask("invalidate", {**document, "all": options.all, "dry_run": options.dry_run})["count"]
    print(f"{count} entries {'would be forgotten' if options.dry_run else 'forgotten'}")
    return 0


def _report(options: argparse.Namespace, ask: Ask) -> int:
    if not ask("report", {"id": options.id})["count"]:
        print(f"there is no entry {options.id}", file=sys.stderr)
        return 1
    print("forgotten, and not paired again")
    return 0


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
            file.write(json.dumps({"versions": page["versions"], **entry}, ensure_ascii=False) + "\n")
            count += 1
    return count


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(str(path), 0, "", f"cannot be read: {error}")]) from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _object(path, number, line)


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        document = json.loads(line)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise ConfigError([Problem(str(path), number, "", "a JSON object was expected")])
    return document


def _import(options: argparse.Namespace, ask: Ask) -> int:
    batch: list[dict[str, Any]] = []
    versions, count = "", 0

    def flush() -> int:
        taken = int(ask("import", {"versions": versions, "entries": batch})["count"]) if batch else 0
        batch.clear()
        return taken

    for entry in _lines(options.file):
        if len(batch) >= _PAGE or entry.get("versions") != versions:
            count += flush()
        versions = entry.pop("versions", "")
        batch.append(entry)
    count += flush()
    print(f"{count} entries taken")
    return 0


def _warm(options: argparse.Namespace, ask: Ask) -> int:
    headers = {"authorization": options.authorization} if options.authorization else {}
    for count, line in enumerate(_lines(options.file), 1):
        request = {"messages": [{"role": "user", "content": line["prompt"]}]} if set(line) == {"prompt"} else line
        body = json.dumps({"model": "auto", **request, "stream": False}).encode()
        _post(f"{options.url}/v1/chat/completions", body, headers, options.url)
        print(f"\r{count} asked", end="", flush=True)
    print()
    return 0


def _age(text: str) -> int:
    number, unit = text[:-1], text[-1:]
    if not number.isdecimal() or unit not in _UNITS:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number with s, m, h or d, such as 12h")
    return int(number) * _UNITS[unit]
