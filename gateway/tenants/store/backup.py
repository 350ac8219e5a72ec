"""Backups of the SQLite store, made while it is in use, restored while it is not. PostgreSQL has its own tools."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from gateway.tenants.store.errors import StoreCorrupt, StoreError

KEPT = 7
EVERY_S = 86400.0
_SUFFIX = ".db"


def back_up(file: Path, *, now: float | None = None) -> Path:
    """Copy the store into the directory `backups` next to it, which keeps the newest seven. Raises `StoreError`."""
    folder = file.parent / "backups"
    folder.mkdir(mode=0o700, exist_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
    target = folder / f"{file.stem}-{stamp}{_SUFFIX}"
    part = target.with_suffix(".part")
    try:
        with closing(_read_only(file)) as source, closing(sqlite3.connect(part)) as copy:
            source.backup(copy)
        part.replace(target)
    except (sqlite3.Error, OSError) as error:
        part.unlink(missing_ok=True)
        raise StoreError(f"{file} could not be backed up: {error}") from error
    for old in backups_of(file)[:-KEPT]:
        old.unlink()
    return target


def back_up_daily(file: Path) -> Path | None:
    """Make a backup, unless the newest one is less than a day old."""
    newest = backups_of(file)[-1:]
    if newest and time.time() - newest[0].stat().st_mtime < EVERY_S:
        return None
    return back_up(file)


def backups_of(file: Path) -> list[Path]:
    """Backups, oldest first."""
    return sorted((file.parent / "backups").glob(f"{file.stem}-*{_SUFFIX}"))


def restore(backup: Path, file: Path) -> Path | None:
    """Replace the store by a backup; the replaced file is kept under the returned name.

    Raises `StoreCorrupt` for a backup that is not sound, `StoreError` while a server uses the store.
    """
    _check(backup)
    _require_unused(file)
    kept = file.with_name(f"{file.name}.replaced-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}")
    if file.exists():
        file.replace(kept)
    for beside in (f"{file.name}-wal", f"{file.name}-shm"):
        file.with_name(beside).unlink(missing_ok=True)
    with closing(sqlite3.connect(backup)) as source, closing(sqlite3.connect(file)) as target:
        source.backup(target)
    return kept if kept.exists() else None


def _read_only(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)


def _check(backup: Path) -> None:
    if not backup.is_file():
        raise StoreError(f"{backup} does not exist; backups are in the directory `backups` of the data directory")
    try:
        with closing(_read_only(backup)) as connection:
            found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            connection.execute("SELECT version FROM state").fetchone()
    except sqlite3.Error as error:
        raise StoreCorrupt(f"{backup} is not a usable backup: {error}; try an older one") from error
    if found != "ok":
        raise StoreCorrupt(f"{backup} is not a usable backup: {found.splitlines()[0]}; try an older one")


def _require_unused(file: Path) -> None:
    """Check that no server uses the store. A damaged one cannot be locked, but then no server runs on it either."""
    if not file.exists():
        return
    try:
        with closing(sqlite3.connect(file, timeout=0.2, isolation_level=None)) as connection:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise StoreError(f"{file} is in use; stop the server first") from error
    except sqlite3.DatabaseError:
        return
