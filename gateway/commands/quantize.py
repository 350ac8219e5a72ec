"""`hostelry quantize`: a model folder or GGUF file to a smaller GGUF file, with progress."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType

import click
import msgspec
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from backends.errors import BackendError
from backends.quantize import RECIPES, DestinationRefused, QuantizeReport, UnknownFormat, quantize_file
from gateway.process.terminal import console


class WorkProgress:
    """Use as a context manager and call `update`."""

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._tenth = -1
        self._bar = Progress(
            TextColumn(f"{verb} {{task.percentage:>3.0f}}%"),
            BarColumn(bar_width=30),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(verb, total=1.0, detail="")

    def __enter__(self) -> WorkProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, fraction: float, detail: str) -> None:
        """`fraction` from 0 to 1; `detail` is what is under way."""
        if console.is_terminal:
            self._bar.update(self._task, completed=fraction, detail=detail)
            return
        tenth = int(fraction * 10)
        if tenth > self._tenth:
            self._tenth = tenth
            console.print(f"{self._verb} {tenth * 10}% {detail}", markup=False)


_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("quantize")
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path, exists=True))
@click.argument("destination", metavar="DST", type=click.Path(path_type=Path))
@click.option("--format", "-f", "format_name", metavar="FORMAT", required=True, help=", ".join(RECIPES))
@click.option("--importance", type=_FILE, default=None, help="Importance matrix of llama-imatrix, GGUF or legacy.")
@click.option("--pure", is_flag=True, help="Use one format for every matrix, including head and embedding.")
@click.option("--force", is_flag=True, help="Overwrite DST.")
@click.option("--keep-going", is_flag=True, help="Report what GGUF files cannot express instead of failing.")
@click.option("--threads", type=click.IntRange(0, 1024), default=0, help="Threads; 0: one per core.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, tensor by tensor.")
def command(
    source: Path,
    destination: Path,
    format_name: str,
    importance: Path | None,
    pure: bool,
    force: bool,
    keep_going: bool,
    threads: int,
    as_json: bool,
) -> None:
    """Write the model SRC (Hugging Face folder or GGUF file) as the GGUF file DST.

    Q4_K_M and its like are llama.cpp's mixtures; Q3_K, Q4_K, Q5_K, Q8_1 and Q8_K store every matrix in that format.
    DST appears whole or not at all. Exit status: 0 done, 1 failed, 2 wrong usage.

    \b
    hostelry quantize ./Qwen3-0.6B qwen3-q4_k_m.gguf --format Q4_K_M
    hostelry quantize model-f16.gguf model-q2_k.gguf -f Q2_K --importance imatrix.gguf
    """
    signal.signal(signal.SIGTERM, _interrupt)  # so that the unfinished file is removed
    try:
        with WorkProgress("quantizing") as bar:
            report = quantize_file(
                source,
                destination,
                format=format_name,
                progress=bar.update,
                importance=importance,
                pure=pure,
                overwrite=force,
                keep_going=keep_going,
                threads=threads,
            )
    except (DestinationRefused, UnknownFormat) as error:
        raise click.UsageError(str(error)) from None
    except BackendError as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        click.echo(msgspec.json.encode(_as_builtins(report)))
    else:
        _print(report)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def _as_builtins(report: QuantizeReport) -> object:
    values = msgspec.to_builtins(report, enc_hook=str)
    totals = {"weights": report.num_weights, "num_bytes": report.num_bytes, "was_bytes": report.was_bytes}
    return values | totals | {"bits_per_weight": round(report.bits_per_weight, 3)}


def _print(report: QuantizeReport) -> None:
    formats = ", ".join(f"{count} × {name}" for name, count in report.formats.items())
    click.echo(f"{report.destination}: {report.format}{' (pure)' if report.pure else ''}")
    click.echo(f"{len(report.tensors)} tensors: {formats}")
    sizes = f"{report.was_bytes / 1e6:.1f} → {report.num_bytes / 1e6:.1f} MB"
    click.echo(f"{report.num_weights / 1e6:.1f} M weights, {sizes}, {report.bits_per_weight:.2f} bits a weight")
    for note in report.notes:
        click.echo(f"note: {note}")
