"""Journal of usage before it is stored: a line per request in append-only files, written before the response ends.

A written line survives the process. A file belongs to the gateway that has its lock; any gateway may move one
without a lock to the store, which records each request once.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
from pathlib import Path

import msgspec

from gateway.tenants.usage.entry import UsageEntry

_log = logging.getLogger(__name__)
_SUFFIX, _DAMAGED = ".journal", ".damaged"
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(UsageEntry).decode


class Journal:
    """Appends lines, and rotates files, so that finished ones can be stored. One thread writes."""

    def __init__(self, directory: Path) -> None:
        """Open a new file in the directory. Raises `OSError`."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._directory = directory
        self._unwritten: list[bytes] = []
        self._file, self._path = self._new()
        self._size = self._synced = 0

    @property
    def is_broken(self) -> bool:
        """True if there are lines that could not be written; they are kept in memory for `retry`."""
        return bool(self._unwritten)

    def append(self, entry: UsageEntry) -> None:
        """Write a line. If that fails, it is kept, and `is_broken` is true."""
        line = _encode(entry) + b"\n"
        if not self._unwritten and self._write(line):
            return
        self._unwritten.append(line)

    def retry(self) -> None:
        """Write what could not be written before, in order."""
        while self._unwritten and self._write(self._unwritten[0]):
            del self._unwritten[0]

    def sync(self) -> None:
        """Flush to disk, if anything is new. May run in another thread."""
        size = self._size
        if size > self._synced:
            os.fsync(self._file)
            self._synced = size

    def rotate(self) -> None:
        """Begin a new file, if there is anything in this one."""
        if self._size == 0:
            return
        old = self._file
        self._file, self._path = self._new()
        self._size = self._synced = 0
        os.close(old)

    def finished(self) -> list[Path]:
        """Files that are no longer written, of ended gateways, too; oldest first."""
        found = [path for path in self._directory.glob(f"*{_SUFFIX}") if path != self._path]
        return sorted((path for path in found if _is_free(path)), key=lambda path: path.stat().st_mtime)

    def close(self) -> None:
        os.close(self._file)
        if self._size == 0:
            self._path.unlink(missing_ok=True)

    def _new(self) -> tuple[int, Path]:
        path = self._directory / f"{os.getpid()}-{secrets.token_hex(6)}{_SUFFIX}"
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file, path

    def _write(self, line: bytes) -> bool:
        """Write the whole line or nothing of it."""
        try:
            written = os.write(self._file, line)
            if written < len(line):
                os.ftruncate(self._file, self._size)
                return False
        except OSError as error:
            if not self._unwritten:
                _log.error("usage cannot be written to %s: %s", self._path, error.strerror)
            return False
        self._size += written
        return True


def read_journal(path: Path) -> list[UsageEntry]:
    """Entries of a file. A line without an end belongs to no completed request; other damaged lines are logged."""
    lines = path.read_bytes().split(b"\n")
    entries, damaged = [], 0
    for line in lines[:-1]:
        try:
            entries.append(_decode(line))
        except msgspec.MsgspecError:
            damaged += 1
    if damaged:
        kept = path.with_suffix(_DAMAGED)
        kept.write_bytes(path.read_bytes())
        _log.error("%d lines of usage in %s cannot be read; a copy is kept as %s", damaged, path, kept)
    return entries


def _is_free(path: Path) -> bool:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True
