"""Pairs of questions that must not share an answer, because an operator rejected a hit.

A rejection names a hit by its reference, `ENTRY-PAIR`: the id of the entry, and a digest of the two questions in either order. So
the cache keeps no record of who got which answer. A rejection works on every replica, after a restart, and without the entry.
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

from router.core.cache_key import digest

log = logging.getLogger(__name__)

NO_PAIR = "0" * 32
"""Stands in the reference of an exact hit, which has no pair of questions to reject."""
_MAX_REJECTIONS = 100_000
"""They take 17 MB. Operators make rejections by hand, so there are few."""
_REFERENCE = re.compile(r"([0-9a-f]{32})(?:-([0-9a-f]{32}))?")
_DIGEST = re.compile(r"[0-9a-f]{32}")


class Rejections:
    """The rejected pairs. With a file, rejections outlive the process."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._rejected_pairs: OrderedDict[str, None] = OrderedDict.fromkeys(_read(file) if file else ())
        """Digests of rejected pairs, and of single questions that share answers with no other question."""

    def add(self, rejected: str) -> bool:
        """Reject a digest from `digest_of_pair` or `digest_of_question`; false when it is known."""
        if rejected in self._rejected_pairs:
            return False
        self._rejected_pairs[rejected] = None
        if len(self._rejected_pairs) > _MAX_REJECTIONS:
            self._rejected_pairs.popitem(last=False)
        if self._file:
            _append(self._file, rejected)
        return True

    def forbids(self, asked: str, stored: str) -> bool:
        """Whether the two questions must not share an answer."""
        if not self._rejected_pairs:
            return False
        one, other = digest_of_question(asked), digest_of_question(stored)
        return one in self._rejected_pairs or other in self._rejected_pairs or _paired(one, other) in self._rejected_pairs

    def __len__(self) -> int:
        return len(self._rejected_pairs)


def digest_of_pair(one: str, other: str) -> str:
    """Digest of two questions. Ignores their order, case, white space and final punctuation."""
    return _paired(digest_of_question(one), digest_of_question(other))


def digest_of_question(text: str) -> str:
    """Digest of one question, for a rejection whose other question is unknown. It then shares answers with no other."""
    normal = " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(" .?!")
    return digest(normal)


def _paired(one: str, other: str) -> str:
    return digest("\n".join(sorted((one, other))))


def reference_of(entry_id: str, asked: str, stored: str) -> str:
    """The reference of a hit."""
    return f"{entry_id}-{NO_PAIR if asked.strip() == stored.strip() else digest_of_pair(asked, stored)}"


def parse_reference(text: str) -> tuple[str, str] | None:
    """The id of the entry and the digest of the pair, which is empty for an id alone; None for any other text."""
    found = _REFERENCE.fullmatch(text)
    return (found[1], found[2] or "") if found else None


def _read(file: Path) -> Iterable[str]:
    try:
        with file.open(encoding="ascii", errors="replace") as lines:
            return [line.strip() for line in lines if _DIGEST.fullmatch(line.strip())][-_MAX_REJECTIONS:]
    except FileNotFoundError:
        return ()
    except OSError as error:
        log.warning("rejected pairs cannot be read from %s: %s", file, error.strerror)
        return ()


def _append(file: Path, rejected: str) -> None:
    try:
        with contextlib.closing(os.fdopen(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "w")) as out:
            out.write(f"{rejected}\n")
    except OSError as error:
        log.warning("a rejected pair is forgotten when this process ends: %s cannot be written: %s", file, error.strerror)
