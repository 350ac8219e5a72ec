"""Entry point of Alembic: runs on the connection that the store passes."""

from __future__ import annotations

from alembic import context

from gateway.tenants.store.tables import StateRow

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=StateRow.metadata,
    version_table="schema_version",
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
