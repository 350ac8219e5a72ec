"""`hostelry config check`."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.config import ConfigError, load_config


@click.group("config")
def command() -> None:
    """Check a configuration file."""


@command.command("check")
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> None:
    """Say whether FILE would be accepted; exit status 2 and every unknown key if not."""
    try:
        config = load_config(file)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    click.echo(f"{file}: ok, {len(config.models)} models, {len(config.tenants)} tenants")
