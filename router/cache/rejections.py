"""Questions that must not share an answer, because an operator rejected a hit.

A rejection names a hit by its reference, `ENTRY-PAIR`: the entry's id, and a digest of the two questions in either order. So
nobody keeps a record of who was given what, and a rejection works on every replica, after a restart, and when the entry is gone.
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
"""In the reference of a question that got the answer to its own text: there is no pair to reject."""
_MAX_REJECTIONS = 100_000
"""They take 17 MB. An operator made each of them by hand."""
_REFERENCE = re.compile(r"([0-9a-f]{32})(?:-([0-9a-f]{32}))?")
_DIGEST = re.compile(r"[0-9a-f]{32}")


class Rejections:
    """Which questions must not share answers. With a file, rejections outlive the process."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._rejected_pairs: OrderedDict[str, None] = OrderedDict.fromkeys(_read(file) if file else ())
        """Digests of pairs of questions, and of single questions that share answers with no other."""

    def add(self, rejected: str) -> bool:
        """Reject a digest of `digest_of_pair` or `digest_of_question`; false when it was rejected before."""
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
    """Does not depend on the order of the questions, nor on case, white space or the last punctuation mark."""
    return _paired(digest_of_question(one), digest_of_question(other))


def digest_of_question(text: str) -> str:
    """Stands for a pair whose other question is not known: this question then shares answers with no other."""
    normal = " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(" .?!")
    return digest(normal)


def _paired(one: str, other: str) -> str:
    return digest("\n".join(sorted((one, other))))


def reference_of(entry_id: str, asked: str, stored: str) -> str:
    """The name of a hit."""
    return f"{entry_id}-{NO_PAIR if asked.strip() == stored.strip() else digest_of_pair(asked, stored)}"


def parse_reference(text: str) -> tuple[str, str] | None:
    """The entry's id and the digest of the pair, which is empty for an id alone; None for any other text."""
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
