"""The same store over SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from gateway.tenants.store.database import Database
from gateway.tenants.store.transaction import Actor
from tests.gateway.tenants.store.postgres import find_programs, running_postgres

ACTOR = Actor("tester", "req_test")


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    programs = find_programs()
    if programs is None:
        pytest.skip("not verified on PostgreSQL: it is not installed")
    with running_postgres(programs) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a database without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store/hostelry.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    """An open store without tenants."""
    opened = Database(url)
    if not opened.is_sqlite:
        async with opened.session() as session:
            await session.execute(text("DROP SCHEMA public CASCADE"))
            await session.execute(text("CREATE SCHEMA public"))
    await opened.open()
    yield opened
    await opened.aclose()
