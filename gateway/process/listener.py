"""Binds the one socket that the server listens on."""

from __future__ import annotations

import errno
import socket

_BACKLOG = 2048


class PortInUse(Exception):
    """The address cannot be bound; the message says what to do."""


def bind(host: str, port: int) -> socket.socket:
    """Bind a TCP socket, ready to listen; port 0 picks a free one. Raises `PortInUse`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        hint = f"; another program listens there, use --port {port + 1}" if error.errno == errno.EADDRINUSE else ""
        raise PortInUse(f"cannot listen on {host}:{port}: {error.strerror}{hint}") from None
    return listener


def url_of(listener: socket.socket) -> str:
    """URL `http://host:port` of a bound socket, as a local client would call it."""
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104 - a name, not a bind
    return f"http://{shown}:{port}"
