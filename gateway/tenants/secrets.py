"""Fresh keys and ids."""

from __future__ import annotations

import hashlib
import secrets
import time

KEY_PREFIX = "sk-ho-"


def new_key() -> str:
    """A fresh 256-bit API key."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def key_digest(key: str) -> str:
    """What is stored of a key: SHA-256 in hex. It has 256 bits of its own, so no slow hash is needed."""
    return hashlib.sha256(key.encode()).hexdigest()


def key_hint(key: str) -> str:
    """The part of a key that may be shown."""
    return f"{KEY_PREFIX if key.startswith(KEY_PREFIX) else ''}…{key[-4:]}"


def new_id(kind: str) -> str:
    """Sorts by time of creation and cannot be guessed: `kind`, microseconds, 48 random bits."""
    return f"{kind}_{time.time_ns() // 1000:014x}{secrets.token_hex(6)}"
