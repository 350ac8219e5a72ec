"""Docstrings begin with a verb or with the noun that they describe."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("gateway", "adapters", "backends", "tests", "e2e")
QUOTED_BY_THE_CONFORMANCE_KIT = (
    "How many tickets may be outstanding.",
    "What a runner tells after `load`;",
    "How the runner picks a token for each of the R logit rows:",
)
OPENING = re.compile(
    r"(Of|By|With|Whoever|What|Where|Which|Who|Whether|How|From|In|On|As|For|Without|To|At|Until|Before|After|Nobody"
    r"|It|They|Its|There|So|That|Why|When)\b"
)


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of docstrings, those of fields among them: all strings that stand alone."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value.strip()


def test_docstrings_begin_with_a_verb_or_noun() -> None:
    """No docstring begins with a preposition, a pronoun or a question word."""
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text.partition(chr(10))[0]}"
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, text in docstrings(path)
        if OPENING.match(text) and not text.startswith(QUOTED_BY_THE_CONFORMANCE_KIT)
    ]

    assert not found, "begin these docstrings with a verb or a noun:\n" + "\n".join(found)
