"""`hostelry doctor`."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from gateway.datadir import default_data_dir
from gateway.doctor import Finding, examine, exit_code

_COLOURS = {"OK": "green", "WARN": "yellow", "FAIL": "red"}


@click.command("doctor")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option("--data-dir", type=click.Path(path_type=Path), default=None)
@click.option("--config", type=click.Path(path_type=Path), default=None, help="Also check this configuration file.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_context
def command(
    context: click.Context, host: str, port: int, data_dir: Path | None, config: Path | None, as_json: bool
) -> None:
    """Check this machine and say how to fix what is wrong.

    Exit status: 0 all well, 1 warnings, 2 something must be fixed before `hostelry serve` can work.
    """
    findings: list[Finding] = []
    for finding in examine(data_dir=data_dir or default_data_dir(), host=host, port=port, config=config):
        findings.append(finding)
        if not as_json:
            _print(finding)
    if as_json:
        click.echo(msgspec.json.encode(findings))
    context.exit(exit_code(findings))


def _print(finding: Finding) -> None:
    level = click.style(f"{finding.level:<5}", fg=_COLOURS[finding.level])
    fix = f"  → {finding.fix}" if finding.fix else ""
    click.echo(f"{level} {finding.check:<15} {finding.detail}{fix}")
