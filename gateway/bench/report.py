"""Reports of measurements, as JSON and as tables."""

from __future__ import annotations

import sys

import msgspec
from rich.console import Console
from rich.table import Table

from gateway.bench.sweep import SweepRow
from gateway.process.terminal import machine_facts

_WIDE = 120
"""Columns where the terminal's width is not known."""


class BenchReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Report of one run. The ceiling is this machine's read bandwidth, measured in the same run."""

    machine: str
    rows: list[SweepRow]
    weight_bytes: int
    resident_bytes: int
    ceiling_bytes_per_s: float
    bandwidth_share: float
    """Weights read a second at one stream, as a share of the ceiling; 0 if one stream was not measured."""


def make_report(
    rows: list[SweepRow], *, weight_bytes: int, resident_bytes: int, ceiling: float, label: str
) -> BenchReport:
    alone = [row.decode_tokens_per_s for row in rows if row.streams == 1 and row.label == label]
    return BenchReport(
        machine=machine_facts(),
        rows=rows,
        weight_bytes=weight_bytes,
        resident_bytes=resident_bytes,
        ceiling_bytes_per_s=ceiling,
        bandwidth_share=alone[0] * weight_bytes / ceiling if alone else 0.0,
    )


_COLUMNS = (
    "streams",
    "server",
    "tokens/s",
    "decode tokens/s",
    "prompt tokens/s",
    "first token ms",
    "between tokens ms",
    "ratio",
)


def table_of(report: BenchReport) -> Table:
    """Table of rows by streams, then server, with the ratio to the other server where there is one."""
    table = Table(title=report.machine, caption=_caption(report))
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name == "server" else "right")
    for row in sorted(report.rows, key=lambda row: row.streams):
        table.add_row(
            str(row.streams),
            row.label,
            f"{row.tokens_per_s:.1f}",
            f"{row.decode_tokens_per_s:.1f}",
            f"{row.prompt_tokens_per_s:.0f}",
            f"{row.first_token_ms:.0f}",
            f"{row.between_tokens_ms:.1f}",
            _ratio(row, report.rows),
        )
    return table


def _ratio(row: SweepRow, rows: list[SweepRow]) -> str:
    other = [each for each in rows if each.streams == row.streams and each.label != row.label]
    if not other or row.label != rows[0].label:
        return ""
    return f"{row.tokens_per_s / other[0].tokens_per_s:.2f}"


def _caption(report: BenchReport) -> str:
    return (
        f"{report.weight_bytes / 1e6:.0f} MB of weights, {report.resident_bytes / 1e6:.0f} MB resident; "
        f"memory reads {report.ceiling_bytes_per_s / 1e9:.1f} GB/s, of which one stream uses "
        f"{100 * report.bandwidth_share:.0f} %"
    )


def show(encoded: bytes, table: Table, *, as_json: bool) -> None:
    """Print JSON for programs, or a table for people."""
    if as_json:
        sys.stdout.buffer.write(encoded + b"\n")
    else:
        Console(width=None if sys.stdout.isatty() else _WIDE).print(table)
