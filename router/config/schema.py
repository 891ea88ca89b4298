"""Makes the JSON Schema of config.yaml and the tables of config/README.md from the declarations of keys.

`python -m router.config.schema` (`make schema`) writes both, and a test compares them with the declarations.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from router.config.cache import DecisionCacheKeys
from router.config.conditions import When
from router.config.keys import JsonSchema, Key, Kind, ListOf, Named, OwnSection, keys_of, plain, section_schema
from router.config.load import ConfigKeys
from router.config.milvus import MilvusKeys

FOLDER = Path(__file__).parents[2] / "config"
_TABLE = re.compile(r"(<!-- keys: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)
_HEAD = "\n| key | type and range | default | what it does |\n|---|---|---|---|\n"
_INHERITED = "`semantic_cache`'s"


def schema() -> JsonSchema:
    """The JSON Schema (2020-12) of config.yaml. `semantic-router check` checks references to other parts of the file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Envoy Semantic Router: config.yaml",
        **section_schema(ConfigKeys),
        "$defs": {"condition": {**section_schema(When), "type": "object", "minProperties": 1}},
    }


def rows() -> dict[str, str]:
    """Each key's line of a table, by its path: names as `*`, list positions as `[*]`, of conditions from `when` on."""
    found = dict(_rows("", ConfigKeys)) | dict(_rows("when", When))
    return found | {f"milvus.{path}": row for path, row in _rows("", MilvusKeys)}


def _rows(prefix: str, declared: type[Any]) -> Iterator[tuple[str, str]]:
    for each in keys_of(declared):
        path = f"{prefix}.{each.name}" if prefix else each.name
        yield path, f"| `{path}` | {each.kind.words} | {_default(each, declared)} | {each.does} |"
        if inner := _inside(each.kind):
            suffix, section = inner
            yield from _rows(path + suffix, section)


def _inside(kind: Kind) -> tuple[str, type[object]] | None:
    """The path segment of a key in the paths below it, and the dataclass that declares the keys below."""
    match kind:
        case Named(declared):
            return ".*", declared
        case ListOf(declared):
            return "[*]", declared
    nested = getattr(kind, "declared", None)
    return ("", nested) if nested else None


def _default(each: Key, declared: type[Any]) -> str:
    if each.required:
        return "required"
    if declared is DecisionCacheKeys:
        return "`semantic_cache.enabled`" if each.name == "enabled" else _INHERITED
    if each.shown or isinstance(each.kind, OwnSection):
        return each.shown.strip()
    return f"`{json.dumps(each.default) if isinstance(each.default, bool) else plain(each.default)}`"


def fill(text: str) -> str:
    """Fill the tables of a document from the declarations.

    A table is between `<!-- keys: PATHS -->` and `<!-- end -->`. A path means the key and all keys below it, `top` the keys at
    the top of config.yaml, and `milvus` those of the Milvus file.
    """
    known = rows()

    def table(found: re.Match[str]) -> str:
        lines = [row for path, row in known.items() if any(_belongs(path, wanted) for wanted in found[2].split(", "))]
        return found[1] + _HEAD + "\n".join(lines) + "\n\n" + found[3]

    return _TABLE.sub(table, text)


def _belongs(path: str, wanted: str) -> bool:
    if wanted == "top":
        return re.fullmatch(r"\w+", path) is not None
    return path.startswith((f"{wanted}.", f"{wanted}["))


def main() -> None:
    """Write config/schema.json, and the tables of config/README.md."""
    (FOLDER / "schema.json").write_text(json.dumps(schema(), indent=1) + "\n", encoding="utf-8")
    readme = FOLDER / "README.md"
    readme.write_text(fill(readme.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
