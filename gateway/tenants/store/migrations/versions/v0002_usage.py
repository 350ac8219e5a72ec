"""Usage: a row for each request, and sums by hour."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_ID, _NAME = sa.String(64), sa.String(128)


def upgrade() -> None:
    op.create_table(
        "usage",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("request_id", _NAME, nullable=False),
        sa.Column("tenant_id", _ID, nullable=False),
        sa.Column("key_id", _ID, nullable=False),
        sa.Column("model", _NAME, nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=False),
        *_sums(),
    )
    op.create_index("ix_usage_ended", "usage", ["ended_at", "id"])
    op.create_index("ix_usage_tenant_ended", "usage", ["tenant_id", "ended_at"])
    op.create_table(
        "usage_hours",
        sa.Column("hour", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("tenant_id", _ID, primary_key=True),
        sa.Column("key_id", _ID, primary_key=True),
        sa.Column("model", _NAME, primary_key=True),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        *_sums(),
    )


def _sums() -> list[sa.Column[int]]:
    names = ("prompt_tokens", "cached_tokens", "completion_tokens", "accepted_prediction_tokens")
    return [sa.Column(name, sa.BigInteger(), nullable=False) for name in names]
