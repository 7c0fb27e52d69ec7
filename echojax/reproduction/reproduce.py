"""A suite from its file to its page: run what is missing, skip what is done, go on."""

import dataclasses
import sys
import traceback
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from echojax.errors import UserError
from echojax.machine import describe
from echojax.reproduction.cells import Cell, in_main_table, only_rows, plan, state_of
from echojax.reproduction.failures import failure_of, note_failure
from echojax.reproduction.protocols import judge_if_missing
from echojax.reproduction.record import Record, open_record, read_record, write_record
from echojax.reproduction.samples import write_sample
from echojax.reproduction.suite import Suite
from echojax.reproduction.suite_file import find_suite, read_suite
from echojax.reproduction.summary import finished_runs
from echojax.reproduction.write_page import write_page
from echojax.signals import Interrupted, Stopped, stopping_at_once
from echojax.training.builders import read_data, resolved
from echojax.training.run import run
from echojax.training.run_folder import BusyError


@dataclass(frozen=True)
class Flags:
    """Run a suite of data sets x models x seeds and write one page that compares them.

    What is finished is skipped, what was interrupted goes on: the same command again.
    """

    suite: str | None = None
    """A file, or the name of one in experiments/suites (ml-100k)."""
    quick: bool = False
    """The suite named quick: minutes on two cores, on generated data and a sample of ml-100k."""
    out: Path | None = None
    """Folder of runs and page (runs/SUITE)."""
    data_dir: str | None = None
    """Folder that holds the data sets' files (else $ECHOJAX_DATA, else the user's cache)."""
    only: tuple[str, ...] = ()
    """Run these rows of the suite alone; the page shows whatever is there."""
    report_only: bool = False
    """Write the page again and run nothing."""


def reproduce(flags: Flags, suites: Path, console: Console) -> bool:
    """Run the command; return whether every run that was wanted is finished.

    Args:
        flags: the command line.
        suites: the folder of the suites that come along.
        console: where to print.

    Raises:
        UserError: flags, suite or folder are of no use.
        Interrupted: by SIGINT or SIGTERM; page and runs are saved.
    """
    if flags.quick and flags.suite is not None:
        raise UserError("--quick is the suite named quick; leave --suite out")
    suite = read_suite(find_suite(flags.suite or ("quick" if flags.quick else "ml-100k"), suites))
    out = flags.out or Path("runs") / suite.name
    cells = plan(suite, out, flags.data_dir)

    def show(record: Record) -> None:
        write_record(out, record)
        write_page(out, suite, cells, record)

    if flags.report_only:
        show(read_record(out, suite.name))
        _say(console, f"page: {out / 'page.html'}")
        return True
    wanted = only_rows(cells, suite, flags.only) if flags.only else cells
    record = open_record(out, suite.name, _command(flags), describe([]))
    states = [state_of(cell) for cell in wanted]  # refuses before anything runs
    _say(console, f"{len(wanted)} runs, {states.count('finished')} of them finished, in {out}")
    try:
        with stopping_at_once():
            write_record(out, record)
            for number, cell in enumerate(wanted, 1):
                title = f"[{number}/{len(wanted)}] {cell.name}: {cell.command}"
                if _make(cell, cells, suite, flags.data_dir, console, title):
                    show(record)
    except (Interrupted, Stopped) as stop:
        signum = stop.signum if isinstance(stop, Stopped) else stop.code - 128
        show(record)
        where = f"page: {out / 'page.html'}"
        raise Interrupted(f"stopped and saved, {where}; the same command goes on", signum) from None
    show(record)
    failed = {cell.name: why for cell in wanted if (why := failure_of(cell)) is not None}
    for name, why in failed.items():
        _say(console, f"failed: {name}: {why}")
    _say(console, f"page: {out / 'page.html'}")
    return not failed and all(state_of(cell) == "finished" for cell in wanted)


def _make(
    cell: Cell, cells: list[Cell], suite: Suite, data_dir: str | None, console: Console, title: str
) -> bool:
    """Do what is missing of one run; return whether there is news. Failures are noted."""
    unfinished = state_of(cell) != "finished"
    judged = False
    why: str | None = None
    try:
        if unfinished:
            _say(console, title)
            data = next(data for data in suite.datasets if data.name == cell.data)
            if data.sample_users is not None:
                assert cell.config.data_path is not None
                write_sample(Path(cell.config.data_path), data, data_dir, partial(_say, console))
            _refuse_other_data(cell, cells)
            train(cell, console)
        if in_main_table(cell, suite):
            judged = _judge(cell, data_dir, console)
    except (Interrupted, Stopped):
        raise
    except BusyError as busy:
        _say(console, str(busy))
        return False
    except UserError as error:
        why = str(error)
    except Exception as error:  # a run's own, whatever it is: the others go on
        traceback.print_exc(file=sys.stderr)
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
    note_failure(cell, why)
    return unfinished or judged or why is not None


def _judge(cell: Cell, data_dir: str | None, console: Console) -> bool:
    """Judge a finished run in other ways; without its checkpoint it is as finished as before."""
    try:
        return judge_if_missing(cell.folder, data_dir)
    except UserError as error:
        _say(console, f"{cell.name} is not judged in other ways: {error}")
        return False


def _refuse_other_data(cell: Cell, cells: list[Cell]) -> None:
    """Check before hours of training that the run will stand in one table with the others."""
    done, _ = finished_runs([other for other in cells if other.data == cell.data])
    if not done:
        return
    name, first = next(iter(done.items()))  # the others are on the same data
    dataset, _ = read_data(resolved(cell.config))
    theirs, here = (facts["sha256"] for facts in (first.results["dataset"], dataset.fingerprint))
    if theirs != here:
        raise UserError(
            f"{name} was made on other data (sha256 {theirs[:12]}, here {here[:12]}); give "
            "--data-dir the folder of its files, or name another --out"
        )


def train(cell: Cell, console: Console) -> None:
    """Make one run, or go on with it: the place to train the seeds of a row together."""
    resume = (cell.folder / "config.json").exists()
    run(dataclasses.replace(cell.config, resume=resume), console)


def _command(flags: Flags) -> str:
    """Return the command line that makes the whole page, without the folders of this machine."""
    given = "--quick" if flags.quick else f"--suite {flags.suite or 'ml-100k'}"
    return f"python experiments/reproduce.py {given}"


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True, markup=False)
