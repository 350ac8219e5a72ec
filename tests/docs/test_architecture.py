"""The map in `docs/architecture.md` is of the tree as it is."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
TOP = ("gateway", "adapters", "backends", "tools", "docs", "tests", "e2e", "benchmarks", "openapi")


def test_named_paths_exist() -> None:
    """Every path from the root of the tree that the page names is there."""
    paths = set(re.findall(rf"`((?:{'|'.join(TOP)})/[\w./]*)`", PAGE))

    assert len(paths) >= 20
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []


def test_every_folder_of_the_gateway_is_on_the_map() -> None:
    """A new folder needs a line that says what is in it."""
    folders = {path.parent.name for path in (ROOT / "gateway").glob("*/__init__.py")}

    assert [name for name in sorted(folders) if f"`gateway/{name}/`" not in PAGE] == []
