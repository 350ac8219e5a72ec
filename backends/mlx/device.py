"""Device of the runner, and mlx's exceptions there as errors of the contract."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import mlx.core as mx

from backends import choice
from backends.errors import BackendError, CapacityExceeded, Fatal, ModelError

DEVICES = ("auto", "cpu", "metal")


def choose_device(name: str) -> mx.Device:
    """The device of that name. Raises `BackendError` for one that is not known or not there."""
    if name not in DEVICES:
        raise BackendError(f"the mlx runner has no device {name!r}; it has {', '.join(DEVICES)}")
    has_metal = mx.metal.is_available()
    if name == "metal" and not has_metal:
        raise BackendError("this mlx has no Metal; use device cpu, or run on a Mac with Apple silicon")
    return mx.Device(mx.DeviceType.gpu if has_metal and name != "cpu" else mx.DeviceType.cpu)


def fallbacks_of(asked: str, device: mx.Device) -> tuple[str, ...]:
    """Sentences for operators when `auto` selected the CPU of a machine that has better."""
    if asked != "auto" or device.type != mx.DeviceType.cpu or not choice.has_metal_device():
        return ()
    return ("this is Apple silicon and this mlx has no Metal, so the CPU serves: reinstall mlx",)


def describe(device: mx.Device) -> str:
    """Device name for operators: `cpu` or `metal`."""
    return "metal" if device.type == mx.DeviceType.gpu else "cpu"


_MEMORY_WORDS = ("unable to allocate", "bad_alloc", "out of memory", "insufficient memory", "[malloc")


@contextmanager
def step_errors() -> Generator[None]:
    """Running out of memory becomes `CapacityExceeded`, everything else that mlx raises `Fatal`."""
    try:
        yield
    except (MemoryError, RuntimeError, ValueError, IndexError) as error:
        if _is_out_of_memory(error):
            raise CapacityExceeded(f"not enough memory for this step: {error}") from error
        raise Fatal(f"mlx: {error}") from error


@contextmanager
def load_errors() -> Generator[None]:
    """Running out of memory becomes `ModelError`."""
    try:
        yield
    except (MemoryError, RuntimeError, ValueError) as error:
        if _is_out_of_memory(error):
            raise ModelError(f"not enough memory to load this model; use a quantized one: {error}") from error
        raise ModelError(f"mlx could not take the weights: {error}") from error


def _is_out_of_memory(error: Exception) -> bool:
    message = str(error).lower()
    return isinstance(error, MemoryError) or any(words in message for words in _MEMORY_WORDS)
