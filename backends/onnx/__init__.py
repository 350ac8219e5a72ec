"""The ONNX Runtime runner. Importing this package imports neither onnxruntime nor onnx."""

from __future__ import annotations

from backends.api import Runner
from backends.errors import BackendError
from backends.registry import AUTO

_OLDEST_ON_HOST = (1, 32)
"""The first onnxruntime whose attention takes rows of different lengths in one step (`query_seqlens`)."""
_OLDEST_ON_DEVICE = (1, 24)
"""The last one that there is for DirectML."""


def create_runner(*, threads: int = 0, exact: bool = False, device: str = AUTO) -> Runner:
    """A runner on `cpu`, `cuda`, `webgpu`, `coreml` or `dml`; `auto` is the best that works here, mostly the CPU.

    `threads=0` uses every physical core; `exact` computes quantized weights as float32. Verified on the CPU; devices
    are written for and not verified on such hardware yet. Raises `BackendError` when onnxruntime or onnx is missing or
    too old, `RunnerUnavailable` for a device that cannot be had.
    """
    try:
        import onnxruntime

        from backends.onnx.providers import choose_provider
        from backends.onnx.runner import OnnxRunner
    except ModuleNotFoundError as error:
        raise BackendError(f'the onnx runner needs {error.name}: pip install "hostelry[onnx]"') from error
    choice = choose_provider(device)
    found = onnxruntime.__version__
    oldest = _OLDEST_ON_HOST if choice.candidates[0].on_host else _OLDEST_ON_DEVICE
    if tuple(int(part) for part in found.split(".")[:2]) < oldest:
        extra = choice.candidates[0].extra
        raise BackendError(
            f'onnxruntime {found} is too old for {choice.device}: pip install --upgrade "hostelry[{extra}]"'
        )
    return OnnxRunner(choice, threads=threads, exact=exact)
