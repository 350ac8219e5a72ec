"""Draws `docs/quickstart.svg`: the output of a real run of `hostelry quickstart`.

    python -m tools.terminal_picture [--port 8000] [--output docs/quickstart.svg]

The command runs with a home directory of its own, so the picture shows a first run; that directory is drawn as
`/home/you`. Nothing else is changed.
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

PICTURE = Path(__file__).parents[1] / "docs" / "quickstart.svg"
_COMMAND = "hostelry quickstart --once"
_COLUMNS = 118
_HOME = "/home/you"
_FONT_FACE = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000, help="the default of the command; it must be free")
    parser.add_argument("--output", type=Path, default=PICTURE)
    given = parser.parse_args()
    output = f"$ {_COMMAND}\n{record_quickstart(given.port)}"
    given.output.write_text(draw(output, title="hostelry"), encoding="utf-8")


def record_quickstart(port: int) -> str:
    """Run the command on a pseudo-terminal and return what it wrote, with its escape sequences.

    Raises `CalledProcessError` if it fails.
    """
    command = [sys.executable, "-m", "gateway.cli", *_COMMAND.split()[1:], "--port", str(port)]
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "HOME": home, "XDG_DATA_HOME": f"{home}/.local/share", "COLUMNS": str(_COLUMNS)}
        ours, theirs = pty.openpty()
        process = subprocess.Popen(  # noqa: S603 - our own command line
            command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=environment
        )
        os.close(theirs)
        written = _read_all(ours)
        os.close(ours)
        if process.wait():
            raise subprocess.CalledProcessError(process.returncode, command, output=written)
    return written.replace("\r\n", "\n").replace(home, _HOME)


def draw(output: str, *, title: str) -> str:
    """A terminal window with this output as an SVG that refers to nothing outside itself."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=_COLUMNS, file=nowhere, force_terminal=True, legacy_windows=False)
        console.print(Text.from_ansi(output))
        svg = console.export_svg(title=title, theme=MONOKAI, unique_id="quickstart")
    return _FONT_FACE.sub("", svg)


def _read_all(descriptor: int) -> str:
    """Everything until the other end is closed, which Linux reports as an error."""
    data = b""
    while True:
        try:
            piece = os.read(descriptor, 4096)
        except OSError:
            piece = b""
        if not piece:
            return data.decode()
        data += piece


if __name__ == "__main__":
    main()
