"""The ONNX Runtime runner. Importing this package imports neither onnxruntime nor onnx."""

from __future__ import annotations

from backends.api import Runner


def create_runner(*, threads: int = 0, exact: bool = False) -> Runner:
    """A runner on the CPU. `threads=0` uses every physical core; `exact` computes with float32 throughout."""
    from backends.onnx.runner import OnnxRunner

    return OnnxRunner(threads=threads, exact=exact)
