"""Budgets: what requests cost, and what each subject spent in a day and a month."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    for table in ("usage", "usage_hours"):
        op.add_column(table, sa.Column("cost_nanos", sa.BigInteger(), nullable=False, server_default="0"))
    op.create_table(
        "spending",
        sa.Column("subject", sa.String(320), primary_key=True),
        sa.Column("period", sa.String(8), primary_key=True),
        sa.Column("begins", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost_nanos", sa.BigInteger(), nullable=False),
    )
    now = datetime.now(UTC)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    for period, begins in (("day", today), ("month", today.replace(day=1))):
        for subject in ("'tenant ' || tenant_id", "'key ' || key_id", "'tenant ' || tenant_id || ' ' || model"):
            op.execute(_sum_up(subject, period, int(begins.timestamp())))


def _sum_up(subject: str, period: str, begins: int) -> str:
    """Sum of tokens only: what was used before there were prices has no cost."""
    return (
        f"INSERT INTO spending SELECT {subject}, '{period}', {begins}, "  # noqa: S608 - all of it is written above
        f"CAST(SUM(prompt_tokens + completion_tokens) AS BIGINT), 0 "
        f"FROM usage_hours WHERE hour >= {begins} GROUP BY {subject}"
    )
