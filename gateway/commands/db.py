"""Command `hostelry db`: the store on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.process.data_dir import STORE_FILE, default_data_dir
from gateway.tenants.store.errors import StoreError


@click.group("db")
def command() -> None:
    """Back up and restore the SQLite store; for PostgreSQL use pg_dump and pg_restore.

    \b
    hostelry db backup
    hostelry db restore ~/.local/share/hostelry/backups/hostelry-20260101-120000.db
    """


_data_dir = click.option("--data-dir", type=click.Path(path_type=Path), help="Data directory that holds the store.")


@command.command("backup")
@_data_dir
def backup(data_dir: Path | None) -> None:
    """Copy the store into the folder `backups`; the server may run. One is made each day anyway."""
    from gateway.tenants.store.backup import back_up

    file = _store(data_dir)
    if not file.exists():
        raise click.ClickException(f"no store found at {file}")
    try:
        click.echo(back_up(file))
    except StoreError as error:
        raise click.ClickException(str(error)) from None


@command.command("restore")
@click.argument("backup_file", metavar="BACKUP", type=click.Path(path_type=Path))
@_data_dir
def restore_backup(backup_file: Path, data_dir: Path | None) -> None:
    """Replace the store by a backup; the old store is kept under another name. The server must not run."""
    from gateway.tenants.store.backup import restore

    try:
        kept = restore(backup_file, _store(data_dir))
    except StoreError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"restored; what was there is kept as {kept}" if kept else "restored")


def _store(data_dir: Path | None) -> Path:
    return (data_dir or default_data_dir()) / STORE_FILE
