"""Declares keys: each key once, on the dataclass field that holds its value.

`read` checks the operator's file by the declarations, and `config/schema.py` makes the JSON Schema and the tables of
config/README.md from them.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

from router.config.reader import Item, Section, near
from router.files import is_usable

JsonSchema = dict[str, object]
T = TypeVar("T")

NAME = r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,99}"
"""Names travel in headers, metrics and messages."""
NAME_WORDS = "a name of letters, digits and ._:/@+- (at most 100)"


class Kind(Protocol):
    """The type of a key's value. Lists and mappings of sections that refer to other parts have their own readers."""

    @property
    def words(self) -> str:
        """Type and range in words, for the documents."""
        ...

    @property
    def schema(self) -> JsonSchema:
        """Type and range as JSON Schema, for editors."""
        ...


class ValueKind(Kind, Protocol):
    """A kind that can be read without other parts of the file."""

    def read(self, item: Item, fallback: object) -> object:
        """Read the value. A wrong value is noted as a problem, and the fallback is returned."""
        ...


@dataclass(frozen=True, slots=True)
class Key:
    """One declared key."""

    name: str
    field: str
    """The attribute that holds the value."""
    kind: Kind
    does: str
    """Its effect, in Markdown."""
    required: str
    """What to write, for a required key; else empty."""
    default: object
    shown: str
    """The default in words, if it is not the field's default."""

    @property
    def is_value(self) -> bool:
        """Its kind is a `ValueKind`; `isinstance` of a protocol would take longer than reading the key."""
        return hasattr(self.kind, "read")


def key(
    kind: Kind, does: str, default: object = None, *, name: str = "", required: str = "", shown: str = ""
) -> Any:  # `dataclasses.field` is typed so, too: the annotation beside it says what the field holds
    """A dataclass field that is a key of the configuration.

    Args:
        kind: the type of the value.
        does: the effect, for the documents.
        default: the value when the key is absent. A mapping or a dataclass is shared, so it must be immutable.
        name: the key, if it differs from the field's name.
        required: what the operator has to write, if there is no default.
        shown: the default in words, if it depends on something else.
    """
    return dataclasses.field(default=default, metadata={"key": (kind, does, name, required, shown)})


def subsection(declared: type[Any], does: str, *, shown: str = "") -> Any:
    """A dataclass field that is a section with keys of its own; see `key`."""
    return key(SectionOf(declared), does, declared(), shown=shown)


def keys_of(declared: type[Any]) -> tuple[Key, ...]:
    """The keys that a dataclass declares, in its own order."""
    found = []
    for field in dataclasses.fields(cast("Any", declared)):
        if "key" in field.metadata:
            kind, does, name, required, shown = field.metadata["key"]
            found.append(Key(name or field.name, field.name, kind, does, required, field.default, shown))
    return tuple(found)


def read(section: Section, declared: type[T], defaults: T | None = None) -> T:
    """Read a section and check it by its declaration. Undeclared keys are problems.

    Args:
        section: as the operator wrote it; may be absent.
        declared: a dataclass whose fields are keys. Its method `check(section)` reports problems that involve several keys.
        defaults: the values of absent keys, instead of the fields' defaults.
    """
    usual = declared() if defaults is None else defaults
    values = {each.field: read_key(section, each, getattr(usual, each.field)) for each in keys_of(declared)}
    section.close()
    value = dataclasses.replace(cast("Any", usual), **values)
    if check := getattr(value, "check", None):
        check(section)
    return cast("T", value)


def read_key(section: Section, declared: Key, default: object) -> object:
    """Read the value of one key. The default when it is absent."""
    item = section.item(declared.name)
    if item is not None:
        return cast("ValueKind", declared.kind).read(item, default) if declared.is_value else default
    if declared.required:
        section.problem(declared.name, f"is missing; {declared.required}")
    return default


# -- kinds -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    words: str = "true, false"

    @property
    def schema(self) -> JsonSchema:
        """See `Kind`."""
        return {"type": "boolean"}

    def read(self, item: Item, fallback: object) -> object:
        """See `Kind`."""
        if isinstance(item.value, bool):
            return item.value
        item.problem("true or false was expected")
        return fallback


@dataclass(frozen=True, slots=True)
class Number:
    """A number within a range, ends included."""

    low: float
    high: float

    @property
    def words(self) -> str:
        """See `Kind`."""
        return f"{plain(self.low)} to {plain(self.high)}"

    @property
    def schema(self) -> JsonSchema:
        """See `Kind`."""
        return {"type": "number", "minimum": self.low, "maximum": self.high}

    def read(self, item: Item, fallback: object) -> object:
        """See `Kind`."""
        value = item.value
        if isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high:
            return float(value)
        item.problem(f"a number from {self.words} was expected")
        return fallback


@dataclass(frozen=True, slots=True)
class Integer(Number):
    """A whole number within a range, ends included."""

    low: int
    high: int

    @property
    def schema(self) -> JsonSchema:
        """See `Kind`."""
        return {"type": "integer", "minimum": self.low, "maximum": self.high}

    def read(self, item: Item, fallback: object) -> object:
        """See `Kind`."""
        value = item.value
        if isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high:
            return value
        item.problem(f"a whole number from {self.words} was expected")
        return fallback


@dataclass(frozen=True, slots=True)
class Text:
    """A string that is not blank."""

    words: str = "text"
    what: str = "a string"
    """What an error message says was expected."""
    pattern: str = ""
    """The whole of it matches."""
    may_be_empty: bool = False
    """An empty string says nothing, as the absent key does."""

    @property
    def schema(self) -> JsonSchema:
        """See `Kind`."""
        if not self.pattern:
            return {"type": "string"} if self.may_be_empty else {"type": "string", "pattern": r"\S"}
        return {"type": "string", "pattern": f"^({self.pattern})?$" if self.may_be_empty else f"^{self.pattern}$"}

    def read(self, item: Item, fallback: object) -> object:
        """See `Kind`."""
        if self.may_be_empty and item.value == "":
            return fallback
        value = item.text(self.what)
        if value and self.pattern and not re.fullmatch(self.pattern, value):
            item.problem(f"{self.what} was expected")
            return fallback
        return value or fallback


@dataclass(frozen=True, slots=True)
class FilePath(Text):
    """The path of a file or a folder, which need not exist."""

    def read(self, item: Item, fallback: object) -> object:
        """See `Kind`."""
        value = Text.read(self, item, fallback)
        if isinstance(item.value, str) and not is_usable(item.value):
            item.problem("is no path that a file could have: it holds a forbidden character, or is too long")
            return fallback
        return value


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    choices: tuple[str, ...]

    @property
    def words(self) -> str:
        """See `Kind`."""
        return ", ".join(self.choices)

    @property
    def schema(self) -> JsonSchema:
        """See `Kind`."""
        return {"enum": list(self.choices)}

    def read(self, item: Item, fallback: object) -> object:
        """See `Kind`."""
        value = item.text()
        if value and value not in self.choices:
            item.problem(f"'{value}' is none of {self.words}{near(value, self.choices)}")
        return value if value in self.choices else fallback


@dataclass(frozen=True, slots=True)
class Texts:
    """A list of strings, as a tuple."""

    what: str
    """Its elements, in the plural."""
    words: str = ""
    choices: tuple[str, ...] = ()
    """What they may be; empty for anything."""
    may_be_empty: bool = False
    folds_case: bool = False
    """Case does not matter; the values are kept in lower case."""
    at_least: int = 1
    """For the schema; more than one is checked where the list is used."""

    def __post_init__(self) -> None:
        if not self.words:
            object.__setattr__(self, "words", f"list of {self.what}")

    @property
    def schema(self) -> JsonSchema:
        """See `Kind`."""
        each: JsonSchema = {"enum": list(self.choices)} if self.choices else {"type": "string"}
        return {"type": "array", "items": each} | ({} if self.may_be_empty else {"minItems": self.at_least})

    def read(self, item: Item, fallback: object) -> object:
        """See `Kind`."""
        parts = item.items(f"a list of {self.what}") if self.may_be_empty else item.texts(self.what)
        texts = []
        for part in parts:
            text = part.text()
            if text and self.choices and text not in self.choices:
                part.problem(f"'{text}' is none of {', '.join(self.choices)}{near(text, self.choices)}")
            texts.append(text.lower() if self.folds_case else text)
        return tuple(texts)


@dataclass(frozen=True, slots=True)
class OwnSection:
    """A mapping whose keys another dataclass declares. It has a reader of its own, because other parts give its defaults."""

    declared: type[Any]
    words: str = "section"

    @property
    def schema(self) -> JsonSchema:
        """See `Kind`."""
        return section_schema(self.declared)


@dataclass(frozen=True, slots=True)
class SectionOf(OwnSection):
    """One that can be read without other parts of the file."""

    def read(self, item: Item, fallback: object) -> object:
        """See `Kind`."""
        return read(item.section(), self.declared, fallback)


@dataclass(frozen=True, slots=True)
class Named:
    """Sections under names that the operator gives; see `named`."""

    declared: type[Any]
    words: str
    at_least: int = 0
    """For the schema; `read_models` checks it."""

    @property
    def schema(self) -> JsonSchema:
        """See `Kind`."""
        kind: JsonSchema = {"type": "object", "minProperties": self.at_least} if self.at_least else {"type": ["object", "null"]}
        return kind | {"propertyNames": {"pattern": f"^{NAME}$"}, "additionalProperties": section_schema(self.declared)}


@dataclass(frozen=True, slots=True)
class ListOf:
    """Sections in a list."""

    declared: type[Any]
    words: str

    @property
    def schema(self) -> JsonSchema:
        """See `Kind`."""
        return {"type": ["array", "null"], "items": section_schema(self.declared)}


def section_schema(declared: type[Any]) -> JsonSchema:
    """The JSON Schema of a mapping with declared keys. An empty section (`signals:`) means its defaults."""
    keys = keys_of(declared)
    required = [each.name for each in keys if each.required]
    found: JsonSchema = {"type": "object" if required else ["object", "null"], "additionalProperties": False}
    found["properties"] = {each.name: _described(each) for each in keys}
    return found | ({"required": required} if required else {})


def _described(declared: Key) -> JsonSchema:
    schema = dict(declared.kind.schema)
    if declared.does:
        schema["description"] = declared.does
    is_plain = isinstance(declared.default, bool | int | float | str) and declared.default != ""
    return schema | ({"default": declared.default} if is_plain and not declared.shown and not declared.required else {})


def check_name(name: str, item: Item) -> None:
    """Note a problem with a name that headers, metrics or messages cannot hold."""
    if not re.fullmatch(NAME, name):
        item.problem(f"{NAME_WORDS} was expected")


def named(section: Section, declared: type[T]) -> dict[str, tuple[Section, T]]:
    """The sections under the operator's own names, with their values."""
    found = {}
    for name, item in section.named():
        check_name(name, item)
        part = item.section()
        found[name] = (part, read(part, declared))
    return found


def plain(value: object) -> str:
    """Format a value as people write it: 315360000, not 3.1536e+08."""
    return str(int(value)) if isinstance(value, float) and value == int(value) else str(value)
