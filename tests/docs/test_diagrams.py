"""Every Mermaid diagram of the documentation is one that Mermaid itself can draw.

mermaidx carries mermaid.js and runs it on QuickJS in this process: no browser, no Node.js, no network.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mermaidx import Diagram

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")])
_BLOCK = re.compile(r"^```mermaid\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[tuple[int, str]]:
    """(Line of its first line, text) of each diagram of a page."""
    return [(page.count("\n", 0, found.start(1)) + 1, found[1]) for found in _BLOCK.finditer(page)]


DIAGRAMS = [
    pytest.param(text, id=f"{page.relative_to(ROOT).as_posix()}:{line}")
    for page in PAGES
    for line, text in blocks(page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("text", DIAGRAMS)
def test_diagram_can_be_drawn(text: str) -> None:
    """Mermaid parses it and lays it out."""
    assert Diagram(text).svg().startswith("<svg")


def test_architecture_has_diagrams() -> None:
    """A change of the fence cannot make the test above pass with nothing to draw."""
    architecture = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")

    assert len(blocks(architecture)) >= 4
    assert architecture.count("```mermaid") == len(blocks(architecture))


@pytest.mark.parametrize(
    "broken",
    [
        "flowchrt LR\n  a --> b\n",
        "flowchart LR\n  a[client --> b\n",
        "sequenceDiagram\n  a->>b without a message\n",
        "sequenceDiagram\n  loop without an end\n    a->>b: one\n",
        "stateDiagram-v2\n  a -> -> b\n",
    ],
    ids=["type", "bracket", "message", "loop", "arrow"],
)
def test_broken_diagram_is_found(broken: str) -> None:
    """The test of the diagrams can fail."""
    with pytest.raises(RuntimeError, match=r"Parse error|UnknownDiagramError"):
        Diagram(broken).svg()
