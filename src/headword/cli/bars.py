"""Progress bars of a command, on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

if TYPE_CHECKING:
    from headword.extract import Progress as Tell


class CountColumn(ProgressColumn):
    """How many are done of how many, and how many a second; nothing while that is not known."""

    def render(self, task: Task) -> Text:
        """The column's text for one bar."""
        if task.total is None:
            return Text()
        count = f"{int(task.completed):,}/{int(task.total):,}"
        speed = task.finished_speed or task.speed
        if not speed:
            return Text(count, style="progress.download")
        digits = 0 if speed >= 10 else 1
        return Text(f"{count}  {speed:,.{digits}f}/s", style="progress.download")


class Bars:
    """Bars that share the lines below the cursor; shown while at least one is open."""

    def __init__(self) -> None:
        self._display = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            CountColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(stderr=True),
            transient=True,
            expand=True,
        )

    @contextmanager
    def open(self, what: str) -> Iterator[Tell]:
        """A bar of its own; yields what to call with (done, all)."""
        task = self._display.add_task(what, total=None)
        self._display.start()
        try:
            yield partial(self.step, task)
        finally:
            self._display.remove_task(task)
            if not self._display.tasks:
                self._display.stop()

    def step(self, task: TaskID, done: int, total: int) -> None:
        """Show that `done` of `total` are done."""
        self._display.update(task, completed=done, total=total)
