"""What mlx raises, as the errors of the contract."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from backends.errors import CapacityExceeded, Fatal, ModelError

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
