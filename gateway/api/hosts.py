"""Allowed host names of this server, so that no web page reaches a local one through a name of its own.

A page can have its own name point to 127.0.0.1 (DNS rebinding). The browser then treats the responses as the page's,
but it still sends the page's name as `Host`, and its origin as `Origin`.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

import msgspec

from gateway.errors import HostNotAllowed, OriginNotAllowed

ANY = "*"
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - to be compared with, not bound
_HOW = "add it to server.allowed_hosts if it is meant to be one"

Headers = Iterable[tuple[bytes, bytes]]


class Hosts(msgspec.Struct, frozen=True):
    """Allowed names, compared as a whole, in lower case and without a port. When open, any name is allowed."""

    names: frozenset[str] = _LOCAL
    is_open: bool = True

    def check(self, headers: Headers) -> None:
        """Raises `HostNotAllowed` or `OriginNotAllowed`. A client without either header is not a browser and passes."""
        if self.is_open:
            return
        for name, value in headers:
            if name == b"host" and not self._allows(_name_of(value)):
                raise HostNotAllowed(f"this server is not called {_shown(value)}; {_HOW}")
            if name == b"origin" and not self._allows(_origin_of(value)):
                raise OriginNotAllowed(f"pages of {_shown(value)} may not use this server; {_HOW}")

    def are_local(self, headers: Headers) -> bool:
        """True if the client uses a name of the machine itself for this server, or one that is allowed."""
        return all(self._allows(_name_of(value)) for name, value in headers if name == b"host")

    def _allows(self, name: str) -> bool:
        return name in self.names or is_loopback(name)


def hosts_of(bound: str, allowed: Iterable[str]) -> Hosts:
    """Allowed hosts of a server on this address. On a loopback address, or with names given, no others are allowed."""
    given = {name.lower() for name in allowed}
    own = set() if bound in _EVERYWHERE else {bound.lower()}
    is_open = ANY in given or not (given or is_loopback(bound))
    return Hosts(_LOCAL | own | (given - {ANY}), is_open)


def is_loopback(name: str) -> bool:
    """True if the name or address means this machine on every machine."""
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def _name_of(host: bytes) -> str:
    """Host name without the port, and without the brackets of an IPv6 address."""
    text = host.decode("latin-1").strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0].removesuffix(".")


def _origin_of(value: bytes) -> str:
    """Host of an origin; empty for an opaque one, `null`."""
    try:
        return (urlsplit(value.decode("latin-1")).hostname or "").removesuffix(".")
    except ValueError:
        return ""


def _shown(value: bytes) -> str:
    return repr(value.decode("latin-1")[:128])
