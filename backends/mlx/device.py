"""The device that the runner computes on, and mlx's exceptions as errors of the contract."""

from __future__ import annotations

import mlx.core as mx

from backends import choice
from backends.errors import BackendError, LibraryErrors

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


ERRORS = LibraryErrors(
    library="mlx",
    in_steps=(MemoryError, RuntimeError, ValueError, IndexError),
    at_load=(MemoryError, RuntimeError, ValueError),
    memory_words=("unable to allocate", "bad_alloc", "out of memory", "insufficient memory", "[malloc"),
)
