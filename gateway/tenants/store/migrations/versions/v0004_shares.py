"""Gateways that serve from this store, and how they share limits."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "gateways",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.Column("default_share", sa.Integer(), nullable=False),
    )
    op.create_table(
        "shares",
        sa.Column("subject", sa.String(320), primary_key=True),
        sa.Column("gateway", sa.String(64), primary_key=True),
        sa.Column("share", sa.Integer(), nullable=False),
        sa.Column("wanted_at", sa.Double(), nullable=False),
    )
