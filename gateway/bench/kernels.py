"""Measures the throughput of the CPU kernels, and the machine's arithmetic and memory ceilings to compare it with."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import numpy.typing as npt
from rich.table import Table

from backends.kernels.library import KernelsUnavailable, load_library
from backends.kernels.rates import KernelRate, measure, peak_gops
from gateway.bench.load import BenchFailed
from gateway.bench.report import show
from gateway.process.terminal import console, machine_facts

_BYTES = 256 * 1024 * 1024
"""Bytes per thread: far beyond any cache."""


def read_bytes_per_s(*, threads: int, rounds: int = 5) -> float:
    """Best of `rounds` of `threads` threads that read 256 MiB each."""
    arrays = [np.ones(_BYTES // 8, np.int64) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        return max(threads * _BYTES / _timed(pool, arrays) for _ in range(rounds))


def _timed(pool: ThreadPoolExecutor, arrays: list[npt.NDArray[np.int64]]) -> float:
    start = time.perf_counter()
    list(pool.map(np.max, arrays))
    return time.perf_counter() - start


FORMATS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K")
"""Q8_1 has the tiles of Q8_0."""
ROWS = (1, 2, 4, 8, 16, 128)
OUTPUTS, COLUMNS = 11_264, 1_024


class KernelReport(msgspec.Struct, frozen=True, kw_only=True):
    """Rates of every format and number of rows, and both ceilings, measured in the same run."""

    machine: str
    level: str
    threads: int
    read_gb_s: float
    peak_gops: float
    rates: tuple[KernelRate, ...]


def measure_kernels(formats: tuple[str, ...], *, threads: int, as_json: bool) -> None:
    """Measure and print. Raises `BenchFailed` where there are no kernels."""
    unknown = set(formats) - set(FORMATS)
    if unknown:
        raise BenchFailed(f"no kernels for {', '.join(sorted(unknown))}; there are {', '.join(FORMATS)}")
    try:
        library = load_library()
    except KernelsUnavailable as error:
        raise BenchFailed(f"no CPU kernels: {error}") from None
    threads = threads or os.cpu_count() or 1
    rates: list[KernelRate] = []
    for name in formats or FORMATS:
        console.print(f"measuring {name}", style="dim")
        rates += measure(library, (name,), ROWS, outputs=OUTPUTS, columns=COLUMNS, threads=threads)
    found = KernelReport(
        machine=machine_facts(),
        level=library.level,
        threads=threads,
        read_gb_s=read_bytes_per_s(threads=threads) / 1e9,
        peak_gops=peak_gops(library, threads=threads),
        rates=tuple(rates),
    )
    show(msgspec.json.encode(found), table_of(found), as_json=as_json)


def table_of(found: KernelReport) -> Table:
    """Table, a line per format and a column per number of rows: 10⁹ operations and 10⁹ bytes of weights a second."""
    title = (
        f"{found.machine}, level {found.level}, {found.threads} threads: GOPS | GB/s of weights; "
        f"ceilings {found.peak_gops:.0f} GOPS, {found.read_gb_s:.1f} GB/s"
    )
    table = Table("format", *(f"{rows} rows" if rows > 1 else "1 row" for rows in ROWS), title=title)
    for name in dict.fromkeys(rate.format for rate in found.rates):
        of_one = [rate for rate in found.rates if rate.format == name]
        table.add_row(name, *(f"{rate.gops:.0f} | {rate.read_gb_s:.1f}" for rate in of_one))
    return table
