"""Gateways and their shares in the store. Ages are by the store's own clock, which all gateways have in common."""

from __future__ import annotations

import time

import msgspec
from sqlalchemy import delete, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.tenants.peers.share_rules import Peer, QuotaShare, QuotaShares
from gateway.tenants.store.statements import insert_into
from gateway.tenants.store.tables import GatewayRow, ShareRow

LIFETIME_S = 3.0
"""Seconds without an update after which a gateway counts as gone."""
_LOCK = 4_706_116
"""Number of a PostgreSQL advisory lock: one gateway changes shares at a time."""


class SharesOfPeers(msgspec.Struct, frozen=True):
    """All live gateways, and all shares that differ from their defaults."""

    peers: tuple[Peer, ...]
    parts: tuple[QuotaShare, ...]


async def lock_shares(session: AsyncSession) -> None:
    """Lock the shares until the transaction ends."""
    if session.get_bind().dialect.name == "postgresql":
        await session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    else:  # the first write locks all of SQLite
        await session.execute(update(GatewayRow).where(GatewayRow.id == "").values(seen_at=0))


async def read_board(session: AsyncSession) -> SharesOfPeers:
    now = await _now(session)
    gateways = await session.scalars(select(GatewayRow).where(GatewayRow.seen_at >= now - LIFETIME_S))
    peers = tuple(Peer(row.id, row.default_share) for row in gateways)
    parts = tuple(
        QuotaShare(
            subject=row.subject, gateway=row.gateway, share=row.share, wanted_ago_s=max(0.0, now - row.wanted_at)
        )
        for row in await session.scalars(select(ShareRow))
    )
    return SharesOfPeers(peers, parts)


async def write_standing(session: AsyncSession, own: str, standing: QuotaShares) -> None:
    """Replace the shares of this gateway, and delete gateways that are gone."""
    now = await _now(session)
    await session.execute(delete(GatewayRow).where(GatewayRow.seen_at < now - LIFETIME_S, GatewayRow.id != own))
    living = select(GatewayRow.id)
    await session.execute(delete(ShareRow).where((ShareRow.gateway == own) | ShareRow.gateway.not_in(living)))
    row = {"id": own, "seen_at": now, "default_share": standing.default}
    statement = insert_into(session, GatewayRow).values(row)
    await session.execute(statement.on_conflict_do_update(index_elements=["id"], set_=row))
    rows = [
        {"subject": part.subject, "gateway": own, "share": part.share, "wanted_at": now - part.wanted_ago_s}
        for part in standing.parts.values()
    ]
    if rows:
        await session.execute(insert_into(session, ShareRow).values(rows))


async def forget_gateway(session: AsyncSession, own: str) -> None:
    await session.execute(delete(ShareRow).where(ShareRow.gateway == own))
    await session.execute(delete(GatewayRow).where(GatewayRow.id == own))


async def _now(session: AsyncSession) -> float:
    """Current time. SQLite's gateways are on one machine and share its clock."""
    if session.get_bind().dialect.name != "postgresql":
        return time.time()
    return float((await session.execute(text("SELECT extract(epoch FROM clock_timestamp())"))).scalar_one())
