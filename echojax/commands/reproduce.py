"""Run a suite of comparisons and write its page."""

from dataclasses import dataclass
from pathlib import Path

from echojax.command_line import logged_terminal, parse
from echojax.flags import Positive


@dataclass(frozen=True)
class Flags:
    """Run a suite of data sets x models x seeds and write one page that compares them.

    What is finished is skipped, what was interrupted goes on: the same command again.
    """

    suite: str | None = None
    """A file, or the name of one that comes along (ml-100k)."""
    quick: bool = False
    """The suite named quick: minutes on two cores, on generated data and a sample of ml-100k."""
    out: Path | None = None
    """Folder of runs, results and page (runs/SUITE)."""
    data_dir: str | None = None
    """Folder that holds the data sets' files (else $ECHOJAX_DATA, else the user's cache)."""
    only: tuple[str, ...] = ()
    """Run only these variants of the suite; the page shows whatever is there."""
    tune: Positive | None = None
    """Search the flags of each learned variant first, in so many trials over the space of the data
    set's recipes; what the suite itself says is not searched."""
    report_only: bool = False
    """Write the page again, of the results that are there, and run nothing."""


def main(words: list[str]) -> None:
    """Run the command."""
    flags = parse(Flags, args=words)
    from echojax.compilation import use_compilation_cache
    from echojax.suites.reproduce import reproduce

    console = logged_terminal()
    use_compilation_cache()
    if not reproduce(flags, console):
        raise SystemExit(1)
