"""Which engines the suites run on. onnx is required; the others join when they are there."""

from __future__ import annotations

REQUIRED = ("onnx",)
OPTIONAL = ("torch", "mlx", "cuda", "metal")


def present() -> tuple[str, ...]:
    """Runners that the product offers on this machine, required ones always among them."""
    from backends.registry import runner_names

    offered = runner_names()
    return (*REQUIRED, *(name for name in OPTIONAL if name in offered))


def absent() -> tuple[str, ...]:
    return tuple(name for name in OPTIONAL if name not in present())
