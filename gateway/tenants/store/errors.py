"""Errors of the store.

StoreError
├── StoreUnavailable   locked, full, or not reachable now; the operation was not done
├── StoreCorrupt       the file is damaged, and no new one is created in its place
├── Conflict           a name is taken, or an entry belongs to the configuration file
└── UnknownEntry       no such organisation, tenant or key
"""

from __future__ import annotations


class StoreError(Exception):
    """Root. The message is shown to the operator."""


class StoreUnavailable(StoreError):
    """The store cannot be used now; try again later."""

    retry_after_s = 1.0


class StoreCorrupt(StoreError):
    """A check failed; the message names it and the way back."""


class Conflict(StoreError):
    """The change contradicts an existing entry."""


class UnknownEntry(StoreError):
    """No entry has that id or name."""
