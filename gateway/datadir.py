"""The data directory: what the server keeps between starts. Private to its owner."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

KEY_PREFIX = "sk-ho-"
_KEY_FILE = "default.key"


def default_data_dir() -> Path:
    """`$XDG_DATA_HOME/hostelry`, else `~/.local/share/hostelry`."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "hostelry"


def new_key() -> str:
    """A fresh 256-bit API key."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def first_key(data_dir: Path) -> tuple[str, bool]:
    """The key of tenant `default` and whether it was created just now.

    It is stored in clear, readable by its owner only, so that `hostelry chat` on the same machine can use it.
    """
    path = data_dir / _KEY_FILE
    stored = stored_key(data_dir)
    if stored:
        return stored, False
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = new_key()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(key + "\n")
    return key, True


def stored_key(data_dir: Path) -> str | None:
    """The key of an earlier start, if there was one."""
    try:
        return (data_dir / _KEY_FILE).read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None
