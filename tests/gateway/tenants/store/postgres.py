"""A PostgreSQL of our own, on loopback, in a temporary directory."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from gateway.process.listener import bind

_USERS = ("postgres", "nobody")
_PLACES = "/usr/lib/postgresql/*/bin"


def find_programs() -> Path | None:
    """The folder with `initdb` and `pg_ctl`; None if PostgreSQL is not installed."""
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).parent
    found = sorted(Path("/").glob(_PLACES.lstrip("/")))
    return found[-1] if found else None


@contextmanager
def running_postgres(programs: Path) -> Generator[str]:
    """The URL of a server without any data. It refuses to run as root, so root hands over to another user.

    Its folder is not below pytest's, which other runs close to other users.
    """
    user = next((name for name in _USERS if _exists(name)), None) if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="hostelry-postgres-") as folder:
        if user:
            shutil.chown(folder, user)
        with _server(programs, Path(folder) / "data", user) as url:
            yield url


@contextmanager
def _server(programs: Path, data: Path, user: str | None) -> Generator[str]:
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
    _run([programs / "initdb", "-D", data, "-U", "hostelry", "-A", "trust", "--no-sync"], user)
    options = f"-p {port} -h 127.0.0.1 -k {data} -c fsync=off -c max_connections=50"
    _run([programs / "pg_ctl", "-D", data, "-o", options, "-l", data / "log", "-w", "start"], user)
    try:
        yield f"postgresql://hostelry@127.0.0.1:{port}/postgres"
    finally:
        _run([programs / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop"], user)


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _run(command: list[str | Path], user: str | None) -> None:
    done = subprocess.run(
        list(map(str, command)),
        user=user,
        cwd="/",
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0, done.stderr
