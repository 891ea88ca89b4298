"""`--help` of every command: what it does, what each option means, and an example that can be typed."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

import pytest

from router.cli.help import EXAMPLES, commands_of
from router.cli.main import _parser

PARSER = _parser()
COMMANDS = dict(commands_of(PARSER))


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_says_what_it_does_with_every_option_and_by_example(path: str) -> None:
    """Nobody has to guess."""
    command = COMMANDS[path]
    assert command.description
    silent = [action.dest for action in command._actions if not action.help and action.help is not argparse.SUPPRESS]
    assert silent == []
    for line in EXAMPLES[path]:
        assert line in command.format_help()


@pytest.mark.parametrize("path", EXAMPLES)
def test_an_example_can_be_typed(path: str) -> None:
    """Every example is accepted as it is printed."""
    assert path in COMMANDS
    for line in EXAMPLES[path]:
        words = shlex.split(line.partition(" < ")[0])
        assert words[0] == "semantic-router"
        assert words[1 : len(path.split()) + 1] == path.split()
        assert PARSER.parse_args(words[1:]).run


@pytest.mark.parametrize("line", ["cache --admin a:1 --config x.yaml stats", "cache stats --admin a:1 --config x.yaml"])
def test_common_options_stand_before_or_behind_the_operation(line: str) -> None:
    """Both places work, as the usage of each command shows."""
    options = PARSER.parse_args(shlex.split(line))
    assert (options.admin, options.config) == ("a:1", Path("x.yaml"))


def test_without_common_options_the_defaults_hold() -> None:
    """The defaults of the operation do not hide those of the command."""
    options = PARSER.parse_args(["cache", "stats"])
    assert (options.admin, options.config) == (None, Path("config/config.yaml"))
