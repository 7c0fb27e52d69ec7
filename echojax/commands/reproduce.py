"""Run a suite of comparisons and write its page."""

from dataclasses import dataclass
from pathlib import Path

from echojax.command_line import logged_terminal, parse
from echojax.flags import Positive


@dataclass(frozen=True)
class Flags:
    """Run a suite of data sets x models x seeds and write one page that compares them.

    The same command again skips what is finished and resumes what was interrupted.
    """

    suite: str | None = None
    """A TOML file, or the name of an included suite (None: ml-100k)."""
    quick: bool = False
    """The suite named quick: minutes on two cores, on generated data and a sample of ml-100k."""
    out: Path | None = None
    """Folder of runs, results and page (None: runs/SUITE)."""
    data_dir: str | None = None
    """Folder that holds the data sets' files (else $ECHOJAX_DATA, else the user's cache)."""
    only: tuple[str, ...] = ()
    """Run only these variants of the suite; the page shows all that are finished."""
    tune: Positive | None = None
    """Search the flags of each learned variant first, with this many trials over the space of the
    data set's recipes; flags that the suite sets are not searched."""
    report_only: bool = False
    """Write the page of the existing results again, and run nothing."""


def main(words: list[str]) -> None:
    """Run the command."""
    flags = parse(Flags, args=words)
    from echojax.compilation import use_compilation_cache
    from echojax.suites.reproduce import reproduce

    console = logged_terminal()
    use_compilation_cache()
    if not reproduce(flags, console):
        raise SystemExit(1)
