"""Low-rank sums of rows with different adapters, through ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from backends.kernels.library import F32, Library, in_parts

MAX_PARTS = 3

I32 = npt.NDArray[np.int32]
_I32, _I64, _POINTER = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p


class _LowRank(ctypes.Structure):
    """`hk_low_rank`."""

    _fields_ = (
        *((name, _I64) for name in ("m", "columns", "rows", "parts")),
        ("part_rows", _I64 * MAX_PARTS),
        *((name, _I64) for name in ("slots", "table_stride")),
        ("is_gated", _I32),
        *((name, _POINTER) for name in ("x", "lora", "table", "order", "delta_of", "group_begin")),
        *((name, _I64) for name in ("groups", "active", "max_rank")),
        *((name, _POINTER) for name in ("shrunk", "delta")),
    )


def low_rank_sums(
    library: Library,
    x: F32,
    lora: I32,
    adapters: Mapping[int, Sequence[tuple[F32, F32] | None]],
    *,
    part_rows: Sequence[int],
    gated: bool = False,
    threads: int = 1,
) -> F32:
    """B (A x) for the rows with an adapter, zeros for the others: float32 `[T, columns]` → `[T, sum of part_rows]`.

    `lora[T]` int32 is a slot or -1. `adapters`: slot → for each of up to three parts, matrices side by side, A float32
    `[rank, columns]` and B `[rows of the part, rank]`, or None. `gated`: the two parts in turns of 16 rows.
    """
    slots = max(adapters, default=-1) + 1
    table = np.zeros((slots, len(part_rows) * 3), np.int64)
    kept = []
    for slot, parts in adapters.items():
        for index, pair in enumerate(parts):
            if pair is not None:
                a, b = np.ascontiguousarray(pair[0], np.float32), np.ascontiguousarray(pair[1].T, np.float32)
                kept += [a, b]
                table[slot, index * 3 : index * 3 + 3] = a.ctypes.data, b.ctypes.data, len(a)
    x, lora = np.ascontiguousarray(x, np.float32), np.ascontiguousarray(lora, np.int32)
    places = np.empty(2 * len(x) + slots + 1, np.int32)
    low_rank = _LowRank(m=len(x), columns=x.shape[1], rows=sum(part_rows), parts=len(part_rows), slots=slots)
    low_rank.part_rows[: len(part_rows)] = part_rows
    low_rank.table_stride, low_rank.is_gated = table.shape[1], int(gated)
    low_rank.x, low_rank.lora, low_rank.table = x.ctypes.data, lora.ctypes.data, table.ctypes.data
    low_rank.order = places.ctypes.data
    low_rank.delta_of = places[len(x) :].ctypes.data
    low_rank.group_begin = places[2 * len(x) :].ctypes.data
    return _run(library, low_rank, places[len(x) : 2 * len(x)], threads=threads)


def _run(library: Library, low_rank: _LowRank, delta_of: I32, *, threads: int) -> F32:
    functions, address = library.functions, ctypes.byref(low_rank)
    functions.hk_group_rows(address)
    shrunk = np.empty((low_rank.active, low_rank.parts * low_rank.max_rank), np.float32)
    delta = np.empty((low_rank.active, low_rank.rows), np.float32)
    low_rank.shrunk, low_rank.delta = shrunk.ctypes.data, delta.ctypes.data
    shrink_units: int = functions.hk_shrink_units(address)
    in_parts(lambda first, last: functions.hk_shrink(address, first, last), shrink_units, threads=threads)
    expand_units: int = functions.hk_expand_units(address)
    in_parts(lambda first, last: functions.hk_expand(address, first, last), expand_units, threads=threads)
    sums = np.zeros((low_rank.m, low_rank.rows), np.float32)
    sums[delta_of >= 0] = delta[delta_of[delta_of >= 0]]
    return sums
