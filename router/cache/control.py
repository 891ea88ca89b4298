"""What operators may ask of the cache and do to it, as documents that JSON can hold; for the admin port and the command line."""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from router.cache.base import Entry, Selection
from router.cache.tiers import Cache
from router.core.answers import NotStorable, decode
from router.errors import RequestError

Document = Mapping[str, Any]
_MOST_SHOWN = 1000
_WORD = re.compile(r"[\w.:/@+ -]{1,256}")
_EXPORTED = ("id", "key", "partition", "scope", "decision", "model", "text", "created_ms", "expires_ms")


class Control:
    """Operations by name, each from a document to a document.

    Every operation may raise `RequestError` for a document that it cannot carry out.
    """

    def __init__(self, cache: Cache, versions: str) -> None:
        self._cache, self._versions = cache, versions

    @property
    def operations(self) -> Mapping[str, Callable[[Document], Awaitable[Document]]]:
        """What there is."""
        return {
            "stats": self.stats,
            "get": self.get,
            "search": self.search,
            "invalidate": self.invalidate,
            "report": self.report,
            "export": self.export,
            "import": self.import_,
        }

    async def stats(self, document: Document) -> Document:
        """Sizes, hits by tier, misses by reason, and how the store is."""
        _check(document)
        return {**self._cache.stats(), "versions": self._versions}

    async def get(self, document: Document) -> Document:
        """One entry by `id`, its answer included; not there: an empty `entries`."""
        _check(document, "id")
        entry = await self._cache.get(_text(document, "id"))
        return {"entries": [self._shown(entry) | {"answer": _answer_of(entry)}] if entry else []}

    async def search(self, document: Document) -> Document:
        """Entries whose question holds `text`, or is near to it in meaning; of a `decision`, if one is named. Nearest first."""
        _check(document, "text", "decision", "limit")
        text, decision = _text(document, "text", ""), _text(document, "decision", "")
        limit = _number(document, "limit", 20, _MOST_SHOWN)
        nearest = await self._cache.similar(text, limit) if text else {}
        found = [
            (nearest.get(entry.id, 0.0), entry)
            for entry in self._cache.entries
            if (entry.id in nearest or text.lower() in entry.text.lower()) and decision in ("", entry.decision)
        ]
        found.sort(key=lambda item: (text.lower() not in item[1].text.lower(), -item[0], item[1].created_ms))
        return {"entries": [self._shown(entry) | {"similarity": round(score, 4)} for score, entry in found[:limit]]}

    async def invalidate(self, document: Document) -> Document:
        """Forget entries by `ids`, `decision`, `model`, `scope`, `before_ms`, or with `all: true`; `dry_run` only counts them."""
        _check(document, "ids", "decision", "model", "scope", "before_ms", "all", "dry_run")
        ids = document.get("ids")
        if ids is not None and not (isinstance(ids, list) and all(isinstance(one, str) for one in ids)):
            raise _bad("ids", "a list of entry ids")
        named = {name: _text(document, name) for name in ("decision", "model", "scope") if name in document}
        for word in (*named.values(), *(ids or ())):
            if not _WORD.fullmatch(word):
                raise RequestError(400, "names and ids are of letters, digits, blanks and ._:/@+-", code="invalid_value")
        before_ms = _number(document, "before_ms", 0, 2**62) if "before_ms" in document else None
        selection = Selection(ids=tuple(ids) if ids is not None else None, before_ms=before_ms, **named)
        if selection == Selection() and document.get("all") is not True:
            raise RequestError(
                400, "say which entries: ids, decision, model, scope, before_ms, or all: true", code="missing_field"
            )
        meant = sum(selection.takes(entry) for entry in self._cache.entries)
        if document.get("dry_run") is not True:
            self._cache.invalidate(selection)
        return {"count": meant}

    async def report(self, document: Document) -> Document:
        """The entry with this `id` was a wrong answer: forget it, and do not pair those questions again."""
        _check(document, "id")
        return {"count": int(self._cache.report(_text(document, "id")))}

    async def export(self, document: Document) -> Document:
        """Entries with their answers, `limit` at a time; `after` is the last id of the page before."""
        _check(document, "after", "limit")
        limit, after = _number(document, "limit", 100, _MOST_SHOWN), _text(document, "after", "")
        entries = sorted((entry for entry in self._cache.entries if entry.id > after), key=lambda entry: entry.id)[:limit]
        shown = []
        for entry in entries:
            whole = await self._cache.get(entry.id)
            if whole and whole.answer:
                shown.append(
                    {name: getattr(whole, name) for name in _EXPORTED} | {"answer": base64.b64encode(whole.answer).decode()}
                )
        return {"versions": self._versions, "entries": shown, "next": entries[-1].id if len(entries) == limit else None}

    async def import_(self, document: Document) -> Document:
        """Take `entries` as `export` gave them. Those that have expired are left out."""
        _check(document, "versions", "entries")
        if document.get("versions") != self._versions:
            message = (
                f"these entries are of {document.get('versions')}, this router's are of {self._versions}; ask the models again"
            )
            raise RequestError(409, message, param="versions", code="other_versions")
        entries = document.get("entries")
        if not isinstance(entries, list):
            raise _bad("entries", "a list of entries")
        taken = [_entry(one, index) for index, one in enumerate(entries)]
        count = 0
        for entry in taken:
            count += await self._cache.take(entry)
        return {"count": count}

    def _shown(self, entry: Entry) -> dict[str, Any]:
        return {name: getattr(entry, name) for name in _EXPORTED if name not in ("key", "partition")}


def _answer_of(entry: Entry) -> Any:
    try:
        return decode(entry.answer).document
    except NotStorable:
        return None


def _entry(document: Any, index: int) -> Entry:
    path = f"entries[{index}]"
    if not isinstance(document, dict) or set(document) != {*_EXPORTED, "answer"}:
        raise _bad(path, f"an object with {', '.join(_EXPORTED)} and answer")
    for name in _EXPORTED:
        kind = int if name.endswith("_ms") else str
        if not isinstance(document[name], kind) or isinstance(document[name], bool):
            raise _bad(f"{path}.{name}", "a whole number" if kind is int else "a string")
    try:
        answer = base64.b64decode(document["answer"], validate=True)
        decode(answer)
    except (ValueError, TypeError, NotStorable):
        raise _bad(f"{path}.answer", "a whole answer, as exported") from None
    return Entry(**{**document, "answer": answer})


def _check(document: Document, *known: str) -> None:
    for name in document:
        if name not in known:
            raise RequestError(
                400,
                f"unknown field '{name[:64]}'; known are: {', '.join(known) or 'none'}",
                param=name[:64],
                code="unknown_field",
            )


def _text(document: Document, name: str, default: str | None = None) -> str:
    value = document.get(name, default)
    if not isinstance(value, str) or (default is None and not value):
        raise _bad(name, "a string")
    return value


def _number(document: Document, name: str, default: int, most: int) -> int:
    value = document.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most:
        raise _bad(name, f"a whole number from 1 to {most}")
    return value


def _bad(path: str, must: str) -> RequestError:
    return RequestError(400, f"'{path}' must be {must}", param=path, code="invalid_type")
