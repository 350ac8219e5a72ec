"""The ONNX Runtime runner. Importing this package imports neither onnxruntime nor onnx."""

from __future__ import annotations

from backends.api import Runner
from backends.errors import BackendError
from backends.registry import AUTO

_OLDEST = (1, 24)
"""The last one that there is for DirectML."""


def describe_device() -> str:
    """Describe the device that `auto` selects here, and the reason. Raises `BackendError` where there is none."""
    import onnxruntime

    from backends.onnx.providers import choose_provider, fit_version

    choice = fit_version(choose_provider(), _version(onnxruntime.__version__))
    return "; ".join([f"{choice.device}: {choice.reason}", *choice.fallbacks])


def create_runner(*, threads: int = 0, exact: bool = False, device: str = AUTO) -> Runner:
    """A runner on `cpu`, `cuda`, `webgpu`, `coreml` or `dml`; `auto` is the best that works here, mostly the CPU.

    `threads=0` uses every physical core; `exact` computes quantized weights as float32. Verified on the CPU; devices
    are written for and not verified on such hardware yet. Raises `BackendError` when onnxruntime or onnx is missing or
    too old, `RunnerUnavailable` for a device that cannot be had.
    """
    try:
        import onnxruntime

        from backends.onnx.providers import choose_provider, fit_version
        from backends.onnx.runner import OnnxRunner
    except ModuleNotFoundError as error:
        raise BackendError(f'the onnx runner needs {error.name}: pip install "hostelry[onnx]"') from error
    version = _version(onnxruntime.__version__)
    return OnnxRunner(fit_version(choose_provider(device), version), threads=threads, exact=exact)


def _version(found: str) -> tuple[int, ...]:
    """Major and minor. Raises `BackendError` below the oldest that serves."""
    version = tuple(int(part) for part in found.split(".")[:2])
    if version < _OLDEST:
        raise BackendError(f'onnxruntime {found} is too old: pip install --upgrade "hostelry[onnx]"')
    return version
