"""`python -m e2e.liars --lie NAME [--upstream URL] …`: takes flags of `hostelry serve` and prints its ready line."""

from __future__ import annotations

import argparse
import logging
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from e2e.liars import impostor, proxy
from e2e.liars.tenants import Tenants


def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    arguments = _arguments()
    tenants = Tenants(arguments.config)
    served = [text.partition("=")[0] for text in arguments.model]
    if arguments.lie in impostor.LIES:
        app = impostor.application(arguments.lie, tenants, served)
    else:
        app = proxy.application(arguments.lie, tenants, arguments.upstream)
    listener = socket.create_server(("127.0.0.1", 0))
    app.on_startup.append(_announcement(listener))
    web.run_app(app, sock=listener, print=None, access_log=None, shutdown_timeout=1)


def _announcement(listener: socket.socket) -> Callable[[web.Application], Awaitable[None]]:
    async def announce(_: web.Application) -> None:
        print(f"ready http://127.0.0.1:{listener.getsockname()[1]}", flush=True)

    return announce


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m e2e.liars")
    parser.add_argument("--lie", required=True, choices=[*impostor.LIES, *proxy.LIES])
    parser.add_argument("--upstream", help="An honest server, for lies that stand before one.")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--model", action="append", default=[])
    for ignored in ("--port", "--data-dir", "--backend", "--admin-key"):
        parser.add_argument(ignored)
    return parser.parse_args()


if __name__ == "__main__":
    main()
