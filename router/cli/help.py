"""Completes the `--help` of every command with a description and examples."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

EXAMPLES = {
    "serve": ["semantic-router serve --config config/config.yaml"],
    "restart": ["semantic-router restart", "semantic-router restart --admin 127.0.0.1:8802"],
    "up": ["semantic-router up"],
    "check": ["semantic-router check --config config/config.yaml --envoy envoy/envoy.yaml"],
    "explain": [
        "semantic-router explain 'Prove that the square root of two is irrational.'",
        "semantic-router explain --header 'x-team: research' 'Hello there'",
        "semantic-router explain --running --header 'authorization: Bearer test-token' 'What is the capital of France?'",
        "semantic-router explain --endpoint completions --body request.json --json",
        "semantic-router explain --json < request.json",
    ],
    "models": ["semantic-router models"],
    "mock-vllm": ["semantic-router mock-vllm small=127.0.0.1:8101 large=127.0.0.1:8102"],
    "eval intent": [
        "semantic-router eval intent labelled.jsonl",
        "semantic-router eval intent labelled.jsonl --bundle config/department",
    ],
    "eval routing": ["semantic-router eval routing outcomes.jsonl"],
    "eval jailbreak": ["semantic-router eval jailbreak attacks.jsonl --threshold 0.7"],
    "eval pii": ["semantic-router eval pii marked.jsonl"],
    "eval cache": ["semantic-router eval cache pairs.jsonl --max-false-hit-rate 0.02"],
    "train intent": ["semantic-router train intent --data labelled.jsonl --out config/department"],
    "calibrate intent": ["semantic-router calibrate intent --from traffic.jsonl --accuracy 0.95"],
    "calibrate cache": ["semantic-router calibrate cache pairs.jsonl --out config/calibration.json"],
    "cache stats": ["semantic-router cache stats", "semantic-router cache stats --admin 127.0.0.1:8802"],
    "cache get": ["semantic-router cache get 5c4138db5595409b9efe50b22eaa6236"],
    "cache search": ["semantic-router cache search 'capital of France' --limit 5"],
    "cache invalidate": [
        "semantic-router cache invalidate --model small --older-than 12h --dry-run",
        "semantic-router cache invalidate --all",
    ],
    "cache reject": ["semantic-router cache reject 5c4138db5595409b9efe50b22eaa6236"],
    "cache export": ["semantic-router cache export entries.jsonl"],
    "cache import": ["semantic-router cache import entries.jsonl"],
    "cache warm": ["semantic-router cache warm questions.jsonl --authorization 'Bearer test-token'"],
}
"""Command lines to type, by command. A test parses each."""


def commands_of(parser: argparse.ArgumentParser, path: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command without subcommands, with its words as they are typed."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield path, parser
    for action in below:
        for name, child in action.choices.items():
            yield from commands_of(child, f"{path} {name}".strip())


def complete(parser: argparse.ArgumentParser) -> None:
    """Give every command its description and examples, and each group of commands a hint at their help."""
    for path, command in commands_of(parser):
        lines = EXAMPLES.get(path, [])
        command.epilog = "\n".join([f"example{'s' if len(lines) > 1 else ''}:", *(f"  {line}" for line in lines)])
        command.formatter_class = argparse.RawDescriptionHelpFormatter
    _describe(parser)


def _describe(parser: argparse.ArgumentParser) -> None:
    """Make the help text of a command in the list its description, as a sentence."""
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            continue
        said = {choice.dest: choice.help for choice in action._choices_actions}
        for name, child in action.choices.items():
            child.description = child.description or _sentence(said.get(name))
            _describe(child)
        parser.epilog = f"`{parser.prog} {action.metavar} --help` shows the help of one."


def _sentence(text: str | None) -> str | None:
    return f"{text[0].upper()}{text[1:]}." if text else text
