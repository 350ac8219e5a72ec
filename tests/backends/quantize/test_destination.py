"""The file to be written: whole or not at all, and never over what must stay."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from backends.quantize.destination import (
    DestinationFailed,
    DestinationRefused,
    check_destination,
    partial_path,
    written_whole,
)


def test_the_file_appears_at_the_end(tmp_path: Path) -> None:
    """The file is written under a temporary name next to its destination and renamed at the end."""
    path = tmp_path / "model.gguf"

    with written_whole(path, num_bytes=5) as file:
        file.write(b"whole")
        assert not path.exists()
        assert partial_path(path).exists()

    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interruption_leaves_the_old_file(tmp_path: Path) -> None:
    """Nothing remains of the new one."""
    path = tmp_path / "model.gguf"
    path.write_bytes(b"old")

    with pytest.raises(KeyboardInterrupt):
        _interrupted(path)

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def _interrupted(path: Path) -> None:
    with written_whole(path, num_bytes=3) as file:
        file.write(b"ne")
        raise KeyboardInterrupt


def test_what_a_killed_run_left_is_overwritten(tmp_path: Path) -> None:
    """Bytes left by a killed run do not appear in the new file."""
    path = tmp_path / "model.gguf"
    partial_path(path).write_bytes(b"left by a run that was killed")

    with written_whole(path, num_bytes=3) as file:
        file.write(b"new")

    assert path.read_bytes() == b"new"


def test_two_runs_at_once_are_told_apart(tmp_path: Path) -> None:
    """The second one stops and leaves the first alone."""
    path = tmp_path / "model.gguf"
    with partial_path(path).open("wb") as other:
        other.write(b"first")
        other.flush()
        fcntl.flock(other, fcntl.LOCK_EX)

        with pytest.raises(DestinationFailed, match="another run"), written_whole(path, num_bytes=1):
            pass

    assert partial_path(path).read_bytes() == b"first"


def test_room_is_checked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says how much is needed and how much is free."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))

    with (
        pytest.raises(DestinationFailed, match=r"2\.0 MB are needed and 1\.0 MB"),
        written_whole(tmp_path / "model.gguf", num_bytes=2_000_000),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_refusals_say_what_to_do(tmp_path: Path) -> None:
    """An existing file, the source itself, a folder, a missing folder."""
    source, other = tmp_path / "a.gguf", tmp_path / "b.gguf"
    source.write_bytes(b"a")
    other.write_bytes(b"b")
    (tmp_path / "link.gguf").symlink_to(source)

    def refusal(destination: Path, *, overwrite: bool = False) -> str:
        with pytest.raises(DestinationRefused) as refused:
            check_destination(destination, source=source, overwrite=overwrite)
        return str(refused.value)

    assert "--force" in refusal(other)
    assert "source itself" in refusal(source, overwrite=True)
    assert "source itself" in refusal(tmp_path / "link.gguf", overwrite=True)
    assert "folder" in refusal(tmp_path)
    assert "create it" in refusal(tmp_path / "none" / "x.gguf")
    check_destination(other, source=source, overwrite=True)
    check_destination(tmp_path / "new.gguf", source=source, overwrite=False)
