"""Maps onnxruntime's exceptions to errors of the contract."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from onnxruntime.capi import onnxruntime_pybind11_state as native

from backends.errors import CapacityExceeded, Fatal, ModelError

# Its exceptions have no common base but Exception; a run with bound arrays raises plain RuntimeError.
_OWN = [kind for kind in vars(native).values() if isinstance(kind, type) and issubclass(kind, Exception)]
NATIVE: tuple[type[Exception], ...] = (*_OWN, RuntimeError, ValueError)
_MEMORY_WORDS = ("bad_alloc", "bad allocation", "allocate memory", "out of memory")


@contextmanager
def step_errors() -> Generator[None]:
    """Running out of memory becomes `CapacityExceeded`, everything else `Fatal`."""
    try:
        yield
    except MemoryError as error:
        raise CapacityExceeded(f"not enough memory: {error}") from error
    except NATIVE as error:
        if _is_out_of_memory(error):
            raise CapacityExceeded(f"not enough memory: {error}") from error
        raise Fatal(f"onnxruntime: {error}") from error


@contextmanager
def load_errors(device: str) -> Generator[None]:
    """Everything becomes `ModelError`, which names the device."""
    try:
        yield
    except MemoryError as error:
        raise ModelError("not enough memory to load this model; use a smaller or a quantized one") from error
    except NATIVE as error:
        if _is_out_of_memory(error):
            raise ModelError(f"not enough memory to load this model; use a quantized one: {error}") from error
        raise ModelError(f"onnxruntime refused the graph on {device}: {error}") from error


def _is_out_of_memory(error: Exception) -> bool:
    message = str(error).lower()
    return any(words in message for words in _MEMORY_WORDS)
