"""If a file is not valid YAML, the message says what to do and at which line."""

from __future__ import annotations

import pytest

from router.config.reader import compose
from router.errors import ConfigError

CASES = {
    "tab": ("a:\n\tb: 1\n", 2, "a tab stands where YAML takes spaces only; indent with spaces"),
    "too little": (
        "models:\n  small: {}\n large: {}\n",
        3,
        "this line starts in column 2, where nothing above it does; the lines beside it start in column 1, as line 1 does",
    ),
    "too much": (
        "models:\n  small: {}\n    large: {}\n",
        3,
        "this line starts in column 5, where nothing above it does; the lines beside it start in column 3, as line 2 does",
    ),
    "a list": ("rules:\n  - name: x\n - name: y\n", 3, "this line starts in column 2"),
    "under a value": ("rules:\n- name: a\n   when: {}\n", 3, "indented by 3 and belongs to nothing above it"),
    "no colon above": ("version 1\nmodels: {}\n", 2, "see whether the line above lacks its ':'"),
    "two colons": ("message: Not here: go away\n", 1, "the value holds ': ' itself; put it in quotes"),
    "two colons in braces": (
        "x: { message: Not here: go away, y: 1 }\n",
        1,
        "a value holds ': ' itself, and has to stand in quotes",
    ),
    "no comma": ("x: { y: 1 z: 2 }\n", 1, "or the ',' before the next key is missing"),
    "no space": ("a: 1\nb:2\nc: 3\n", 2, "behind a key stand a colon and a space"),
    "escape": ('regex: "\\d"\n', 1, "write this text in single quotes"),
    "open list": ("a: [1, 2\nb: 3\n", 2, "']' is missing: the list or mapping that opens in line 1 is not closed"),
    "open mapping": ("a: {x: 1\nb: 2\n", 2, "'}' is missing"),
    "open quote": ('\nx: "abc\ny: 1\n', 4, "the quotation mark that opens in line 2 is not closed"),
    "quote inside": ("x: 'it's'\n", 1, "a single quote inside single quotes is written twice"),
    "at": ("x: @y\n", 1, "has to stand in quotes"),
    "star": ("x: *.example\n", 1, "has to stand in quotes"),
    "something else": ("a: ]\n", 1, "expected the node content, but found ']'"),
}


@pytest.mark.parametrize(("text", "line", "said"), CASES.values(), ids=CASES)
def test_what_is_no_yaml(text: str, line: int, said: str) -> None:
    """The message names the line, the mistake and the fix."""
    with pytest.raises(ConfigError) as raised:
        compose(text, "file")
    (problem,) = raised.value.problems
    assert problem.line == line
    assert said in problem.message
    assert problem.message.startswith("is not YAML: ")
