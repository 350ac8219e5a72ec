"""The ONNX Runtime runner. Importing this package imports neither onnxruntime nor onnx."""

from __future__ import annotations

from backends.api import Runner
from backends.errors import BackendError

_OLDEST = (1, 32)
"""The first onnxruntime whose attention takes rows of different lengths in one step (`query_seqlens`)."""


def create_runner(*, threads: int = 0, exact: bool = False) -> Runner:
    """A runner on the CPU. `threads=0` uses every physical core; `exact` computes quantized weights as float32.

    Raises `BackendError` when onnxruntime or onnx is missing or too old.
    """
    try:
        import onnxruntime

        from backends.onnx.runner import OnnxRunner
    except ModuleNotFoundError as error:
        raise BackendError(f'the onnx runner needs {error.name}: pip install "hostelry[onnx]"') from error
    if tuple(int(part) for part in onnxruntime.__version__.split(".")[:2]) < _OLDEST:
        found = onnxruntime.__version__
        raise BackendError(f'onnxruntime {found} is too old: pip install --upgrade "hostelry[onnx]"')
    return OnnxRunner(threads=threads, exact=exact)
