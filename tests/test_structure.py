"""Budgets of the code: lines of the served path and of each package, sizes of files and functions, contracts that hold.

Lines are counted as cloc does: without blanks, comments and docstrings.
"""

from __future__ import annotations

import ast
import io
import statistics
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SERVED_LINES = 20_000
BUDGETS = {
    "adapters": 300,
    "backends": 800,
    "backends/kernels": 420,
    "backends/loading": 200,
    "backends/mlx": 500,
    "backends/models": 1150,
    "backends/onnx": 1550,
    "backends/text": 1200,
    "backends/torch": 2100,
    "backends/weights": 1900,
    "gateway": 900,
    "gateway/api": 2900,
    "gateway/batching": 1650,
    "gateway/engine": 1550,
    "gateway/models": 500,
    "gateway/process": 250,
    "gateway/tenants": 2650,
}
"""Line budgets of the packages of the served path; the sum of all is held to `SERVED_LINES`."""
NOT_SERVED = frozenset({"backends/testing", "backends/quantize", "gateway/demo", "gateway/bench", "gateway/commands"})
_NO_CODE = frozenset(
    {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
)


def room_of(path: Path) -> str:
    """Package of a file, such as `gateway/api`; files at the root of a package are a package of their own."""
    parts = path.relative_to(ROOT).parts
    return "/".join(parts[:2]) if len(parts) > 2 else parts[0]


@cache
def sources() -> dict[Path, str]:
    return {path: path.read_text("utf-8") for name in ("gateway", "backends", "adapters") for path in _modules(name)}


def _modules(package: str) -> Iterator[Path]:
    return (ROOT / package).rglob("*.py")


def count_lines(source: str) -> int:
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


@cache
def lines_by_room() -> Counter[str]:
    found: Counter[str] = Counter()
    for path, source in sources().items():
        found[room_of(path)] += count_lines(source)
    return found


def test_every_room_has_a_budget() -> None:
    """A new folder is either served and has a budget, or is named as not served."""
    assert set(lines_by_room()) - NOT_SERVED == set(BUDGETS)


@pytest.mark.parametrize("room", BUDGETS)
def test_a_room_stays_within_its_budget(room: str) -> None:
    """A package stays within its line budget; try to delete or to move lines elsewhere before raising it."""
    assert lines_by_room()[room] <= BUDGETS[room]


def test_the_served_path_stays_within_its_budget() -> None:
    """All that takes part in serving, so without test kit, quantizer, demo, benchmarks and commands."""
    assert sum(number for room, number in lines_by_room().items() if room not in NOT_SERVED) <= SERVED_LINES


def test_files_hold_one_idea() -> None:
    """Half of all files that are not empty have 80 lines or more, and none is too long to be read in one sitting."""
    lengths = [source.count("\n") for source in sources().values() if source]

    assert statistics.median(lengths) >= 80
    assert max(lengths) <= 360


def test_functions_are_short() -> None:
    """Six lines or fewer in the median, and one in a hundred above forty."""
    lengths = [
        (node.end_lineno or node.lineno) - node.lineno + 1
        for source in sources().values()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]

    assert statistics.median(lengths) <= 6
    assert sum(length > 40 for length in lengths) <= 0.01 * len(lengths)


def test_no_contract_ignores_an_import() -> None:
    """The contracts of import-linter hold without exceptions, and circles are among what they forbid."""
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]

    assert any(contract["type"] == "acyclic_siblings" for contract in linter["contracts"])
    assert not [contract["name"] for contract in linter["contracts"] if "ignore_imports" in contract]
