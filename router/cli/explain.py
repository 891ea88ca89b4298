"""`semantic-router explain`: reads a request and explains it, from the files on this machine or by asking a running router."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from router.admin.asked import ENDPOINTS, Asked, joined, prompt_body, read_asked, read_header
from router.cli.adminport import admin_port
from router.config.load import Config, load
from router.errors import ConfigError, Problem, RequestError


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `explain`."""
    command.add_argument("prompt", nargs="?", help="the prompt; without it, standard input must hold a request as JSON")
    command.add_argument(
        "--body", metavar="FILE", help="a file with a whole request as JSON, instead of a prompt; - for standard input"
    )
    command.add_argument(
        "--endpoint", choices=tuple(ENDPOINTS), default="chat", help="the endpoint of the request; default: %(default)s"
    )
    command.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="a header of the request; may be repeated",
    )
    command.add_argument(
        "--running", action="store_true", help="ask the running router, which knows its cache, over the configured admin port"
    )
    command.add_argument("--admin", metavar="ADDRESS", help="ask the router with its admin port at this host:port or unix:/path")
    command.add_argument("--json", action="store_true", help="print JSON")


def explained(options: argparse.Namespace) -> list[str]:
    """The lines to print.

    Raises:
        ConfigError: the options or a file are wrong, or the running router does not explain the request.
    """
    try:
        asked = _asked(options)
    except RequestError as error:
        raise ConfigError([Problem("explain", 0, "", error.message)]) from None
    if options.running or options.admin:
        document: Mapping[str, object] = admin_port(options).post("/explain", asked.as_document())
    else:
        document = _from_files(load(options.config), asked)
    return [_as_json(document)] if options.json else list(_as_text(document))


def _asked(options: argparse.Namespace) -> Asked:
    headers, endpoint = joined(map(read_header, options.header)), ENDPOINTS[options.endpoint]
    if options.body and options.prompt:
        raise RequestError(400, "give a prompt or --body, not both")
    if options.prompt not in (None, "-"):
        return Asked(prompt_body(options.prompt, endpoint), headers, endpoint)
    file = options.body or "-"
    if file != "-":
        try:
            return Asked(Path(file).read_bytes(), headers, endpoint)
        except OSError as error:
            raise ConfigError([Problem(file, 0, "", f"cannot be read: {error.strerror}")]) from None
    data = sys.stdin.buffer.read()
    if options.body or options.endpoint != "chat":
        return Asked(data, headers, endpoint)
    asked = read_asked(data)  # standard input may hold any document that the admin port accepts
    return replace(asked, headers={**asked.headers, **headers})


def _from_files(config: Config, asked: Asked) -> Mapping[str, object]:
    from router.admin.explain import explain
    from router.runtime.build import build

    runtime = build(config, is_serving=False)
    # The configuration says how the cache would be asked. Only a running router knows its entries and the key of its scopes.
    plan = config.cache.plan(b"", "") if config.cache.enabled else None
    return asyncio.run(explain(replace(runtime.snapshot, cache=plan), runtime.signal_reader, asked))


def _as_json(document: Mapping[str, object]) -> str:
    return _printable(json.dumps(document, indent=2, ensure_ascii=False))


def _as_text(document: Mapping[str, object]) -> Iterator[str]:
    from router.cli.explaintext import render

    return map(_printable, render(document))


def _printable(text: str) -> str:
    """Escape half surrogate pairs, which a body may hold and UTF-8 cannot encode."""
    return text.encode("utf-8", "backslashreplace").decode()
