"""The operations on the cache for operators, with JSON documents, for the admin port and the command line."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal

from router.cache.cache import Cache
from router.cache.entries import Entry, EntryFilter
from router.cache.rejections import parse_reference
from router.cache.soundness import fault_of
from router.cache.stores.base import Delivery
from router.core.headers import CACHE_ENTRY_HEADER
from router.core.openai.completion import NotStorable, decode
from router.errors import RequestError

Document = Mapping[str, object]
_MAX_SHOWN = 1000
_MAX_IMPORTED = 1000
_WORD = re.compile(r"[\w.:/@+ -]{1,256}")
_SCOPE = re.compile(r"[0-9a-f]{32}|global")
_WRITE_WAIT_S = 1.0
"""The longest wait of an operation for the store. The admin port of several workers waits two seconds."""
_EXPORTED = ("id", "key", "namespace", "scope", "decision", "model", "text", "created_ms", "expires_ms")


class CacheOperations:
    """The operations by name. Each takes a document and returns one, or raises `RequestError` when it cannot be carried out."""

    def __init__(self, cache: Cache, versions: str) -> None:
        self._cache, self._versions = cache, versions
        self.scope_header = ""
        """The header whose value separates answers; empty when all clients share them."""
        self.scope_of: Callable[[str], str | None] = lambda value: None
        """Hashes a value of that header; None when there is no such header."""

    @property
    def operations(self) -> Mapping[str, Callable[[Document], Awaitable[Document]]]:
        """All operations by name."""
        return {
            "stats": self.stats,
            "get": self.get,
            "search": self.search,
            "invalidate": self.invalidate,
            "reject": self.reject,
            "export": self.export,
            "import": self.import_,
        }

    async def stats(self, document: Document) -> Document:
        """Sizes, hits by tier, misses by reason, and the state of the store."""
        _check(document)
        return {**self._cache.stats(), "versions": self._versions, "scope_header": self.scope_header}

    async def get(self, document: Document) -> Document:
        """One entry by `id`, with its answer; `entries` is empty when there is none."""
        _check(document, "id")
        entry_id, _ = parse_reference(_text(document, "id")) or ("", "")
        entry = await self._cache.get(entry_id)
        return {"entries": [self._shown(entry) | {"answer": _answer_of(entry)}] if entry else []}

    async def search(self, document: Document) -> Document:
        """Entries whose question contains `text` or is similar to it, the most similar first; `decision` narrows the search."""
        _check(document, "text", "decision", "limit")
        text, decision = _text(document, "text", ""), _text(document, "decision", "")
        limit = _number(document, "limit", 20, _MAX_SHOWN)
        nearest = await self._cache.similar(text, limit) if text else {}
        found = [
            (nearest.get(entry.id, 0.0), entry)
            for entry in self._cache.entries
            if (entry.id in nearest or text.lower() in entry.text.lower()) and decision in ("", entry.decision)
        ]
        found.sort(key=lambda item: (text.lower() not in item[1].text.lower(), -item[0], item[1].created_ms))
        return {"entries": [self._shown(entry) | {"similarity": round(score, 4)} for score, entry in found[:limit]]}

    async def invalidate(self, document: Document) -> Document:
        """Delete entries by `ids`, `decision`, `model`, `scope` or `scope_value`, `before_ms`, or with `all: true`.

        `scope_value` is the value of the header itself, such as `Bearer ...`. `dry_run` only counts the entries. `count` is for
        this process; `store` says whether other replicas get the invalidation; see `Delivery`.
        """
        _check(document, "ids", "decision", "model", "scope", "scope_value", "before_ms", "all", "dry_run")
        is_dry = document.get("dry_run", False)
        if not isinstance(is_dry, bool):
            raise _bad("dry_run", "true or false")
        before_ms = _number(document, "before_ms", 0, 2**62) if "before_ms" in document else None
        names = {name: _name(document, name) for name in ("decision", "model") if name in document}
        entry_filter = EntryFilter(_ids(document), scope=self._scope(document), before_ms=before_ms, **names)
        if entry_filter == EntryFilter() and document.get("all") is not True:
            message = "say which entries: ids, decision, model, scope, scope_value, before_ms, or all: true"
            raise RequestError(400, message, code="missing_field")
        if is_dry:
            return {"count": len(self._cache.select(entry_filter)), "store": "none"}
        return {"count": self._cache.invalidate(entry_filter), "store": await self._delivered()}

    def _scope(self, document: Document) -> str | None:
        if "scope_value" in document:
            if "scope" in document:
                raise _bad("scope_value", "alone: it stands in the place of scope")
            scope = self.scope_of(_header_value(document, "scope_value")) if self.scope_header else None
            if scope is None:
                message = "all clients share answers (semantic_cache.scope: global), so no entry belongs to one client"
                raise RequestError(400, message, param="scope_value", code="no_scope")
            return scope
        if "scope" not in document:
            return None
        scope = _text(document, "scope")
        if not _SCOPE.fullmatch(scope):
            header = self.scope_header or "scope header"
            message = f"'scope' must be 32 hex digits, as `cache get` shows it; to use the value of the {header}, set scope_value"
            raise RequestError(400, f"{message} (`--scope-value-file`)", param="scope", code="invalid_value")
        return scope

    async def _delivered(self) -> Delivery:
        if self._cache.store_sync is None:
            return "none"
        return "written" if await self._cache.store_sync.flushed(_WRITE_WAIT_S) else "waiting"

    async def reject(self, document: Document) -> Document:
        """Reject the hit `id`: delete its entry, and never again let the two questions share an answer.

        `id` is the value of `x-vsr-cache-entry` that the client got. With the id of an entry alone, the entry's question never
        shares an answer with any other question. The result has a `reference` for other workers, which may not know the entry.
        """
        _check(document, "id")
        reference = self._cache.reject(_text(document, "id"))
        return {"count": int(bool(reference)), "reference": reference, "store": await self._delivered()}

    async def export(self, document: Document) -> Document:
        """Up to `limit` entries with their answers, in order of their ids. `after` is the last id of the previous page."""
        _check(document, "after", "limit")
        limit, after = _number(document, "limit", 100, _MAX_SHOWN), _text(document, "after", "")
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
        """Store `entries` of an export. An entry with an invalid field is left out, and `refused` names the field.

        Entries that have expired or whose key is known are left out and counted.
        """
        _check(document, "versions", "entries")
        if document.get("versions") != self._versions:
            said = str(document.get("versions"))[:200]
            message = f"these entries come from {said}, this router uses {self._versions}; ask the models again (`cache warm`)"
            raise RequestError(409, message, param="versions", code="other_versions")
        entries = document.get("entries")
        if not isinstance(entries, list) or len(entries) > _MAX_IMPORTED:
            raise _bad("entries", f"a list of at most {_MAX_IMPORTED} entries")
        counts, refused = {"count": 0, "expired": 0, "known": 0}, []
        for index, one in enumerate(entries):
            entry = _entry(one)
            if isinstance(entry, tuple):
                refused.append({"index": index, "field": entry[0], "must": entry[1]})
            else:
                counts[await self._import(entry)] += 1
        return {**counts, "refused": refused}

    async def _import(self, entry: Entry) -> Literal["count", "expired", "known"]:
        if entry.expires_ms <= time.time() * 1000:
            return "expired"
        return "count" if await self._cache.import_entry(entry) else "known"

    def _shown(self, entry: Entry) -> dict[str, object]:
        return {name: getattr(entry, name) for name in _EXPORTED if name not in ("key", "namespace")}


def _answer_of(entry: Entry) -> object:
    try:
        return decode(entry.answer).document
    except NotStorable:
        return None


def _entry(document: object) -> Entry | tuple[str, str]:
    """An entry, or the name of an invalid field and what it must be."""
    if not isinstance(document, dict) or set(document) != {*_EXPORTED, "answer"}:
        return "", f"an object with {', '.join(_EXPORTED)} and answer"
    for name in _EXPORTED:
        kind = int if name.endswith("_ms") else str
        if not isinstance(document[name], kind) or isinstance(document[name], bool):
            return name, "a whole number" if kind is int else "a string"
    try:
        answer = base64.b64decode(document["answer"], validate=True)
        decode(answer)
    except (ValueError, TypeError, RecursionError, NotStorable):
        return "answer", "a whole answer, as exported"
    entry = Entry(**{**document, "answer": answer})
    return fault_of(entry, int(time.time() * 1000)) or entry


def _ids(document: Document) -> tuple[str, ...] | None:
    ids = document.get("ids")
    if ids is None:
        return None
    if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
        raise _bad("ids", "a list of entry ids")
    found = [parse_reference(one) for one in ids]
    if not all(found):
        raise RequestError(400, f"an id has 32 hex digits, as in {CACHE_ENTRY_HEADER}", param="ids", code="invalid_value")
    return tuple(one[0] for one in found if one)


def _name(document: Document, name: str) -> str:
    value = _text(document, name)
    if not _WORD.fullmatch(value):
        raise RequestError(400, "a name may have letters, digits, blanks and ._:/@+-", param=name, code="invalid_value")
    return value


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


def _header_value(document: Document, name: str) -> str:
    """A text that a header can hold. Bytes that are not UTF-8 are surrogates, as `surrogateescape` writes them."""
    value = _text(document, name)
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        message = f"'{name}' holds half a surrogate pair, which is not text"
        raise RequestError(400, message, param=name, code="invalid_value") from None
    return value


def _number(document: Document, name: str, default: int, maximum: int) -> int:
    value = document.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= maximum:
        raise _bad(name, f"a whole number from 1 to {maximum}")
    return value


def _bad(path: str, must: str) -> RequestError:
    return RequestError(400, f"'{path}' must be {must}", param=path, code="invalid_type")
