"""Tables of the store. Times are Unix seconds, structs are stored as JSON texts.

`version` of a tenant or key is that of the change that last touched it, so that gateways read only what is new.
"""

from __future__ import annotations

from types import MappingProxyType

from sqlalchemy import (
    BigInteger,
    Boolean,
    Connection,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    event,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Id = String(64)
NameColumn = String(128)
NAMES = MappingProxyType(
    {
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)
"""Names of indexes and constraints; migrations use them too, so stores that exist depend on them."""


IS_LIVE = text("deleted_at IS NULL")


class StoreRow(DeclarativeBase):
    """Base of all tables, which share one `metadata`."""

    metadata = MetaData(naming_convention=NAMES)


class StateRow(StoreRow):
    """Single row with the version of the last change."""

    __tablename__ = "state"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    version: Mapped[int] = mapped_column(BigInteger)


class OrganisationRow(StoreRow):
    __tablename__ = "organisations"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(NameColumn, unique=True)
    created_at: Mapped[float] = mapped_column(Double)


class TenantRow(StoreRow):
    """Tenant. Deleted ones remain, for their usage; their names are free again."""

    __tablename__ = "tenants"
    __table_args__ = (Index("ix_tenants_live_name", "name", unique=True, sqlite_where=IS_LIVE),)
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(NameColumn)
    organisation_id: Mapped[str | None] = mapped_column(Id, ForeignKey("organisations.id"))
    policy: Mapped[str] = mapped_column(Text)
    is_disabled: Mapped[bool] = mapped_column(Boolean)
    origin: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[float] = mapped_column(Double)
    deleted_at: Mapped[float | None] = mapped_column(Double)
    version: Mapped[int] = mapped_column(BigInteger, index=True)


@event.listens_for(TenantRow.__table__, "before_create")
def _name_the_living(table: Table, connection: Connection, **_: object) -> None:
    """Add the condition here: `postgresql_where` would import that dialect at every start, 40 ms wasted on SQLite."""
    if connection.dialect.name == "postgresql":
        (index,) = (index for index in table.indexes if index.name == "ix_tenants_live_name")
        index.dialect_options["postgresql"]["where"] = IS_LIVE


class KeyRow(StoreRow):
    """Key. `digest` is the SHA-256 of the key in hex; the key itself is not stored."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(Id, ForeignKey("tenants.id"), index=True)
    name: Mapped[str] = mapped_column(NameColumn)
    digest: Mapped[str] = mapped_column(Id, unique=True)
    hint: Mapped[str] = mapped_column(String(32))
    scopes: Mapped[str] = mapped_column(Text)
    limits: Mapped[str] = mapped_column(Text)
    origin: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[float] = mapped_column(Double)
    expires_at: Mapped[float | None] = mapped_column(Double)
    revoked_at: Mapped[float | None] = mapped_column(Double)
    last_used_at: Mapped[float | None] = mapped_column(Double)
    version: Mapped[int] = mapped_column(BigInteger, index=True)


class AuditRow(StoreRow):
    """Entry of the audit log. Append only; `digest` covers the row and the digest before it."""

    __tablename__ = "audit"
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[float] = mapped_column(Double)
    actor: Mapped[str] = mapped_column(Id)
    action: Mapped[str] = mapped_column(Id)
    target: Mapped[str] = mapped_column(NameColumn)
    request_id: Mapped[str] = mapped_column(NameColumn)
    detail: Mapped[str] = mapped_column(Text)
    digest: Mapped[str] = mapped_column(Id)


class UsageRow(StoreRow):
    """One accepted request, exactly once; `id` is the response's."""

    __tablename__ = "usage"
    __table_args__ = (
        Index("ix_usage_ended", "ended_at", "id"),
        Index("ix_usage_tenant_ended", "tenant_id", "ended_at"),
    )
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    request_id: Mapped[str] = mapped_column(NameColumn)
    tenant_id: Mapped[str] = mapped_column(Id)
    key_id: Mapped[str] = mapped_column(Id)
    model: Mapped[str] = mapped_column(NameColumn)
    state: Mapped[str] = mapped_column(String(32))
    started_at: Mapped[float] = mapped_column(Double)
    ended_at: Mapped[float] = mapped_column(Double)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    cached_tokens: Mapped[int] = mapped_column(BigInteger)
    completion_tokens: Mapped[int] = mapped_column(BigInteger)
    accepted_prediction_tokens: Mapped[int] = mapped_column(BigInteger)
    cost_nanos: Mapped[int] = mapped_column(BigInteger)


class UsageHourRow(StoreRow):
    """Sums of `usage` by the hour in which requests ended, identified by its start."""

    __tablename__ = "usage_hours"
    hour: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    tenant_id: Mapped[str] = mapped_column(Id, primary_key=True)
    key_id: Mapped[str] = mapped_column(Id, primary_key=True)
    model: Mapped[str] = mapped_column(NameColumn, primary_key=True)
    requests: Mapped[int] = mapped_column(BigInteger)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    cached_tokens: Mapped[int] = mapped_column(BigInteger)
    completion_tokens: Mapped[int] = mapped_column(BigInteger)
    accepted_prediction_tokens: Mapped[int] = mapped_column(BigInteger)
    cost_nanos: Mapped[int] = mapped_column(BigInteger)


class SpendingRow(StoreRow):
    """Spending of a subject in one UTC day or month, for budgets; old rows are deleted."""

    __tablename__ = "spending"
    subject: Mapped[str] = mapped_column(String(320), primary_key=True)
    period: Mapped[str] = mapped_column(String(8), primary_key=True)
    begins: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    tokens: Mapped[int] = mapped_column(BigInteger)
    cost_nanos: Mapped[int] = mapped_column(BigInteger)


class GatewayRow(StoreRow):
    """Live gateway, and its share of every limit that has no row in `shares`."""

    __tablename__ = "gateways"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    seen_at: Mapped[float] = mapped_column(Double)
    default_share: Mapped[int] = mapped_column(Integer)


class ShareRow(StoreRow):
    """Share of one subject's limits that one gateway has, and when it last wanted more."""

    __tablename__ = "shares"
    subject: Mapped[str] = mapped_column(String(320), primary_key=True)
    gateway: Mapped[str] = mapped_column(Id, primary_key=True)
    share: Mapped[int] = mapped_column(Integer)
    wanted_at: Mapped[float] = mapped_column(Double)
