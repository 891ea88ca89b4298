"""`semantic-router explain`: what it is asked about, and whom it asks: the files on this machine, or a running router."""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from router.admin.asked import ENDPOINTS, Asked, joined, prompt_body, read_asked, read_header
from router.config.load import Config, load
from router.errors import ConfigError, Problem, RequestError

_ANSWER_S = 60.0
_OK = 200


def add_options(command: argparse.ArgumentParser) -> None:
    """Of the command."""
    command.add_argument("prompt", nargs="?", help="the prompt; without it, a request's JSON is read from standard input")
    command.add_argument(
        "--body", metavar="FILE", help="a whole request as JSON, in the place of the prompt; - for standard input"
    )
    command.add_argument(
        "--endpoint", choices=tuple(ENDPOINTS), default="chat", help="which the request is sent to; default: %(default)s"
    )
    command.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="a header of the request; may be repeated",
    )
    command.add_argument(
        "--running", action="store_true", help="ask the running router, which knows its cache, at the configured admin port"
    )
    command.add_argument("--admin", metavar="HOST:PORT", help="ask the router at this admin port, or at unix:/path")
    command.add_argument("--json", action="store_true", help="print a JSON document")


def explained(options: argparse.Namespace) -> list[str]:
    """What is printed.

    Raises:
        ConfigError: the options, a file, or the running router's answer are for the operator to mend.
    """
    try:
        asked = _asked(options)
    except RequestError as error:
        raise ConfigError([Problem("explain", 0, "", error.message)]) from None
    document = _from_running(options, asked) if options.running or options.admin else _from_files(load(options.config), asked)
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
    asked = read_asked(data)  # what the admin port takes is taken here, too
    return replace(asked, headers={**asked.headers, **headers})


def _from_files(config: Config, asked: Asked) -> Mapping[str, Any]:
    from router.admin.explain import explain
    from router.runtime.build import build

    runtime = build(config, is_serving=False)
    # What the cache is told to do can be read here; what it holds, and the key of its scopes, only a running router knows.
    plan = config.cache.plan(b"", "") if config.cache.enabled else None
    return asyncio.run(explain(replace(runtime.snapshot, cache=plan), runtime.senses, asked))


def _from_running(options: argparse.Namespace, asked: Asked) -> Mapping[str, Any]:
    address = options.admin
    if not address:
        admin = load(options.config).admin
        if not admin.enabled:
            raise ConfigError([Problem(str(options.config), 0, "admin.enabled", "is false, so nobody can be asked")])
        address = admin.address
    return _post(address, json.dumps(asked.as_document()).encode())


def _post(address: str, body: bytes) -> Mapping[str, Any]:
    from router.cli.restart import connection_to

    connection = connection_to(address, _ANSWER_S)
    try:
        connection.request("POST", "/explain", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        document = json.loads(answer.read())
        if answer.status == _OK and isinstance(document, dict):
            return document
        message = document["error"]["message"]
    except (LookupError, TypeError, ValueError):
        message = f"{address} gives no explanation: is the admin port of a router there?"
    except (OSError, http.client.HTTPException) as error:
        message = f"nobody answers at {address} ({error or type(error).__name__}); is the router running?"
    finally:
        connection.close()
    raise ConfigError([Problem("explain", 0, "", message)])


def _as_json(document: Mapping[str, Any]) -> str:
    return _printable(json.dumps(document, indent=2, ensure_ascii=False))


def _as_text(document: Mapping[str, Any]) -> Iterator[str]:
    from router.cli.explaintext import render

    return map(_printable, render(document))


def _printable(text: str) -> str:
    """Half a surrogate pair, which a body may hold, is no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
