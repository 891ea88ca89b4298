"""Which modules stay out of a process that only serves. A fresh interpreter is asked what it has loaded."""

from __future__ import annotations

import subprocess
import sys


def test_serving_loads_neither_training_nor_checking_nor_tracing() -> None:
    """A module that is switched off, or belongs to another command, is never loaded, for it could only cost time and fail."""
    code = "import sys, router.runtime.process, router.runtime.build, router.config.load; print('\\n'.join(sys.modules))"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    heavy = {"torch", "onnxruntime", "envoy_data_plane", "opentelemetry.exporter.otlp.proto.grpc.trace_exporter"}
    assert not heavy & loaded
