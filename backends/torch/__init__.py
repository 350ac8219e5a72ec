"""The PyTorch runner. Importing this package does not import torch."""

from __future__ import annotations

from backends.api import Runner
from backends.errors import BackendError

_OLDEST = (2, 5)
"""The first torch whose attention shares key heads between query heads (`enable_gqa`)."""


def create_runner(*, threads: int = 0, exact: bool = False) -> Runner:
    """A runner on CUDA where torch finds a device, else on the CPU, computing in float32.

    Written for both and verified on the CPU only. `threads=0` leaves their number to torch; it holds for the whole
    process. `exact` decodes quantized weights once, at load. Raises `BackendError` when torch is missing or too old.
    """
    try:
        import torch

        from backends.torch.runner import TorchRunner
    except ModuleNotFoundError as error:
        raise BackendError(f'the torch runner needs {error.name}: pip install "hostelry[torch]"') from error
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < _OLDEST:
        raise BackendError(f'torch {torch.__version__} is too old: pip install --upgrade "hostelry[torch]"')
    return TorchRunner(threads=threads, exact=exact)
