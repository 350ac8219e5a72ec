"""A file that appears at its place whole or not at all.

It is written beside its place under a name of its own, synchronised, and renamed. What an interrupted run left there
is overwritten by the next; two runs at once are told apart by a lock.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from backends.errors import BackendError


class DestinationRefused(BackendError):
    """The destination must not be written: it exists, it is the source, or it is no place for a file."""


class DestinationFailed(BackendError):
    """Writing failed: no room, no permission, or another run is writing the same file."""


def check_destination(destination: Path, *, source: Path, overwrite: bool) -> None:
    """Raise `DestinationRefused` with what to do about it."""
    if destination.is_dir():
        raise DestinationRefused(f"{destination} is a folder; name the GGUF file to write in it")
    if not destination.parent.is_dir():
        raise DestinationRefused(f"{destination.parent} is not a folder; create it first")
    if not destination.exists():
        return
    if source.exists() and destination.samefile(source):
        raise DestinationRefused(f"{destination} is the source itself; name another file")
    if not overwrite:
        raise DestinationRefused(f"{destination} exists already; give --force to overwrite it")


def partial_path(destination: Path) -> Path:
    """Path of a file while it is written."""
    return destination.with_name(f".{destination.name}.partial")


@contextmanager
def written_whole(destination: Path, *, num_bytes: int) -> Generator[BinaryIO]:
    """A file for `num_bytes` bytes that becomes `destination` when the block ends well, and is removed otherwise.

    Raises `DestinationFailed`, also for errors of the file system inside the block.
    """
    path = partial_path(destination)
    try:
        with _locked(path) as file:
            try:
                _check_room(path, num_bytes)
                yield file
                file.flush()
                os.fsync(file.fileno())
                path.replace(destination)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        _synchronise_folder(destination.parent)
    except OSError as error:
        raise DestinationFailed(f"{destination}: cannot be written: {error.strerror or error}") from error


@contextmanager
def _locked(path: Path) -> Generator[BinaryIO]:
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise DestinationFailed(f"{path}: another run is writing this file; wait for it") from None
        if not _is_still_there(path, file):  # renamed by its writer between our opening and locking it
            raise DestinationFailed(f"{path}: another run has just finished; start again if it is still wanted")
        file.truncate(0)
        yield file


def _is_still_there(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _check_room(path: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < num_bytes:
        raise DestinationFailed(
            f"{path.parent}: {num_bytes / 1e6:.1f} MB are needed and {free / 1e6:.1f} MB are free; make room"
        )


def _synchronise_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
