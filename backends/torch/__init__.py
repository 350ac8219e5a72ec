"""The PyTorch runner. Importing this package does not import torch."""

from __future__ import annotations

from backends.api import Runner
from backends.errors import BackendError

_OLDEST = (2, 5)
"""The first torch whose attention shares key heads between query heads (`enable_gqa`)."""


def describe_device() -> str:
    """Describe the device that `auto` selects here, and the reason."""
    from backends.torch.device import choose_device

    device = choose_device("auto").type
    return "cuda: torch finds a device" if device == "cuda" else "cpu: torch finds no CUDA device"


def create_runner(*, threads: int = 0, exact: bool = False, device: str = "auto") -> Runner:
    """Create a runner on `device`: `auto` (CUDA where torch finds some), `cpu` or `cuda`. Verified on the CPU only.

    `threads=0` leaves their number to torch; it applies to the whole process. `exact` decodes quantized weights once,
    at load. Raises `BackendError` when torch is missing or too old, or the device is not available.
    """
    try:
        import torch

        from backends.torch.device import choose_device, fallbacks_of
        from backends.torch.runner import TorchRunner
    except ModuleNotFoundError as error:
        raise BackendError(f'the torch runner needs {error.name}: pip install "hostelry[torch]"') from error
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < _OLDEST:
        raise BackendError(f'torch {torch.__version__} is too old: pip install --upgrade "hostelry[torch]"')
    chosen = choose_device(device)
    fallbacks = fallbacks_of(device, chosen)
    return TorchRunner(device=chosen, threads=threads, exact=exact, fallbacks=fallbacks)
