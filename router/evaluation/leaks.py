"""No figures on what a model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from router.errors import ConfigError, Problem
from router.signals.bundle import DIGEST_BYTES, TRAINED_ON, Bundle, digest

_MOST_KNOWN = 0.01  # share of texts that may match by chance, such as "hello" in two data sets


def refuse_trained_on(path: Path, bundle: Bundle, texts: Sequence[str]) -> None:
    """Raise `ConfigError` when more than a few of the texts in the file `path` were trained on."""
    file = bundle.folder / TRAINED_ON
    if not file.is_file():
        return
    stored = file.read_bytes()
    known = {stored[at : at + DIGEST_BYTES] for at in range(0, len(stored), DIGEST_BYTES)}
    matches = sum(digest(text) in known for text in texts if any(map(str.isalnum, text)))
    if matches > _MOST_KNOWN * len(texts):
        message = f"{matches} of {len(texts)} texts were trained on; figures on them would say nothing. Use texts held back"
        raise ConfigError([Problem(str(path), 0, "", message)])
