"""Whether two questions may share an answer. The seam for a trained verifier; until there is one, the guards alone."""

from __future__ import annotations

from router.core.guards import conflict
from router.core.types import Terms

GUARDS_VERSION = "guards-1"
"""Raised whenever a guard changes what it lets pass: answers stored for other questions are then out of reach."""


async def verify(asked: str, stored: str, terms: Terms) -> str:
    """Why the answer to `stored` must not be given to `asked`; empty when it may."""
    return conflict(asked, stored, terms.guards)
