"""Measures the rate of products, by format and number of rows, for `hostelry bench --kernels`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import msgspec
import numpy as np

from backends.kernels.library import F32, U8, Library, aligned, in_parts
from backends.kernels.linear import Linear
from backends.weights.formats import FORMATS

_REPEATS = 5
_PEAK_ROUNDS = 1 << 21
_ELEMENTS = 1 << 27
"""Weights that one measurement reads: more than fit in any cache."""


class KernelRate(msgspec.Struct, frozen=True, kw_only=True):
    """`gops`: 10⁹ integer multiplications and additions a second. `read_gb_s`: 10⁹ bytes of weights a second."""

    format: str
    rows: int
    gops: float
    read_gb_s: float


def measure(
    library: Library, formats: tuple[str, ...], counts: tuple[int, ...], *, outputs: int, columns: int, threads: int
) -> Iterator[KernelRate]:
    """Rates of matrices `[outputs, columns]`, as many of them as do not fit into a cache."""
    for name in formats:
        linears = _linears(library, name, outputs, columns)
        for count in counts:
            yield _rate(name, linears, count, threads=threads)


def peak_gops(library: Library, *, threads: int) -> float:
    """10⁹ multiplications and additions a second of dot products that never leave the registers."""
    made: list[int] = []

    def work(first: int, last: int) -> None:
        made.append(library.functions.hk_peak((last - first) * _PEAK_ROUNDS))

    seconds = statistics.median(_timed(lambda: in_parts(work, threads, threads=threads)) for _ in range(_REPEATS))
    return sum(made) / _REPEATS / seconds / 1e9


def _linears(library: Library, name: str, outputs: int, columns: int) -> list[Linear]:
    form = FORMATS[name]
    blocks = np.random.default_rng(0).integers(0, 60, (outputs, form.bytes_per_row(columns)), dtype=np.uint8)
    packed = library.pack(form.ggml_type, outputs, columns, blocks)
    assert packed is not None  # the caller's sizes are whole blocks
    copies = max(1, _ELEMENTS // (outputs * columns))
    return [
        Linear(library=library, ggml_type=form.ggml_type, rows=outputs, columns=columns, packed=_copy(packed))
        for _ in range(copies)
    ]


def _copy(packed: U8) -> U8:
    copy = aligned(len(packed))
    copy[:] = packed
    return copy


def _rate(name: str, linears: list[Linear], count: int, *, threads: int) -> KernelRate:
    x = np.random.default_rng(1).standard_normal((count, linears[0].columns)).astype(np.float32)
    seconds = statistics.median(_timed(lambda: _all(linears, x, threads)) for _ in range(_REPEATS))
    operations = 2 * count * sum(linear.rows * linear.columns for linear in linears)
    read = sum(linear.packed.nbytes for linear in linears)
    return KernelRate(format=name, rows=count, gops=operations / seconds / 1e9, read_gb_s=read / seconds / 1e9)


def _all(linears: list[Linear], x: F32, threads: int) -> None:
    for linear in linears:
        linear.multiply(x, threads=threads)


def _timed(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
