"""A suite from its file to its page: missing runs are made, interrupted ones resumed."""

import dataclasses
import logging
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from echojax.errors import UserError
from echojax.flags import ReproduceFlags
from echojax.lock import BusyError
from echojax.models import HEURISTICS
from echojax.report.tables import duration
from echojax.signals import Interrupted, Stopped, stopping_at_once
from echojax.suites.order import certify_if_missing
from echojax.suites.page import write_page
from echojax.suites.protocols import evaluate_if_missing
from echojax.suites.results import RUNS, Results, read
from echojax.suites.runs import Run, plan, reason_of, write_failure, write_sample_of
from echojax.suites.suite_file import Suite, find_suite, read_suite
from echojax.suites.tuned import check_budget, recorded, tune, write_tuning
from echojax.training.builders import read_data, resolved
from echojax.training.run import run as train

log = logging.getLogger(__name__)


def reproduce(flags: ReproduceFlags, console: Console) -> bool:
    """Run the command; return whether every wanted run is finished."""
    if flags.quick and flags.suite is not None:
        raise UserError("--quick is the suite named quick; leave --suite out")
    name = flags.suite or ("quick" if flags.quick else "ml-100k")
    suite = read_suite(find_suite(name))
    out = flags.out or Path("runs") / suite.name
    runs = plan(suite, out, flags.data_dir)
    only = suite.known(flags.only or (*suite.variants, *suite.ablation))
    _check_folder(out, runs, flags.report_only)
    results = read(out, suite.name)
    damaged = results.pack(runs)
    suite.tuned = recorded(results, runs)
    check_budget(suite, out, flags.tune, report_only=flags.report_only)
    command = f"echojax reproduce {'--quick' if flags.quick else f'--suite {name}'}"
    command += "" if flags.tune is None else f" --tune {flags.tune}"
    these = _Suite(suite, runs, results, command, flags, console)
    these.plan()
    if flags.report_only:
        these.write_page()
        return True
    for run in runs:
        if run.variant in only and run.name in damaged:
            raise UserError(damaged[run.name])
    for run in these.ready(only):
        results.state_of(run)  # refuses before anything runs
    try:
        with stopping_at_once():
            results.write()
            if flags.tune is not None:
                tune(suite, [run for run in runs if run.variant in only], out, flags.tune, console)
                these.plan()
            these.make(these.ready(only))
            for name in suite.datasets:
                certify_if_missing(results, [run for run in runs if run.dataset == name])
    except (Interrupted, Stopped) as stop:
        these.write_page()
        raise Interrupted("stopped and saved; the same command goes on", stop.signum) from None
    wanted = [run for run in these.runs if run.variant in only]
    failures = {run.name: why for run in wanted if (why := results.failures.get(run.name))}
    for failed, why in failures.items():
        log.info("failed: %s: %s", failed, why)
    these.write_page()
    return not failures and all(results.state_of(run) == "finished" for run in wanted)


def _check_folder(out: Path, runs: list[Run], report_only: bool) -> None:
    """Raise ``UserError`` if the folder is not one of this suite, or has nothing to report."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; name a folder")
    ours = (out / RUNS).exists() or any(run.folder.exists() for run in runs)
    if not ours and (report_only or (out.exists() and any(out.iterdir()))):
        raise UserError(f"--out {out} has no {RUNS} and no run of the suite; name another folder")


@dataclass
class _Suite:
    """A suite that is being run."""

    suite: Suite
    runs: list[Run]
    results: Results
    command: str
    flags: ReproduceFlags
    console: Console

    def plan(self) -> None:
        """Plan the runs, with the flags that searches have found so far."""
        self.runs = plan(self.suite, self.results.out, self.flags.data_dir)

    def ready(self, only: set[str]) -> list[Run]:
        """Return the runs of the given variants whose flags need no search, or have been found."""
        return [
            run
            for run in self.runs
            if run.variant in only
            and (
                self.flags.tune is None
                or run.config.model in HEURISTICS
                or (run.dataset, run.variant) in self.suite.tuned
            )
        ]

    def write_page(self) -> None:
        """Take in the finished runs, write the page, and log its path."""
        damaged = self.results.pack(self.runs)
        self.results.write()
        write_page(self.suite, self.runs, self.results, command=self.command, damaged=damaged)
        log.info("page: %s", self.results.out / "page.html")

    def make(self, wanted: list[Run]) -> None:
        """Make the wanted runs that are unfinished; write the page after each."""
        finished = [self.results.state_of(run) for run in wanted].count("finished")
        log.info("%d runs, %d of them finished, in %s", len(wanted), finished, self.results.out)
        missing, made, started = len(wanted) - finished, 0, time.monotonic()
        for number, run in enumerate(wanted, 1):
            self.results.pack([run])  # another process may have made it
            unfinished = self.results.state_of(run) != "finished"
            if unfinished:
                left = ""
                if made:
                    seconds = (time.monotonic() - started) / made * (missing - made)
                    left = f" (about {duration(seconds)} left)"
                log.info("[%d/%d] %s: %s%s", number, len(wanted), run.name, run.command, left)
            if self._make(run, unfinished):
                self.write_page()
            made += unfinished

    def _make(self, run: Run, unfinished: bool) -> bool:
        """Make one run, or record why it failed; return whether the page changes."""
        evaluated, why = False, None
        try:
            if unfinished:
                write_sample_of(self.suite, run)
                self._refuse_other_data(run)
                resume = (run.folder / "config.json").exists()
                train(dataclasses.replace(run.config, resume=resume), self.console)
            if run.folder.exists() and (tuning := self.suite.tuned.get((run.dataset, run.variant))):
                write_tuning(run, tuning)
            if run.variant in self.suite.variants and run.folder.exists():
                try:
                    evaluated = evaluate_if_missing(run.folder, self.flags.data_dir)
                except UserError as error:  # if its checkpoint is lost, it stays as it is
                    log.info("%s is not evaluated under other protocols: %s", run.name, error)
        except (Interrupted, Stopped):
            raise
        except BusyError as busy:
            log.info("%s", busy)
            return False
        except Exception as error:  # a run's own, whatever it is: the others go on
            why = reason_of(error)
        news = unfinished or evaluated or why != self.results.failures.get(run.name)
        write_failure(run, why)
        self.results.failures.pop(run.name, None)  # packed again where there is one
        return news

    def _refuse_other_data(self, run: Run) -> None:
        """Raise ``UserError``, before hours of training, if the others are on other data."""
        others = [one for one in self.runs if one.dataset == run.dataset]
        for name, other in self.results.finished(others, {})[0].items():
            dataset, _ = read_data(resolved(run.config))
            theirs, here = other.results["dataset"]["sha256"], dataset.fingerprint["sha256"]
            if theirs != here:
                raise UserError(
                    f"{name} was made on other data (sha256 {theirs[:12]}, here {here[:12]}); give "
                    "--data-dir the folder of its files, or name another --out"
                )
            return  # the others are on the same data
