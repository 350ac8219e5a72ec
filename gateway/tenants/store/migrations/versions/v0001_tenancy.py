"""Organisations, tenants, keys and the audit log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ID, _NAME = sa.String(64), sa.String(128)


def upgrade() -> None:
    op.create_table(
        "state",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("version", sa.BigInteger(), nullable=False),
    )
    op.execute("INSERT INTO state (id, version) VALUES (1, 0)")
    op.create_table(
        "organisations",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("name", _NAME, nullable=False, unique=True),
        sa.Column("created_at", sa.Double(), nullable=False),
    )
    op.create_table(
        "tenants",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("name", _NAME, nullable=False),
        sa.Column("organisation_id", _ID, sa.ForeignKey("organisations.id")),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("is_disabled", sa.Boolean(), nullable=False),
        sa.Column("origin", sa.String(16), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("deleted_at", sa.Double()),
        sa.Column("version", sa.BigInteger(), nullable=False, index=True),
    )
    live = sa.text("deleted_at IS NULL")
    op.create_index("ix_tenants_live_name", "tenants", ["name"], unique=True, sqlite_where=live, postgresql_where=live)
    op.create_table(
        "api_keys",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("tenant_id", _ID, sa.ForeignKey("tenants.id"), nullable=False, index=True),
        sa.Column("name", _NAME, nullable=False),
        sa.Column("digest", _ID, nullable=False, unique=True),
        sa.Column("hint", sa.String(32), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("limits", sa.Text(), nullable=False),
        sa.Column("origin", sa.String(16), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double()),
        sa.Column("revoked_at", sa.Double()),
        sa.Column("last_used_at", sa.Double()),
        sa.Column("version", sa.BigInteger(), nullable=False, index=True),
    )
    op.create_table(
        "audit",
        sa.Column("number", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("actor", _ID, nullable=False),
        sa.Column("action", _ID, nullable=False),
        sa.Column("target", _NAME, nullable=False),
        sa.Column("request_id", _NAME, nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("digest", _ID, nullable=False),
    )
