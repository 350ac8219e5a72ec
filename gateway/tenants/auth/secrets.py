"""API keys: made, hashed, and read from an `Authorization` header."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Sequence

from gateway.errors import Unauthorized

HOW = 'send the header "Authorization: Bearer <your key>"'


def bearer_digest(authorization: Sequence[bytes]) -> bytes:
    """SHA-256 of the key in these header values. Raises `Unauthorized` unless there is exactly one."""
    return hashlib.sha256(_bearer(authorization)).digest()


def _bearer(authorization: Sequence[bytes]) -> bytes:
    if not authorization:
        raise Unauthorized(f"no API key was given; {HOW}")
    if len(authorization) > 1:
        raise Unauthorized(f"more than one Authorization header was given; {HOW}, once")
    scheme, _, key = authorization[0].partition(b" ")
    if scheme.lower() != b"bearer" or not key.strip():
        raise Unauthorized(f"the Authorization header carries no bearer key; {HOW}")
    return key.strip()


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
