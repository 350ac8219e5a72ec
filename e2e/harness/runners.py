"""Engines that the suites run on. onnx and torch are required; the others join when they are there."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from backends.registry import runner_names

REQUIRED = ("onnx", "torch")
TIMED = "onnx"
"""The one that batching's times are held to on a CPU: what `auto` takes there."""
ONE = pytest.mark.parametrize("runner", [TIMED], indirect=True)
"""Parameter for tests of what happens before a runner is reached: one engine is enough."""
OPTIONAL = {"mlx": "mlx", "cuda": "torch", "metal": "mlx"}
"""Runner and the package without which it cannot run."""


def present() -> tuple[str, ...]:
    """Runners that the product offers and this machine can run; required ones are always among them."""
    offered = runner_names()
    return (*REQUIRED, *(name for name, package in OPTIONAL.items() if name in offered and find_spec(package)))


def absent() -> tuple[str, ...]:
    """Optional runners that a run here says nothing about."""
    return tuple(name for name in OPTIONAL if name not in present())
