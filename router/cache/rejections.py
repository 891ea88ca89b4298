"""What must not come back: entries that were invalidated, however late they arrive, and questions that were reported.

A report names a hit by its reference, `ENTRY-PAIR`: the entry, and a digest of the two questions in either order. So it needs no
record of who was given what, and does the same in every replica, after a restart, and when the entry itself is gone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import unicodedata
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

from router.cache.entries import Entry, EntryFilter
from router.core.cache_key import digest

log = logging.getLogger(__name__)

NO_PAIR = "0" * 32
"""In a reference, of a question that got the answer to its own text: there is nothing to keep apart."""
_MAX_IDS = 100_000
_MAX_EVICTED = 10_000
_MAX_MARKS = 10_000
_MAX_REJECTIONS = 100_000
"""17 MB; each is one report by an operator."""
_REFERENCE = re.compile(r"([0-9a-f]{32})(?:-([0-9a-f]{32}))?")
_DIGEST = re.compile(r"[0-9a-f]{32}")
_Mark = tuple[str | None, str | None, str | None]


class Tombstones:
    """Which entries were invalidated. Memory is bounded, and asking takes constant time."""

    def __init__(self) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._evicted: OrderedDict[str, None] = OrderedDict()
        self._marks: OrderedDict[_Mark, int] = OrderedDict()
        """Decision, model and scope, each None for any: entries created before this moment are gone."""
        self._floor_ms = 0
        """Entries created before it are gone, whatever they are: what remains of marks that had to make room."""

    def bury(self, entry_id: str) -> None:
        """This entry was invalidated."""
        self._ids[entry_id] = None
        if len(self._ids) > _MAX_IDS:
            self._ids.popitem(last=False)

    def evict(self, entry_id: str) -> None:
        """This entry had to make room; a store may show it a moment longer. Apart from the rest: clients cause these."""
        self._evicted[entry_id] = None
        if len(self._evicted) > _MAX_EVICTED:
            self._evicted.popitem(last=False)

    def mark(self, entry_filter: EntryFilter, before_ms: int) -> bool:
        """Entries of a selection that were created before a moment are gone; false when that was known."""
        key = (entry_filter.decision, entry_filter.model, entry_filter.scope)
        if self._marks.get(key, 0) >= before_ms:
            return False
        self._marks[key] = before_ms
        self._marks.move_to_end(key)
        if len(self._marks) > _MAX_MARKS:
            self._floor_ms = max(self._floor_ms, self._marks.popitem(last=False)[1])
        return True

    def cover(self, entry: Entry) -> bool:
        """Whether an entry that arrives must be turned away."""
        if entry.id in self._ids or entry.id in self._evicted or entry.created_ms < self._floor_ms:
            return True
        if not self._marks:
            return False
        return any(
            self._marks.get((decision, model, scope), 0) > entry.created_ms
            for decision in (None, entry.decision)
            for model in (None, entry.model)
            for scope in (None, entry.scope)
        )


class Rejections:
    """Which questions must not be given each other's answers. With a file, they outlive the process."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._digests: OrderedDict[str, None] = OrderedDict.fromkeys(_read(file) if file else ())

    def add(self, rejected: str) -> bool:
        """A digest by `digest_of_pair` or `digest_of_question`; false when it was known."""
        if rejected in self._digests:
            return False
        self._digests[rejected] = None
        if len(self._digests) > _MAX_REJECTIONS:
            self._digests.popitem(last=False)
        if self._file:
            _append(self._file, rejected)
        return True

    def forbid(self, asked: str, stored: str) -> bool:
        """Whether the answer to the one question must not be given to the other."""
        if not self._digests:
            return False
        one, other = digest_of_question(asked), digest_of_question(stored)
        return one in self._digests or other in self._digests or _paired(one, other) in self._digests

    def __len__(self) -> int:
        return len(self._digests)


def digest_of_pair(one: str, other: str) -> str:
    """The same in either order, and for spellings that differ in case, white space or the last full stop alone."""
    return _paired(digest_of_question(one), digest_of_question(other))


def digest_of_question(text: str) -> str:
    """In the place of a pair whose other half is not known: this question is matched with none."""
    normal = " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(" .?!")
    return digest(normal)


def _paired(one: str, other: str) -> str:
    return digest("\n".join(sorted((one, other))))


def reference_of(entry_id: str, asked: str, stored: str) -> str:
    """What names a hit."""
    return f"{entry_id}-{NO_PAIR if asked.strip() == stored.strip() else digest_of_pair(asked, stored)}"


def parse_reference(text: str) -> tuple[str, str] | None:
    """The entry, and the digest of the pair; that is empty for an entry's id alone. None when it is neither."""
    found = _REFERENCE.fullmatch(text)
    return (found[1], found[2] or "") if found else None


def _read(file: Path) -> Iterable[str]:
    try:
        with file.open(encoding="ascii", errors="replace") as lines:
            return [line.strip() for line in lines if _DIGEST.fullmatch(line.strip())][-_MAX_REJECTIONS:]
    except FileNotFoundError:
        return ()
    except OSError as error:
        log.warning("reported pairs cannot be read from %s: %s", file, error.strerror)
        return ()


def _append(file: Path, rejected: str) -> None:
    try:
        with contextlib.closing(os.fdopen(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "w")) as out:
            out.write(f"{rejected}\n")
    except OSError as error:
        log.warning("a reported pair is forgotten when this process ends: %s cannot be written: %s", file, error.strerror)
