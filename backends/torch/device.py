"""The device that the runner computes on, and torch's exceptions as errors of the contract."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from backends import choice
from backends.errors import BackendError, LibraryErrors

DEVICES = ("auto", "cpu", "cuda")


def choose_device(name: str) -> torch.device:
    """`auto` is the current CUDA device if there is one, else the CPU.

    Raises `BackendError` for a device that is not known or not there.
    """
    if name not in DEVICES:
        raise BackendError(f"the torch runner has no device {name!r}; it has {', '.join(DEVICES)}")
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise BackendError("torch finds no CUDA device; use device cpu, or a CUDA build of torch and NVIDIA's driver")
    return torch.device("cuda" if has_cuda and name != "cpu" else "cpu")


def fallbacks_of(asked: str, device: torch.device) -> tuple[str, ...]:
    """Sentences for operators when `auto` selected the CPU of a machine that has better."""
    if asked != "auto" or device.type != "cpu" or not choice.has_cuda_device():
        return ()
    return ("an NVIDIA device is here and this torch finds none, so the CPU serves: install a CUDA build of torch",)


def describe(device: torch.device, *, threads: int) -> str:
    """Device name for operators: `cpu, 8 threads` or `cuda, NVIDIA H100`."""
    if device.type == "cuda":
        return f"cuda, {torch.cuda.get_device_name(device)}"
    return f"{device.type}, {threads} threads"


def to_device(array: npt.NDArray[np.generic], dtype: npt.DTypeLike, device: torch.device) -> Tensor:
    """A copy as `dtype`: the caller may reuse its array. Does not wait for the device, nor for what it is doing."""
    tensor = torch.from_numpy(array.astype(dtype))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


ERRORS = LibraryErrors(
    library="torch",
    in_steps=(MemoryError, RuntimeError, ValueError, IndexError, TypeError),
    at_load=(MemoryError, RuntimeError),
    memory_kinds=(MemoryError, torch.OutOfMemoryError),
    memory_words=("not enough memory", "can't allocate memory", "out of memory"),  # the CPU's is a RuntimeError
)
