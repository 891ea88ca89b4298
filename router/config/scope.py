"""Reads `scope` of the cache: who shares answers with whom."""

from __future__ import annotations

from dataclasses import dataclass

from router.config.keys import JsonSchema, Text, key, read, section_schema
from router.config.reader import Section

SCOPE_HEADER = "authorization"
"""The header that separates answers by default."""
_HEADER = Text("header", "a header's name", r"[A-Za-z0-9-]{1,100}")


@dataclass(frozen=True, slots=True)
class ScopeKeys:
    """Who shares answers."""

    header: str = key(
        _HEADER,
        "Requests with the same value share; those without it are not cached. Set it in Envoy or at a gateway that clients "
        "cannot bypass; `check` warns where Envoy does not.",
        SCOPE_HEADER,
    )
    require_header: str = key(
        _HEADER,
        "Instead of `header`: all share, except requests without this header. Only its presence is checked; see below.",
        "",
        shown="none",
    )

    def check(self, section: Section) -> None:
        """Require exactly one of the two keys."""
        if section.has("header") and section.has("require_header"):
            section.problem("require_header", "could do nothing: without the scope's own header nothing is cached anyway")
        if not section.has("header") and not section.has("require_header"):
            section.problem("header", "is missing; a header's name was expected")


@dataclass(frozen=True, slots=True)
class ScopeKind:
    """The word `global`, or a section."""

    words: str = "`global`, section"
    declared: type[ScopeKeys] = ScopeKeys

    @property
    def schema(self) -> JsonSchema:
        """See `keys.Kind`."""
        return {"anyOf": [{"const": "global"}, section_schema(self.declared)]}


def read_scope(section: Section) -> tuple[str, str]:
    """The header whose value separates answers, and the header that a request must have if all share. Empty for none."""
    item = section.item("scope")
    if item is None:
        return SCOPE_HEADER, ""
    if not item.is_mapping:
        if item.text() != "global":
            item.problem("'global', or a mapping such as {header: x-tenant-id} or {require_header: authorization}, was expected")
        return "", ""
    part = item.section()
    keys = read(part, ScopeKeys)
    if part.has("require_header") and not part.has("header"):
        return "", keys.require_header.lower()
    return keys.header.lower(), ""
