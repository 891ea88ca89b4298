"""Reads YAML strictly, into typed values with their lines. Reading goes on after a mistake, so that all are reported at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import yaml
from yaml.error import MarkedYAMLError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from router.config.hints import explain, place_of
from router.errors import ConfigError, Problem

_MAX_CHARS = 1_000_000
_MAX_NODES = 200_000  # after aliases are followed: a few lines of aliases of aliases can stand for billions of nodes
_MAX_LEVELS = 64  # Envoy's own reference files stay below 30
_TYPED = frozenset(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float"))


@dataclass(slots=True)
class Notes:
    """The problems found so far in one file."""

    file: str
    problems: list[Problem] = field(default_factory=list)
    _seen: set[Problem] = field(default_factory=set, repr=False)
    """Those noted by `add`: a search of the list would take as long as the file's mistakes squared."""

    def add(self, node: Node | None, path: str, message: str, severity: str = "error") -> None:
        """Note a problem at a node, once. The message says what is wrong and how to fix it."""
        line = node.start_mark.line + 1 if node is not None else 0
        problem = Problem(self.file, line, path, message, severity)
        if problem not in self._seen:
            self._seen.add(problem)
            self.problems.append(problem)


def parse(text: str, notes: Notes) -> Section:
    """The mapping at the top of a YAML text.

    Raises:
        ConfigError: it is not YAML, not a mapping, or too large for a configuration.
    """
    node = compose(text, notes.file)
    if node is not None and not isinstance(node, MappingNode):
        raise _refusal(notes.file, 1, "a mapping of keys to values was expected")
    return Section(node, "", notes)


def compose(text: str, file: str) -> Node | None:
    """The tree of a YAML text; None when it is empty. `file` names it in problems.

    Raises:
        ConfigError: it is not YAML, or too large for a configuration (1 MB, 200 000 values, 64 levels).
    """
    if len(text) > _MAX_CHARS:
        raise _refusal(file, 0, f"is larger than {_MAX_CHARS} characters, which no configuration needs")
    try:
        node: Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = place_of(error) if isinstance(error, MarkedYAMLError) else None
        own_words = getattr(error, "reason", None) or "it cannot be read"
        reason = explain(error, text) if isinstance(error, MarkedYAMLError) else own_words
        raise _refusal(file, mark.line + 1 if mark else 0, f"is not YAML: {reason}") from None
    except RecursionError:
        raise _refusal(file, 0, f"is nested more than {_MAX_LEVELS} levels deep") from None
    if node is not None and _count(node, _MAX_NODES, _MAX_LEVELS) <= 0:
        raise _refusal(file, 0, "holds too many values, or nests them too deeply; are aliases nested in aliases?")
    return node


def _refusal(file: str, line: int, message: str) -> ConfigError:
    return ConfigError([Problem(file, line, "", message)])


def _count(node: Node, left: int, levels: int) -> int:
    """`left` less the number of nodes in a tree, with aliases followed. Stops at zero, also when there are too many levels."""
    left -= 1
    if not levels or left <= 0:
        return 0
    if isinstance(node, ScalarNode):
        return left
    children: Iterable[Node] = (part for pair in node.value for part in pair) if isinstance(node, MappingNode) else node.value
    for child in children:
        left = _count(child, left, levels - 1)
        if left <= 0:
            break
    return left


def near(word: str, known: Sequence[str]) -> str:
    """`; did you mean 'x'?` if a known word is similar, else nothing."""
    close = difflib.get_close_matches(word, known, 1)
    return f"; did you mean '{close[0]}'?" if close else ""


def suggest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` if a known word is similar, else the known words."""
    names = sorted(known)
    return near(word, names) or (f"; known are: {', '.join(names)}" if names else "")


@dataclass(frozen=True, slots=True)
class Item:
    """A value that may have several shapes."""

    node: Node
    path: str
    notes: Notes

    def problem(self, message: str) -> None:
        """Note a problem with this value."""
        self.notes.add(self.node, self.path, message)

    def section(self) -> Section:
        """The value as a mapping. Anything else is a problem and gives an empty one."""
        return Section(self.node, self.path, self.notes)

    def items(self, what: str = "a list") -> list[Item]:
        """The elements of a list. Anything else is a problem and gives none."""
        if not isinstance(self.node, SequenceNode):
            self.problem(f"{what} was expected")
            return []
        return [Item(node, f"{self.path}[{at}]", self.notes) for at, node in enumerate(self.node.value)]

    @property
    def is_mapping(self) -> bool:
        """Whether the value is a mapping."""
        return isinstance(self.node, MappingNode)

    @property
    def value(self) -> object:
        """The value of a scalar, typed as YAML does. None for lists and mappings."""
        return scalar(self.node)

    def text(self, what: str = "a string") -> str:
        """The value as a string that is not blank. Anything else is a problem and gives an empty one."""
        value = self.value
        if isinstance(value, str):
            if not value.strip():
                self.problem(f"{what} was expected, not a blank one")
            return value if value.strip() else ""
        hint = " (write it in quotes)" if isinstance(self.node, ScalarNode) and value is not None else ""
        self.problem(f"{what} was expected{hint}")
        return ""

    def texts(self, what: str) -> list[Item]:
        """The elements of a list of strings that are not blank."""
        found = self.items(f"a list of {what}")
        if isinstance(self.node, SequenceNode) and not found:
            self.problem(f"at least one of {what} was expected")
        return [item for item in found if item.text()]


class Section:
    """A mapping that is read key by key. `close` reports the keys that were not read."""

    def __init__(self, node: Node | None, path: str, notes: Notes) -> None:
        self.node, self.path, self.notes = node, path, notes
        self._values: dict[str, Node] = {}
        self._keys: dict[str, Node] = {}
        self._known: set[str] = set()
        self._is_broken = False
        if isinstance(node, MappingNode):
            for key, value in node.value:
                self._take(key, value)
        elif isinstance(node, SequenceNode) or (node is not None and scalar(node) is not None):
            notes.add(node, path, "a mapping of keys to values was expected")
            self._is_broken = True

    def _take(self, key: Node, value: Node) -> None:
        name = str(key.value) if isinstance(key, ScalarNode) else ""
        if not name.isprintable() or not name.strip():
            self.notes.add(key, self.path, "a key must be a word of printable characters")
        elif name in self._values:
            first = self._keys[name].start_mark.line + 1
            self.notes.add(key, self._at(name), f"occurs twice; it stands in line {first} already")
        else:
            self._keys[name], self._values[name] = key, value

    def _at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def _find(self, key: str) -> Node | None:
        """The value's node; None when it is absent or null."""
        self._known.add(key)
        node = self._values.get(key)
        return None if node is None or (isinstance(node, ScalarNode) and scalar(node) is None) else node

    def has(self, key: str) -> bool:
        """Whether the key is there with a value."""
        return self._find(key) is not None

    def problem(self, key: str, message: str) -> None:
        """Note a problem with the value of a key, or with this mapping when the key is absent.

        If this should be a mapping and is not, that problem is already noted, and its missing keys are not reported.
        """
        if self._is_broken:
            return
        self.notes.add(self._values.get(key) or self.node, self._at(key), message)

    def item(self, key: str) -> Item | None:
        """The value of a key, to be read by its shape; None when it is absent or null."""
        node = self._find(key)
        return None if node is None else Item(node, self._at(key), self.notes)

    def section(self, key: str) -> Section:
        """The mapping at a key; an empty one when it is absent or null."""
        node = self._find(key)
        return Section(node, self._at(key), self.notes)

    def named(self) -> Iterator[tuple[str, Item]]:
        """Every key with its value, for mappings whose keys are the operator's own names."""
        for name, node in self._values.items():
            self._known.add(name)
            yield name, Item(node, self._at(name), self.notes)

    def close(self) -> None:
        """Report every key that was not read."""
        for name, key in self._keys.items():
            if name not in self._known:
                self.notes.add(key, self._at(name), f"unknown key{suggest(name, self._known)}")


def scalar(node: Node | None) -> object:
    """A scalar's value. None for null and for lists and mappings.

    Typed as in YAML 1.1, except for its traps: dates, `010` (octal) and `1:30` or `1:30.5` (base 60) remain text.
    """
    if not isinstance(node, ScalarNode):
        return None
    text = str(node.value)
    if node.tag not in _TYPED:
        return text
    try:
        value: object = yaml.constructor.SafeConstructor().construct_object(node)
    except (ValueError, KeyError, IndexError):  # a tag that its own text belies, such as `!!int x`
        return text
    if isinstance(value, float) and ":" in text:
        return text
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    return text if is_integer and str(value) != text.replace("_", "").removeprefix("+") else value
