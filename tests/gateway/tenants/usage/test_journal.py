"""Lines that outlive the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.tenants.usage.journal import Journal, read_journal
from tests.gateway.tenants.usage.making import entry


def test_finished_files_hold_what_was_appended(tmp_path: Path) -> None:
    """Finished files hold the appended entries in order; the file being written is not among them."""
    journal = Journal(tmp_path / "journal")
    for number in range(3):
        journal.append(entry(number))

    assert journal.finished() == []
    journal.rotate()
    (path,) = journal.finished()
    assert read_journal(path) == [entry(number) for number in range(3)]
    assert path.stat().st_mode & 0o077 == 0
    journal.rotate()
    assert journal.finished() == [path]


def test_files_of_another_gateway_stay_its_own(tmp_path: Path) -> None:
    """Files of another gateway stay its own until that process ends, however it ends."""
    code = f"""
import pathlib, sys
from gateway.tenants.usage.journal import Journal
from tests.gateway.tenants.usage.making import entry
journal = Journal(pathlib.Path({str(tmp_path)!r}))
journal.append(entry(7))
print("written", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "written\n"
        journal = Journal(tmp_path)
        held = journal.finished()
        other.kill()

    assert held == []
    assert [each for path in journal.finished() for each in read_journal(path)] == [entry(7)]


def test_a_torn_line_was_never_answered_for(tmp_path: Path) -> None:
    """A torn line is dropped silently; a line that cannot be parsed is reported and kept in a copy."""
    journal = Journal(tmp_path)
    journal.append(entry(1))
    journal.append(entry(2))
    journal.rotate()
    (path,) = journal.finished()
    whole = path.read_bytes()

    for cut in range(len(whole) // 2 + 1, len(whole)):
        path.write_bytes(whole[:cut])
        assert read_journal(path) == [entry(1)]
    assert not list(tmp_path.glob("*.damaged"))
    path.write_bytes(b"nonsense\n" + whole)
    assert read_journal(path) == [entry(1), entry(2)]
    assert next(tmp_path.glob("*.damaged")).read_bytes() == path.read_bytes()


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is half written, and nothing is lost once there is space again."""
    journal, real = Journal(tmp_path), os.write
    journal.append(entry(0))
    room = [20]

    def write(file: int, data: bytes) -> int:
        if room[0] == 0:
            raise OSError(28, "No space left on device")
        part, room[0] = data[: room[0]], 0
        return real(file, part)

    monkeypatch.setattr("gateway.tenants.usage.journal.os.write", write)
    journal.append(entry(1))
    journal.append(entry(2))
    was_broken = journal.is_broken
    monkeypatch.undo()
    journal.append(entry(3))
    journal.retry()
    journal.rotate()

    (path,) = journal.finished()
    assert was_broken
    assert not journal.is_broken
    assert [each.id for each in read_journal(path)] == [f"chatcmpl-{number}" for number in range(4)]


def test_an_empty_journal_leaves_nothing(tmp_path: Path) -> None:
    """An empty journal leaves neither file nor lock."""
    Journal(tmp_path).close()

    assert list(tmp_path.iterdir()) == []
