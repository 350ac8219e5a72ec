"""Command `hostelry config check`."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.commands.serve import model_name
from gateway.config import load_config
from gateway.errors import ConfigError
from gateway.models.declared_adapters import check_adapters


@click.group("config")
def command() -> None:
    """Check a configuration file."""


@command.command("check")
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> None:
    """Check if FILE would be accepted; exit status 2 and every unknown key if not."""
    try:
        config = load_config(file)
        # Without models in the file, flags will name them.
        names = [model.name or model_name(model.path) for model in config.models]
        check_adapters(config.adapters, bases=names or None)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    adapters = f" {len(config.adapters)} adapters," if config.adapters else ""
    click.echo(f"{file}: ok, {len(config.models)} models,{adapters} {len(config.tenants)} tenants")
