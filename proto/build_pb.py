"""Compiles extproc.proto into `router/extproc/pb/`, which is generated and never committed.

A hatch build hook (named in pyproject.toml), so that wheels and editable installs just work; `make proto` runs it by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc_tools
from grpc_tools import protoc
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "router" / "extproc" / "pb"
GOOGLE_PROTOS = Path(grpc_tools.__file__).parent / "_proto"


class ProtoBuildHook(BuildHookInterface[Any]):
    """Runs before every wheel, editable ones included; a source distribution carries the .proto instead."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatch; neither argument matters here."""
        if self.target_name == "wheel":
            compile_proto()


def compile_proto() -> None:
    """Write the module and its type stub. Raises `RuntimeError` when the compiler refuses; it has said why on stderr."""
    PACKAGE.mkdir(parents=True, exist_ok=True)
    (PACKAGE / "__init__.py").touch()
    arguments = [f"-I{ROOT / 'proto'}", f"-I{GOOGLE_PROTOS}", f"--python_out={PACKAGE}", f"--pyi_out={PACKAGE}"]
    if protoc.main(["protoc", *arguments, "extproc.proto"]) != 0:
        raise RuntimeError("proto/extproc.proto does not compile")


if __name__ == "__main__":
    compile_proto()
