"""Commands `hostelry runner list` and `hostelry runner check`."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from backends.api import Runner
from backends.errors import BackendError
from backends.registry import AUTO, create_runner, missing_packages, runner_names
from backends.testing.kit import CASES, Outcome, Result, run_checks


class KnownRunner(msgspec.Struct, frozen=True, kw_only=True):
    """A line of `runner list`; `fix` installs what is missing."""

    name: str
    available: bool
    fix: str = ""


class KitReport(msgspec.Struct, frozen=True, kw_only=True):
    """Output of `runner check --json`."""

    runner: str
    passed: int
    failed: int
    skipped: int
    seconds: float
    results: tuple[Result, ...]


@click.group("runner")
def command() -> None:
    """Check a runner against the contract; list installed runners."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def list_runners(as_json: bool) -> None:
    """Name every runner, and what is missing for those that cannot run here."""
    known = [_known(name) for name in runner_names()]
    if as_json:
        click.echo(msgspec.json.encode(known))
        return
    table = Table("runner", "state", box=None, pad_edge=False)
    for runner in known:
        table.add_row(runner.name, "available" if runner.available else f"absent: {escape(runner.fix)}")
    Console(highlight=False).print(table)


@command.command("check")
@click.argument("name")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="Threads of the runner; 0: the runner chooses.")
@click.option("--device", default=AUTO, show_default=True, help="A device that the runner documents.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@click.pass_context
def check(context: click.Context, name: str, threads: int, device: str, as_json: bool) -> None:
    """Check the runner NAME against the contract of `backends.api`, on tiny models that are made on the spot.

    Exit status: 0 it fulfils the contract, 1 it breaks it, 2 there is no such runner here.
    """

    def create(*, exact: bool) -> Runner:
        return create_runner(name, threads=threads, exact=exact, device=device)

    try:
        create(exact=False).close()
    except BackendError as error:
        raise click.UsageError(str(error)) from None
    with tempfile.TemporaryDirectory(prefix="hostelry-runner-check-") as directory:
        results = tuple(_watched(run_checks(create, Path(directory)), name))
    report = _report(name, results)
    if as_json:
        click.echo(msgspec.json.encode(report))
    else:
        _print(report)
    context.exit(1 if report.failed else 0)


def _known(name: str) -> KnownRunner:
    packages, extra = missing_packages(name)
    return KnownRunner(name=name, available=not packages, fix=f'pip install "hostelry[{extra}]"' if packages else "")


def _watched(results: Iterator[Result], name: str) -> Iterator[Result]:
    """Show progress on a terminal; pipes get only the report."""
    with Console(stderr=True, highlight=False).status(f"checking {name}") as status:
        for number, result in enumerate(results, start=1):
            status.update(f"checking {name}: {number} of {len(CASES)}, {result.name} {result.outcome}")
            yield result


def _report(name: str, results: tuple[Result, ...]) -> KitReport:
    counts = Counter(result.outcome for result in results)
    return KitReport(
        runner=name,
        passed=counts["passed"],
        failed=counts["failed"],
        skipped=counts["skipped"],
        seconds=round(sum(result.seconds for result in results), 3),
        results=results,
    )


def _print(report: KitReport) -> None:
    """Print what passed, what was skipped by reason, and last, where it is seen, what failed."""
    table = Table("result", "check", "claim, reason or finding", box=None, pad_edge=False)
    for result in _having(report, "passed"):
        table.add_row("[green]passed[/]", result.name, escape(result.claim))
    for reason, names in _by_reason(_having(report, "skipped")).items():
        table.add_row("[yellow]skipped[/]", f"{len(names)} checks", escape(f"{reason}: {', '.join(names)}"))
    for result in _having(report, "failed"):
        table.add_row("[red]failed[/]", result.name, escape(result.reason))
    console = Console(highlight=False)
    console.print(table)
    verdict = "violates the contract" if report.failed else "fulfils the contract"
    counts = f"{report.passed} passed, {report.failed} failed, {report.skipped} skipped"
    console.print(f"\n{escape(report.runner)} {verdict}: {counts}, in {report.seconds:.0f} s", soft_wrap=True)


def _having(report: KitReport, outcome: Outcome) -> list[Result]:
    return [result for result in report.results if result.outcome == outcome]


def _by_reason(skipped: list[Result]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for result in skipped:
        names.setdefault(result.reason, []).append(result.name)
    return names
