"""What a fault has done to a run."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from echojax.faults.tiny_run import Ended, TinyRun


class Hit(NamedTuple):
    """A fault that has struck.

    Attributes:
        what: where it struck, in words.
        newest: step of the newest checkpoint that it left whole; 0: none.
        problems: what training did wrong.
        run: the run folder, where it is another one now.
        tiny: what resumes it, where that is another training.
    """

    what: str
    newest: int
    problems: tuple[str, ...] = ()
    run: Path | None = None
    tiny: TinyRun | None = None


# Starts training in a run folder and disturbs it.
Fault = Callable[[TinyRun, Path], Hit]


def refused(ended: Ended, *words: str) -> tuple[str, ...]:
    """Return what is wrong with an end that should be exit code 2 and one line with ``words``."""
    lines = ended.error.strip().splitlines()
    if ended.code != 2 or len(lines) != 1 or not lines[0].startswith("error: "):
        return (f"no single error line: exit code {ended.code}, {' / '.join(lines[-3:])}",)
    missing = [word for word in words if word not in lines[0]]
    return (f"the line {lines[0]!r} does not say {missing[0]!r}",) if missing else ()
