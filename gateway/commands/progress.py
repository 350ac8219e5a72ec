"""Progress of work on files: a bar on a terminal, on a pipe one line per ten percent. Both on standard error."""

from __future__ import annotations

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gateway.process.terminal import console


class WorkProgress:
    """Use as a context manager and call `update`."""

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._tenth = -1
        self._bar = Progress(
            TextColumn(f"{verb} {{task.percentage:>3.0f}}%"),
            BarColumn(bar_width=30),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(verb, total=1.0, detail="")

    def __enter__(self) -> WorkProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, fraction: float, detail: str) -> None:
        """`fraction` from 0 to 1; `detail` is what is under way."""
        if console.is_terminal:
            self._bar.update(self._task, completed=fraction, detail=detail)
            return
        tenth = int(fraction * 10)
        if tenth > self._tenth:
            self._tenth = tenth
            console.print(f"{self._verb} {tenth * 10}% {detail}", markup=False)
