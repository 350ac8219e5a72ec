"""The shared library of CPU kernels, through ctypes. Its interface is `source/kernels.h`."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from backends.errors import BackendError

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]

LEVELS = ("avx512vnni", "avxvnni", "avx2", "neon", "scalar")
"""Sets of instructions that there is code for, best first."""
LEVEL_VARIABLE = "HOSTELRY_KERNEL_LEVEL"
SWITCH_VARIABLE = "HOSTELRY_KERNELS"
TILE_ROWS = 16

_ABI_VERSION = 5
_ALIGNMENT = 64
_SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
BUILT = Path(__file__).with_name(f"libhostelry_kernels{_SUFFIX}")

_I32, _I64, _POINTER = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p

_SIGNATURES: dict[str, tuple[object, ...]] = {
    "hk_level": (ctypes.c_char_p,),
    "hk_set_level": (_I32, ctypes.c_char_p),
    "hk_cpu_has": (_I32, ctypes.c_char_p),
    "hk_packed_bytes": (_I64, _I32, _I64, _I64),
    "hk_pack": (_I32, _I32, _I64, _I64, _POINTER, _POINTER),
    "hk_num_tiles": (_I64, _I64),
    "hk_peak": (_I64, _I64),
    "hk_scratch_bytes": (_I64, _I32, _I64, _I64),
    "hk_activate": (None, _I32, _POINTER, _I64, _I64, _POINTER, _I64, _I64),
    "hk_multiply": (None, _POINTER, _POINTER, _I64, _I64, _I64, _POINTER, _I64, _POINTER),
    "hk_group_rows": (None, _POINTER),
    "hk_shrink_units": (_I64, _POINTER),
    "hk_expand_units": (_I64, _POINTER),
    "hk_shrink": (None, _POINTER, _I64, _I64),
    "hk_expand": (None, _POINTER, _I64, _I64),
    "hk_kv_bytes": (_I64, _I32, _I64, _I64, _I64),
    "hk_place": (None, _POINTER, _I64, _I64),
    "hk_num_tasks": (_I64, _POINTER),
    "hk_attend": (None, _POINTER, _I64, _I64),
}
"""Function → its result and its parameters."""


class KernelsUnavailable(BackendError):
    """No kernels can be used here; the message gives the reason and what would help."""


class TileWeights(ctypes.Structure):
    """`hk_weights`: a matrix in tiles."""

    _fields_ = (("format", _I32), ("rows", _I64), ("columns", _I64), ("packed", _POINTER))


class Epilogue(ctypes.Structure):
    """`hk_epilogue`: what happens to a product before it is stored."""

    _fields_ = (
        *(("bias", _POINTER), ("residual", _POINTER), ("activation", _I32)),
        *(("delta", _POINTER), ("delta_of", _POINTER)),
    )


class Library:
    """A loaded library. Its functions may be called from many threads at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.functions = _loaded(path)

    @property
    def level(self) -> str:
        """The set of instructions in use."""
        name: bytes = self.functions.hk_level()
        return name.decode()

    def set_level(self, name: str) -> bool:
        """Use another set of instructions in this process; `False` if this CPU or build has not got it."""
        done: int = self.functions.hk_set_level(name.encode())
        return done == 0

    def cpu_has(self, level: str) -> bool:
        """True if this CPU has the instructions of a level; this build may have left it out."""
        has: int = self.functions.hk_cpu_has(level.encode())
        return has != 0

    @property
    def best_level(self) -> str:
        """The level that a build for this machine uses."""
        return next(level for level in LEVELS if self.cpu_has(level))

    def pack(self, ggml_type: int, rows: int, columns: int, blocks: U8) -> U8 | None:
        """Tiles of stored blocks, uint8 `[rows, bytes]` → aligned uint8 `[bytes]`; `None` for what makes no tiles."""
        size: int = self.functions.hk_packed_bytes(ggml_type, rows, columns)
        if size < 0:
            return None
        blocks, packed = np.ascontiguousarray(blocks), aligned(size)
        tiles = -(-rows // TILE_ROWS)
        row_bytes, tile_bytes = blocks.nbytes // rows, size // tiles

        def part(first: int, last: int) -> None:
            start, end = first * TILE_ROWS, min(rows, last * TILE_ROWS)
            self.functions.hk_pack(
                ggml_type,
                end - start,
                columns,
                blocks.ctypes.data + start * row_bytes,
                packed.ctypes.data + first * tile_bytes,
            )

        in_parts(part, tiles, threads=os.cpu_count() or 1)
        return packed


def load_library(path: Path = BUILT) -> Library:
    """The library that was built with this package. Raises `KernelsUnavailable`, also where only `scalar` is left of a
    library that was built for another CPU.
    """
    if os.environ.get(SWITCH_VARIABLE) == "0":
        raise KernelsUnavailable(f"they are switched off by {SWITCH_VARIABLE}=0")
    if not path.exists():
        raise KernelsUnavailable("they were not built; install a C++17 compiler and install hostelry again")
    library = Library(path)
    if library.level == "scalar" != library.best_level and os.environ.get(LEVEL_VARIABLE) != "scalar":
        raise KernelsUnavailable(
            f"{path.name} was built for another CPU and this one has {library.best_level}; install hostelry again on "
            "this machine, or build with HOSTELRY_KERNEL_LEVELS=all for every machine"
        )
    return library


def aligned(size: int) -> U8:
    """uint8 `[size]` zeros that begin at a cache line."""
    room = np.zeros(size + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    return room[start : start + size]


def in_parts(work: Callable[[int, int], None], count: int, *, threads: int) -> None:
    """Call `work(first, last)` for parts of `range(count)`, the first of them here and the others on threads.

    They run in parallel because ctypes releases the GIL.
    """
    if threads <= 1 or count <= 1:
        work(0, count)
        return
    bounds = [count * index // threads for index in range(threads + 1)]
    others = [_pool(threads).submit(work, first, last) for first, last in pairwise(bounds[1:])]
    work(0, bounds[1])
    for other in others:
        other.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="hostelry-kernels")


def _loaded(path: Path) -> ctypes.CDLL:
    try:
        functions = ctypes.CDLL(str(path))
        version = functions.hk_abi_version()
        if version == _ABI_VERSION:
            for name, (result, *arguments) in _SIGNATURES.items():
                function = getattr(functions, name)
                function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise KernelsUnavailable(f"{path.name} cannot be loaded ({error}); install hostelry again") from error
    if version != _ABI_VERSION:
        raise KernelsUnavailable(
            f"{path.name} has interface {version} and version {_ABI_VERSION} is expected; install hostelry again"
        )
    return functions
