"""Exceptions of onnxruntime as errors of the contract."""

from __future__ import annotations

from onnxruntime.capi import onnxruntime_pybind11_state as native

from backends.errors import LibraryErrors

# Its exceptions have no common base but Exception; a run with bound arrays raises plain RuntimeError.
_OWN = [kind for kind in vars(native).values() if isinstance(kind, type) and issubclass(kind, Exception)]
NATIVE: tuple[type[Exception], ...] = (*_OWN, RuntimeError, ValueError)

ERRORS = LibraryErrors(
    library="onnxruntime",
    in_steps=(MemoryError, *NATIVE),
    at_load=(MemoryError, *NATIVE),
    memory_words=("bad_alloc", "bad allocation", "allocate memory", "out of memory"),
    no_memory="not enough memory",
)
