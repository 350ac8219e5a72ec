"""The key inside an `Authorization` header."""

from __future__ import annotations

import hashlib
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
