"""Explains YAML syntax errors to the person who wrote the file. Knows the parser's messages, and no file."""

from __future__ import annotations

import re

from yaml.error import Mark, MarkedYAMLError

_MUST_BE_QUOTED = re.compile(
    r"character '([@`%*&!|>])' that cannot start|expected alphabetic or numeric character|undefined alias"
)
_NO_COLON = "could not find expected ':'"
_OPEN_BRACKET = re.compile(r"expected ',' or '([\]}])'")


def place_of(error: MarkedYAMLError) -> Mark | None:
    """The place of the mistake. The parser reports a missing colon only at the next line."""
    return error.context_mark if error.problem == _NO_COLON and error.context_mark else error.problem_mark


def explain(error: MarkedYAMLError, text: str) -> str:
    """What is wrong at the parser's place and how to fix it. The parser's own message if there is no better one."""
    said, mark = str(error.problem or ""), error.problem_mark
    if mark is None:
        return said or "it cannot be read"
    line = next(iter(text.split("\n")[mark.line : mark.line + 1]), "")
    if "'\\t'" in said:
        return "a tab stands where YAML takes spaces only; indent with spaces"
    if said.startswith("mapping values are not allowed"):
        return _second_colon(line, mark)
    if said.startswith("expected <block end>"):
        return _misplaced(said, mark, error.context_mark)
    if "unknown escape character" in said:
        return "a backslash inside double quotes is an escape; write this text in single quotes"
    if said == _NO_COLON:
        return "this line is no key with a value; behind a key stand a colon and a space"
    if closing := _OPEN_BRACKET.search(said):
        return _in_brackets(said, closing[1], line, mark, error.context_mark)
    if "end of stream" in said and "quoted" in str(error.context):
        return f"the quotation mark that opens {_place(error.context_mark)} is not closed"
    if _MUST_BE_QUOTED.search(said):
        return f"this value has to stand in quotes ({said})"
    return said


def _second_colon(line: str, mark: Mark) -> str:
    if ": " in line[: mark.column]:
        return "the value holds ': ' itself; put it in quotes"
    found = f"this line is indented by {len(line) - len(line.lstrip())} and belongs to nothing above it"
    return f"{found}; start it in the column of the keys beside it, and see whether the line above lacks its ':'"


def _in_brackets(said: str, closing: str, line: str, mark: Mark, opening: Mark | None) -> str:
    if said.endswith("but got ':'") and ": " in line[: mark.column]:
        return "a value holds ': ' itself, and has to stand in quotes; or the ',' before the next key is missing"
    return f"'{closing}' is missing: the list or mapping that opens {_place(opening)} is not closed"


def _misplaced(said: str, mark: Mark, block: Mark | None) -> str:
    if "<scalar>" in said:
        return "text follows a value that has ended; a single quote inside single quotes is written twice"
    fix = f"; the lines beside it start in column {block.column + 1}, as line {block.line + 1} does" if block else ""
    return f"this line starts in column {mark.column + 1}, where nothing above it does{fix}"


def _place(mark: Mark | None) -> str:
    return f"in line {mark.line + 1}" if mark else "above"
