"""Announces this gateway to others on the same store, and updates its shares of all limits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time

from gateway.tenants.limits.limits import Limiter
from gateway.tenants.peers.share_rules import QuotaShares, next_shares
from gateway.tenants.peers.shares import Granted
from gateway.tenants.store.database import Database
from gateway.tenants.store.errors import StoreError
from gateway.tenants.store.shares import SharesOfPeers, forget_gateway, lock_shares, read_board, write_standing

_log = logging.getLogger(__name__)

SYNC_S = 0.4
_HEARTBEAT_S = 1.0


class PeerSync:
    """Synchronises shares. They remain as they are while the store is unreachable."""

    def __init__(self, database: Database, limiter: Limiter) -> None:
        self.id = f"gw_{secrets.token_hex(8)}"
        self._database = database
        self._limiter = limiter
        self._told: Granted | None = None
        self._told_at = 0.0
        self._is_lost = False

    async def sync(self) -> None:
        """Read the shares of the others, and write the own if they changed. Raises `StoreError`."""
        wanted = self._limiter.shares.take_wanted()
        async with self._database.session() as session:
            standing = self._stand(await read_board(session), wanted)
        if not wanted and standing.shares == self._told and time.monotonic() - self._told_at < _HEARTBEAT_S:
            return
        async with self._database.session() as session:
            await lock_shares(session)
            standing = self._stand(await read_board(session), wanted)
            await write_standing(session, self.id, standing)
        self._told_at, self._told = time.monotonic(), standing.shares
        self._limiter.shares.take_over(standing.shares)

    async def run(self, stop: asyncio.Event) -> None:
        """Synchronise until `stop` is set; a running update is completed."""
        while await self._pause(stop):
            try:
                await self.sync()
            except StoreError as error:
                if not self._is_lost:
                    _log.warning("%s; limits are shared with other gateways as before", error)
                self._is_lost = True
            else:
                self._is_lost = False

    async def leave(self) -> None:
        """Release the shares of this gateway at once."""
        with contextlib.suppress(StoreError):
            async with self._database.session() as session:
                await forget_gateway(session, self.id)

    def _stand(self, board: SharesOfPeers, wanted: set[str]) -> QuotaShares:
        limiter = self._limiter
        return next_shares(
            self.id, board.peers, board.parts, wanted=wanted, heavy=limiter.heavy_users, used=limiter.used_share
        )

    async def _pause(self, stop: asyncio.Event) -> bool:
        """Wait for the next update. True unless stopped."""
        waits = [asyncio.create_task(event.wait()) for event in (stop, self._limiter.shares.is_wanted)]
        try:
            await asyncio.wait(waits, timeout=SYNC_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return not stop.is_set()
