"""Envoy's configuration file as a tree with line numbers. Reads the YAML and leaves its meaning to others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from router.config.reader import compose, scalar
from router.errors import ConfigError, Problem

_LOCAL = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Place:
    """A value in the file, or the place where it would be."""

    node: Node | None
    """None when there is no such value."""
    path: str
    line: int
    """1-based line of the value, or of the nearest value around it."""

    def at(self, *keys: str | int) -> Place:
        """The place below, by keys and positions. It has no value if the file does not."""
        place = self
        for key in keys:
            place = place._step(key)
        return place

    def _step(self, key: str | int) -> Place:
        if isinstance(key, int):
            children: list[Node] = self.node.value if isinstance(self.node, SequenceNode) else []
            found = children[key] if key < len(children) else None
            path = f"{self.path}[{key}]"
        else:
            pairs = self.node.value if isinstance(self.node, MappingNode) else []
            found = next((value for name, value in pairs if name.value == key), None)
            path = f"{self.path}.{key}" if self.path else key
        return Place(found, path, found.start_mark.line + 1 if found is not None else self.line)

    def items(self) -> Iterator[Place]:
        """The elements of a list. None for anything else."""
        if isinstance(self.node, SequenceNode):
            for index in range(len(self.node.value)):
                yield self.at(index)

    def pairs(self) -> Iterator[tuple[str, Place]]:
        """The keys of a mapping with their values. None for anything else."""
        if isinstance(self.node, MappingNode):
            for key, value in self.node.value:
                name = str(key.value)
                yield name, Place(value, f"{self.path}.{name}" if self.path else name, key.start_mark.line + 1)

    def texts(self) -> Iterator[Place]:
        """Every non-empty scalar, here and below."""
        if self.text:
            yield self
        for _, value in self.pairs():
            yield from value.texts()
        for item in self.items():
            yield from item.texts()

    @property
    def value(self) -> object:
        """The value of a scalar, typed as YAML does. None for anything else."""
        return scalar(self.node)

    @property
    def text(self) -> str:
        """The text of a scalar as it is written. Empty for anything else."""
        return str(self.node.value) if isinstance(self.node, ScalarNode) else ""

    @property
    def number(self) -> int:
        """A whole number. 0 for anything else."""
        value = self.value
        return value if isinstance(value, int) and not isinstance(value, bool) else 0

    @property
    def seconds(self) -> float | None:
        """A duration as Envoy writes it (`0.25s`), in seconds. None for anything else."""
        try:
            return float(self.text.removesuffix("s")) if self.text.endswith("s") else None
        except ValueError:
            return None

    def __bool__(self) -> bool:
        return self.node is not None


@dataclass(frozen=True, slots=True)
class EnvoyFile:
    """A whole file."""

    name: str
    top: Place

    def problem(self, place: Place, message: str, severity: str = "error") -> Problem:
        """A problem at a place in this file."""
        return Problem(self.name, place.line, place.path, message, severity)

    def listeners(self) -> Iterator[Place]:
        """Every static listener."""
        return self.top.at("static_resources", "listeners").items()

    def clusters(self) -> dict[str, Place]:
        """Every static cluster by its name."""
        return {place.at("name").text: place for place in self.top.at("static_resources", "clusters").items()}

    def managers(self) -> Iterator[tuple[Place, Place]]:
        """Every HTTP connection manager, with the listener that it belongs to."""
        for listener in self.listeners():
            for chain in listener.at("filter_chains").items():
                for network_filter in chain.at("filters").items():
                    config = network_filter.at("typed_config")
                    if config.at("@type").text.endswith(".HttpConnectionManager"):
                        yield listener, config

    @property
    def admin(self) -> tuple[str, int]:
        """Host and port of Envoy's own admin interface; port 0 when there is none."""
        return socket_of(self.top.at("admin", "address"))

    @property
    def listener(self) -> tuple[str, int]:
        """Host and port for clients: those of the first listener."""
        for place in self.listeners():
            return socket_of(place.at("address"))
        return _LOCAL, 0


def read_envoy(path: Path) -> EnvoyFile:
    """Read Envoy's configuration.

    Raises:
        ConfigError: the file cannot be read, is not a YAML mapping, or has a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        hint = "; --envoy names another" if isinstance(error, FileNotFoundError) else ""
        raise ConfigError([Problem(str(path), 0, "", f"cannot be read: {reason}{hint}")]) from None
    node = compose(text, str(path))
    if not isinstance(node, MappingNode):
        raise ConfigError([Problem(str(path), 1, "", "an Envoy bootstrap configuration was expected")])
    file = EnvoyFile(str(path), Place(node, "", 1))
    if twice := list(_twice(file, file.top)):
        raise ConfigError(twice)
    return file


def _twice(file: EnvoyFile, place: Place) -> Iterator[Problem]:
    """Every key that a mapping has twice."""
    seen: dict[str, int] = {}
    for name, value in place.pairs():
        if name in seen:
            yield file.problem(value, f"occurs twice; it is already in line {seen[name]}")
        seen.setdefault(name, value.line)
        yield from _twice(file, value)
    for item in place.items():
        yield from _twice(file, item)


def socket_of(address: Place) -> tuple[str, int]:
    """Host and port of an Envoy `Address`. A pipe is `unix:/path` with port 0."""
    if pipe := address.at("pipe", "path").text:
        return f"unix:{pipe}", 0
    socket = address.at("socket_address")
    return socket.at("address").text, socket.at("port_value").number


def endpoints_of(cluster: Place) -> list[tuple[str, int]]:
    """Host and port of every endpoint of a cluster."""
    return [
        socket_of(endpoint.at("endpoint", "address"))
        for group in cluster.at("load_assignment", "endpoints").items()
        for endpoint in group.at("lb_endpoints").items()
    ]
