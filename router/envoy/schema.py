"""Checks Envoy's configuration against Envoy's types from envoy-data-plane: unknown fields, wrong types, wrong enum values.

Only `semantic-router check` imports this, because the types take nearly a second to import.
"""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import enum
import importlib
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from yaml.nodes import MappingNode, ScalarNode, SequenceNode

from router.envoy.file import EnvoyFile, Place
from router.errors import Problem

Kind = Any
"""A message class or an enum of envoy-data-plane, which has no fitting static types."""
_DURATION = re.compile(r"-?\d+(\.\d+)?s")
_FREE = {"Struct", "Value", "ListValue"}
"""Messages of google.protobuf that may hold any JSON."""
_TYPE_URL = "type.googleapis.com/"


def check_types(file: EnvoyFile) -> Iterator[Problem]:
    """Every value in the file that Envoy's types do not allow."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # envoy-data-plane warns about itself
        from envoy_data_plane.envoy.config.bootstrap.v3 import Bootstrap

        yield from _Checker(file).message(file.top, Bootstrap)


class _FieldMetadata(Protocol):
    proto_type: str
    repeated: bool
    map_meta: tuple[_FieldMetadata, _FieldMetadata] | None
    """The key's and the value's metadata. None for a field that is not a map."""


class _Checker:
    def __init__(self, file: EnvoyFile) -> None:
        self._file = file

    def message(self, place: Place, kind: Kind) -> Iterator[Problem]:
        """A mapping of fields."""
        if kind.__name__ in _FREE:
            return
        if kind.__name__ == "Any":
            yield from self._any(place)
            return
        if not isinstance(place.node, MappingNode):
            yield self._file.problem(place, f"a mapping ({kind.__name__}) was expected")
            return
        fields = {field.name: field.metadata["betterproto"] for field in dataclasses.fields(kind)}
        for name, value in place.pairs():
            snake = re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()
            field = fields.get(name) or fields.get(f"{name}_") or fields.get(snake)
            if name == "@type":
                continue
            if field is None:
                close = difflib.get_close_matches(name, fields, 1)
                hint = f"; did you mean '{close[0]}'?" if close else ""
                yield self._file.problem(value, f"{kind.__name__} has no field '{name}'{hint}")
                continue
            key = next(known for known in (name, f"{name}_", snake) if known in fields)
            if name != key.removesuffix("_"):
                yield self._file.problem(value, f"write it as '{key}'; Envoy accepts both, but only this spelling is checked")
            yield from self._field(value, field, kind._betterproto.cls_by_field[key])

    def _any(self, place: Place) -> Iterator[Problem]:
        """A message that names its own type."""
        url = place.at("@type").text
        if not url:
            yield self._file.problem(place, "'@type' is missing; it names the type of this message")
            return
        kind, close = _find(url.removeprefix(_TYPE_URL))
        if kind is None:
            hint = f"; did you mean '{_TYPE_URL}{close}'?" if close else ""
            yield self._file.problem(place.at("@type"), f"the type '{url}' is not known{hint}", "warning")
            return
        yield from self.message(place, kind)

    def _field(self, place: Place, field: _FieldMetadata, kind: Kind) -> Iterator[Problem]:
        if isinstance(place.node, ScalarNode) and place.value is None:
            return  # null is the default
        if field.map_meta:
            value_kind = kind._betterproto.cls_by_field["value"] if field.map_meta[1].proto_type in ("message", "enum") else None
            for _, value in place.pairs():
                yield from self._single(value, field.map_meta[1].proto_type, value_kind)
        elif field.repeated:
            if not isinstance(place.node, SequenceNode):
                yield self._file.problem(place, "a list was expected")
            for item in place.items():
                yield from self._single(item, field.proto_type, kind)
        else:
            yield from self._single(place, field.proto_type, kind)

    def _single(self, place: Place, proto_type: str, kind: Kind) -> Iterator[Problem]:
        if proto_type == "message" and dataclasses.is_dataclass(kind):
            yield from self.message(place, kind)
            return
        if kind is not None and isinstance(kind, type) and issubclass(kind, enum.Enum):
            yield from self._word(place, kind)
            return
        for expected, fits in _SCALARS.get(_scalar_name(proto_type, kind), ()):
            if not fits(place):
                yield self._file.problem(place, f"{expected} was expected")

    def _word(self, place: Place, kind: Kind) -> Iterator[Problem]:
        renamed: dict[int, str] = kind.betterproto_value_to_renamed_proto_names()
        words = {*kind.__members__, *renamed.values()}
        if isinstance(place.value, int) or place.text in words:
            return
        close = difflib.get_close_matches(place.text.upper(), words, 1)
        hint = f"; did you mean '{close[0]}'?" if close else f"; known are: {', '.join(sorted(words)[:12])}"
        yield self._file.problem(place, f"'{place.text}' is not a {kind.__name__}{hint}")


def _find(name: str) -> tuple[Kind, str]:
    """The class of a message by its full name, or None and a similar name from the same package, if there is one."""
    package, _, kind = name.rpartition(".")
    try:
        module = importlib.import_module(f"envoy_data_plane.{package}")
    except ImportError:
        return None, ""
    # RBACPerRoute's class is called RbacPerRoute.
    spelt = re.sub(r"([A-Z])([A-Z]+)(?=[A-Z][a-z]|$)", lambda part: part[1] + part[2].lower(), kind)
    if found := getattr(module, kind, None) or getattr(module, spelt, None):
        return found, ""
    close = difflib.get_close_matches(kind, dir(module), 1)
    return None, f"{package}.{close[0]}" if close else ""


def _scalar_name(proto_type: str, kind: Kind) -> str:
    """The kind of scalar. Wrappers such as UInt32Value, and durations, are messages with a plain Python type."""
    if proto_type == "message":
        return {bool: "bool", int: "int", float: "float", str: "string", datetime.timedelta: "duration"}.get(kind, "")
    if "int" in proto_type or "fixed" in proto_type:
        return "int"
    return "float" if proto_type in ("float", "double") else proto_type


def _is_number(place: Place) -> bool:
    return isinstance(place.value, int | float) and not isinstance(place.value, bool)


_SCALARS: dict[str, tuple[tuple[str, Callable[[Place], bool]], ...]] = {
    "bool": (("true or false", lambda place: isinstance(place.value, bool)),),
    "int": (
        ("a whole number", lambda place: place.text.lstrip("-").isdecimal() or (_is_number(place) and "." not in place.text)),
    ),
    "float": (("a number", _is_number),),
    "string": (
        ("a string", lambda place: isinstance(place.node, ScalarNode)),
        (
            "a string in quotes",
            lambda place: not isinstance(place.value, int),
        ),  # Envoy accepts 1.5 as a string, but not 1 or true
    ),
    "duration": (("a duration such as 0.25s", lambda place: _DURATION.fullmatch(place.text) is not None),),
}
