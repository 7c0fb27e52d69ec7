"""One JSON file about one run, whole on disk after every row; failures become rows."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.text import Text

from echojax.errors import UserError
from echojax.files import write_json
from echojax.machine import describe
from echojax.not_measured import Skipped, not_measured
from echojax.signals import Interrupted, Interrupts

Row = dict[str, Any]

# A row's name, and what makes it; called only when its turn has come.
Task = tuple[str, Callable[[], Row]]
# A task that has begun: its name, and what waits for its row.
Running = tuple[str, Callable[[], Row]]


class Record:
    """The file of a run.

    Args:
        path: where it is written; its folder is made.
        command: as the user could type it, without paths.
        rivals: scans of others that are measured too.
        rehearsal: whether the kernels are interpreted on tiny sizes.
        console: where progress is printed.
        interrupts: asked between rows.

    Raises:
        UserError: there is something at ``path`` already, or it cannot be written.
    """

    def __init__(
        self, path: Path, command: str, rivals: list[str], *, rehearsal: bool, console: Console,
        interrupts: Interrupts,
    ):  # fmt: skip
        if path.exists():
            raise UserError(f"--out {path} exists; move it away or name another file")
        self.path, self.console, self.interrupts = path, console, interrupts
        self._began = time.monotonic()
        self._until: float | None = None
        self._task = ""
        self._status = console.status("")
        self.document: dict[str, Any] = {
            "command": command,
            "date": date.today().isoformat(),
            "rehearsal": rehearsal,
            "machine": describe(rivals) | _device_facts(),
            "finished": False,
            "seconds": 0.0,
            "running": None,
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.write()
        except OSError as error:
            raise UserError(f"--out {path} cannot be written ({error.strerror})") from None

    def write(self) -> None:
        """Write the file as it stands."""
        self.document["seconds"] = round(time.monotonic() - self._began, 1)
        write_json(self.path, self.document)

    def section(
        self, name: str, tasks: Iterator[Task], until: float | None = None, *, at_once: int = 1
    ) -> list[Row]:
        """Run tasks and keep a row of each in their order, also of one that fails.

        Args:
            name: of the section in the file.
            tasks: may need what earlier ones gave where they run one at a time; an error between
                two of them ends the section.
            until: seconds after the start of the run behind which tasks are skipped.
            at_once: tasks that run side by side, in threads of their own; those must not call
                ``now``. One alone runs in this thread: only that may handle signals.

        Raises:
            Interrupted: by a signal; what there is has been written.
        """
        rows: list[Row] = self.document.setdefault(name, [])
        self._until = until
        running: deque[Running] = deque()
        with self._status, ThreadPoolExecutor(at_once) as pool:

            def start(run: Callable[[], Row]) -> Callable[[], Row]:
                return pool.submit(_timed, run).result if at_once > 1 else partial(_timed, run)

            try:
                while True:
                    while len(running) < at_once and (task := self._next(name, tasks, running)):
                        running.append((task[0], start(task[1])))
                    if not running:
                        return rows
                    self._keep(name, rows, running.popleft())
            except Interrupted:
                for task in running:  # those that had begun
                    self._keep(name, rows, task)
                raise

    def _next(self, name: str, tasks: Iterator[Task], running: Iterable[Running]) -> Task | None:
        """Return the next task, if there is one; one that failed or is skipped gives that row."""
        title = f"{name}: the next task"
        try:
            title, run = next(tasks)
            self._task = f"{name}: {title}"
            self._begin("; ".join([*(f"{name}: {other}" for other, _ in running), self._task]))
            return title, run
        except StopIteration:
            return None
        except Interrupted:
            raise
        except Exception as failure:
            row = not_measured(failure)
            return title, lambda: row

    def _keep(self, name: str, rows: list[Row], task: Running) -> None:
        """Wait for a task's row and write it down."""
        title, result = task
        row = result()
        rows.append({"name": title} | row)
        self.say(f"{name}: {title}: {_outcome(row)}")
        self.write()

    def say(self, line: str) -> None:
        """Print a line."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _begin(self, title: str) -> None:
        """Write down what runs next: the file then tells where a GPU hangs.

        Raises:
            Interrupted: by a signal.
            Skipped: the section's time is over.
        """
        if self.interrupts.signum is not None:
            raise Interrupted("", self.interrupts.signum)
        if self._until is not None and time.monotonic() - self._began > self._until:
            raise Skipped("no time left")
        self._status.update(Text(title))
        self.document["running"] = title
        self.write()

    def now(self, step: str) -> None:
        """Write down which step of the running task is next; raises as tasks' beginnings do."""
        self._begin(f"{self._task}: {step}")
        if not self.console.is_terminal:
            self.say(f"  {step}")

    def finish(self) -> None:
        """Say that everything has been run."""
        self.document |= {"finished": True, "running": None}
        self.write()


def _timed(run: Callable[[], Row]) -> Row:
    """Return a task's row, also where it fails, with the seconds that it took."""
    began = time.monotonic()
    try:
        row = run()
    except Interrupted:
        raise
    except Exception as failure:
        row = not_measured(failure)
    return row | {"seconds": round(time.monotonic() - began, 2)}


def _outcome(row: Row) -> str:
    reason = row.get("reason")
    note = f" ({reason})" if reason else f"  {row['note']}" if "note" in row else ""
    return f"{row['status']}{note}"


def _device_facts() -> dict[str, Any]:
    device = jax.devices()[0]
    stats = device.memory_stats() or {}
    return {
        "devices": jax.device_count(),
        "compute_capability": getattr(device, "compute_capability", None),
        "device_memory_bytes": stats.get("bytes_limit"),
        "runtime": " ".join(device.client.platform_version.split()),
    }
