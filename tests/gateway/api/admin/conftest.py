"""An application with a store, and the operator's client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from gateway.tenants.service import open_tenancy
from tests.gateway.api.conftest import TENANTS, ServedApp, build, client_of

ADMIN_KEY = "sk-admin-0123456789-0123456789"


@pytest.fixture
async def staffed(tmp_path: Path) -> AsyncIterator[ServedApp]:
    """Application with the tenants of the file, and a tenant admin to change them."""
    async with open_tenancy(TENANTS, url=None, data_dir=tmp_path, admin_key=ADMIN_KEY) as tenancy:
        yield build(directory=tenancy.directory, tenant_admin=tenancy.tenant_admin)


@pytest.fixture
async def operator(staffed: ServedApp) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(staffed, key=ADMIN_KEY) as client:
        yield client
