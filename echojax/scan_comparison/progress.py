"""What the user sees while a comparison runs: a bar on a terminal, plain lines elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table


class Display:
    """A bar over the problems of a comparison.

    Args:
        console: where to print.
    """

    def __init__(self, console: Console):
        self._console = console
        self._bar: Progress | None = None

    @contextmanager
    def problems(self, total: int, done: int) -> Iterator[None]:
        """Show the bar inside, on a terminal."""
        if not self._console.is_terminal:
            yield
            return
        columns = (
            BarColumn(bar_width=20), TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(), TextColumn("{task.description}"),
        )  # fmt: skip
        with Progress(*columns, console=self._console, transient=True) as bar:
            bar.add_task("", total=total, completed=done)
            self._bar = bar
            try:
                yield
            finally:
                self._bar = None

    def begin(self, text: str, done: int, total: int) -> None:
        """Say which problem is next."""
        if self._bar is None:
            self.say(f"[{done + 1}/{total}] {text}")
        else:
            self._bar.update(self._bar.task_ids[0], completed=done)

    def step(self, text: str) -> None:
        """Show what is done right now, where a line can change."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], description=text)

    def say(self, line: str) -> None:
        """Print one line."""
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)

    def show(self, table: Table) -> None:
        """Print a table."""
        self._console.print(table, highlight=False)
        self._console.print()
