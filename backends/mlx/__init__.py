"""The MLX runner: Metal on Apple silicon, and the CPU on Linux and Macs. Importing this package does not import mlx."""

from __future__ import annotations

from backends.api import Runner
from backends.errors import BackendError


def describe_device() -> str:
    """Describe the device that `auto` selects here, and the reason."""
    from backends.mlx.device import choose_device, describe

    device = describe(choose_device("auto"))
    return "metal: this is Apple silicon" if device == "metal" else "cpu: this mlx has no Metal"


def create_runner(*, threads: int = 0, exact: bool = False, device: str = "auto") -> Runner:
    """A runner on `device`: `auto` (Metal where there is some), `cpu` or `metal`. Verified on the CPU only so far.

    MLX chooses its own number of threads; `threads` is taken for symmetry. `exact` decodes quantized weights once, at
    load. Raises `BackendError` when mlx is missing or the device is not there.
    """
    del threads
    try:
        from backends.mlx.device import choose_device, fallbacks_of
        from backends.mlx.runner import MlxRunner
    except ModuleNotFoundError as error:
        raise BackendError(f'the mlx runner needs {error.name}: pip install "hostelry[mlx]"') from error
    chosen = choose_device(device)
    return MlxRunner(device=chosen, exact=exact, fallbacks=fallbacks_of(device, chosen))
