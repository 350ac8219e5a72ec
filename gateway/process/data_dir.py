"""The data directory: files that the server keeps between starts. Private to its owner."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

DEFAULT_KEY, ADMIN_KEY = "default.key", "admin.key"
STORE_FILE = "hostelry.db"


def default_data_dir() -> Path:
    """Path `$XDG_DATA_HOME/hostelry`, else `~/.local/share/hostelry`."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "hostelry"


def first_key(data_dir: Path, name: str = DEFAULT_KEY, *, make: Callable[[], str]) -> tuple[str, bool]:
    """Key in that file, of tenant `default` or of the operator; True if `make` made it just now.

    It is stored in clear, readable by its owner only, so that the commands on the same machine can use it.
    """
    path = data_dir / name
    stored = stored_key(data_dir, name)
    if stored:
        return stored, False
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = make()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(key + "\n")
    return key, True


def stored_key(data_dir: Path, name: str = DEFAULT_KEY) -> str | None:
    """Key of an earlier start, if there was one."""
    try:
        return (data_dir / name).read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None
