"""What torch raises, as the errors of the contract."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch

from backends.errors import CapacityExceeded, Fatal, ModelError

_MEMORY_WORDS = ("not enough memory", "can't allocate memory", "out of memory")
"""The CPU's allocator raises a plain RuntimeError."""


@contextmanager
def step_errors() -> Generator[None]:
    """Running out of memory becomes `CapacityExceeded`, everything else that torch raises `Fatal`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if _is_out_of_memory(error):
            raise CapacityExceeded(f"not enough memory for this step: {error}") from error
        raise Fatal(f"torch: {error}") from error
    except (ValueError, IndexError, TypeError) as error:
        raise Fatal(f"torch: {error}") from error


@contextmanager
def load_errors() -> Generator[None]:
    """Running out of memory becomes `ModelError`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if _is_out_of_memory(error):
            raise ModelError(f"not enough memory to load this model; use a quantized one: {error}") from error
        raise ModelError(f"torch could not take the weights: {error}") from error


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    message = str(error).lower()
    return any(words in message for words in _MEMORY_WORDS)
