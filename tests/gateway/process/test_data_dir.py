from __future__ import annotations

from pathlib import Path

from gateway.process.data_dir import first_key, stored_key
from gateway.tenants.auth.directory import new_key


def test_first_key_is_created_once_and_private(tmp_path: Path) -> None:
    """The key outlives the start that made it and is readable by its owner only."""
    directory = tmp_path / "data"

    key, created = first_key(directory, make=new_key)

    assert created
    assert first_key(directory, make=new_key) == (key, False)
    assert stored_key(directory) == key
    assert (directory / "default.key").stat().st_mode & 0o777 == 0o600


def test_keys_carry_256_bits() -> None:
    """43 characters of base64 after the prefix, all different."""
    keys = {new_key() for _ in range(100)}

    assert len(keys) == 100
    assert all(len(key) == len("sk-ho-") + 43 for key in keys)
