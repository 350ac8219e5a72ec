"""What can be wrong with the store.

StoreError
├── StoreUnavailable   locked, full, or not reachable now; what was asked did not happen
├── StoreCorrupt       what lies there is not sound, and nothing is made in its place
├── Conflict           a name is taken, or an entry belongs to the configuration file
└── UnknownEntry       no such organisation, tenant or key
"""

from __future__ import annotations


class StoreError(Exception):
    """Root. The message is shown to the operator."""


class StoreUnavailable(StoreError):
    """Try again later."""

    retry_after_s = 1.0


class StoreCorrupt(StoreError):
    """A check failed; the message names it and the way back."""


class Conflict(StoreError):
    """The change contradicts what is there."""


class UnknownEntry(StoreError):
    """Nothing of that id or name."""
