"""The project's own modules as syntax trees; each is parsed once for all tests that look into them."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROUTER = ROOT / "router"


@cache
def nodes_of(file: Path) -> tuple[ast.AST, ...]:
    """Every node of a module."""
    return tuple(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
