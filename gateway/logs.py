"""Log lines for operators: one line each on standard error; never a key, and prompts only where a policy says so."""

from __future__ import annotations

import logging


def configure_logs(level: str = "INFO") -> None:
    """Send our own records to standard error; libraries speak from WARNING on."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for package in ("gateway", "adapters", "backends"):
        logging.getLogger(package).setLevel(level)
