"""The database behind the store: SQLite in the data directory, or PostgreSQL by URL. Opened, checked, migrated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event, make_url, text
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_sessionmaker, create_async_engine

from gateway.process.drain import Drain
from gateway.tenants.store.errors import Conflict, StoreCorrupt, StoreError, StoreUnavailable, UnknownEntry
from gateway.tenants.store.session import ShieldedSession, shielded

LATEST = "0004"
"""Newest migration; a test compares it with the directory."""
_MIGRATIONS = Path(__file__).parent / "migrations"
_NEW_STORE = Path(__file__).parent / "new_store.sql"
"""Result of the migrations on an empty SQLite file; a test compares the two."""
_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
_LOCK_TIMEOUT_S = 2.0
_CLOSE_WITHIN_S = 3.0
_MIGRATION_LOCK = 4_706_115
"""Number of a PostgreSQL advisory lock: one gateway migrates, the others wait."""


class Database:
    """Sessions of one database. `open` before use, `aclose` after."""

    def __init__(self, url: str) -> None:
        """Parse the URL. Raises `StoreError` for an unsupported database."""
        try:
            parsed = make_url(url)
            driver = _DRIVERS[parsed.drivername.split("+")[0]]
        except Exception:
            raise StoreError(
                "database: use a URL such as postgresql://user@host/hostelry, or sqlite:////path/to/hostelry.db"
            ) from None
        self._sessions = Drain()
        self.url = parsed.set(drivername=driver)
        self.file = Path(self.url.database) if self.is_sqlite and self.url.database else None
        try:
            self._engine = create_async_engine(self.url, pool_pre_ping=not self.is_sqlite)
        except ModuleNotFoundError as error:
            raise StoreError(f'PostgreSQL needs {error.name}: pip install "hostelry[postgres]"') from None
        self._new_session = async_sessionmaker(self._engine, class_=ShieldedSession, expire_on_commit=False)
        if self.is_sqlite:
            event.listen(self._engine.sync_engine, "connect", _set_up_sqlite)

    @property
    def is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    @property
    def shown(self) -> str:
        """URL or file for messages, without a password."""
        return str(self.file) if self.file else self.url.render_as_string()

    async def open(self) -> None:
        """Check the file, and bring the tables up to date. Raises `StoreCorrupt` or `StoreUnavailable`."""
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._check_header(self.file)
        with self._translated():
            await shielded(self._prepare())

    async def _prepare(self) -> None:
        async with self._engine.begin() as connection:
            if self.file is not None:
                await self._check_pages(connection)
            await connection.run_sync(_migrate)

    async def aclose(self) -> None:
        """Wait, for a short time, until the last session has ended, and close all connections."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_WITHIN_S):
                await self._sessions.wait_empty()
        await shielded(self._engine.dispose())

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[AsyncSession]:
        """Transaction, committed at the end of the block. Raises `StoreUnavailable` or `Conflict`."""
        with self._sessions.request(), self._translated():
            session = self._new_session()
            try:
                yield session
                await session.commit()
            finally:
                await session.close()

    @contextmanager
    def _translated(self) -> Any:  # Any: a context manager of nothing
        try:
            yield
        except IntegrityError as error:
            raise Conflict("an entry of that name exists already") from error
        except (OperationalError, InterfaceError, TimeoutError, OSError) as error:
            if _is_corrupt(error):
                raise StoreCorrupt(self._damage(_reason(error))) from error
            raise StoreUnavailable(f"the store cannot be used now: {_reason(error)}") from error
        except DBAPIError as error:
            if "0x00" in str(error.orig):  # PostgreSQL cannot store NUL, so no name there contains one
                raise UnknownEntry("there is nothing of that name") from error
            if _is_corrupt(error):
                raise StoreCorrupt(self._damage(_reason(error))) from error
            raise StoreUnavailable(f"the store cannot be used now: {_reason(error)}") from error

    def _check_header(self, file: Path) -> None:
        if file.exists() and file.stat().st_size and file.read_bytes()[:16] != b"SQLite format 3\x00":
            raise StoreCorrupt(self._damage("header: not an SQLite database"))

    async def _check_pages(self, connection: AsyncConnection) -> None:
        found = [row[0] for row in await connection.execute(text("PRAGMA quick_check(3)"))]
        if found != ["ok"]:
            raise StoreCorrupt(self._damage("quick_check: " + "; ".join(" ".join(found).splitlines())))

    def _damage(self, check: str) -> str:
        return (
            f"{self.shown} is damaged ({check}). Nothing was changed. Restore a backup with: "
            "hostelry db restore BACKUP; backups are in the directory `backups` next to it"
        )


def _set_up_sqlite(connection: Any, record: object) -> None:  # Any: a DBAPI connection
    """Configure SQLite: readers never wait for a writer, and a returned commit is on the disk."""
    del record
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.execute(f"PRAGMA busy_timeout={int(1000 * _LOCK_TIMEOUT_S)}")
    cursor.close()


def _migrate(connection: Connection) -> None:
    """Migrate with Alembic, which is needed only to change an older store, or for a new one on PostgreSQL."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
    elif _is_empty(connection):
        _lay_out(connection)
    if _version(connection) != LATEST:
        upgrade(connection)


def upgrade(connection: Connection) -> None:
    """Run the migrations that are missing. Raises `StoreError` for a store of a newer version."""
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise StoreError(
            f"the store was written by a newer Hostelry ({error}); install that version, or restore a backup"
        ) from error


def _is_empty(connection: Connection) -> bool:
    return connection.execute(text("SELECT count(*) FROM sqlite_master")).scalar() == 0


def _lay_out(connection: Connection) -> None:
    """Create the tables without migrations: they and Alembic take a tenth of a first start."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    if not _is_empty(connection):  # another gateway was faster
        return
    for statement in _NEW_STORE.read_text(encoding="utf-8").removesuffix(";\n").split(";\n"):
        connection.exec_driver_sql(statement)


def _version(connection: Connection) -> str | None:
    if not connection.dialect.has_table(connection, "schema_version"):
        return None
    return connection.execute(text("SELECT version_num FROM schema_version")).scalar()


def _is_corrupt(error: Exception) -> bool:
    words = str(error).lower()
    return any(word in words for word in ("malformed", "not a database", "disk image"))


def _reason(error: Exception) -> str:
    """Message of the driver, without the statement and its parameters."""
    cause = getattr(error, "orig", None) or error
    return (str(cause).strip() or type(cause).__name__).splitlines()[0][:200]
