"""The whole benchmark: measured case by case, kept after each, drawn at the end."""

import os
from pathlib import Path

import jax
from rich.console import Console

from echojax.errors import UserError
from echojax.files import write_atomically
from echojax.machine import describe
from echojax.measured_folder import default_folder
from echojax.scan_comparison.progress import Display
from echojax.serving_bench.measure import measure
from echojax.serving_bench.record import (
    Results,
    new_results,
    read_unfinished,
    row_of,
    write_results,
)
from echojax.serving_bench.settings import Flags, Settings, command, resolved
from echojax.serving_bench.tables import milliseconds, tables
from echojax.signals import Interrupted, Interrupts, deferred_interrupts


def run(flags: Flags, console: Console) -> None:
    """Run the command.

    Raises:
        UserError: a flag is of no use, or the folder holds something else.
        Interrupted: by SIGINT or SIGTERM; everything measured so far is in the folder.
    """
    settings = resolved(flags)
    _keep_to(flags.cores)
    jax.config.update("jax_enable_compilation_cache", False)  # compile times are measured
    folder, machine = flags.out or default_folder("serving"), describe([])
    results = read_unfinished(folder, settings, machine)
    if results is None:
        results = new_results(command(flags), settings, machine)
    display = Display(console)
    with deferred_interrupts() as interrupts:
        try:
            _measure_missing(results, settings, folder, display, interrupts)
        except Interrupted as stop:
            again = f"run the same command with --out {folder} to go on"
            raise Interrupted(f"interrupted; {again}", stop.code - 128) from None
        _draw(folder, results)
    for table in tables(results):
        display.show(table)
    display.say(f"results: {folder / 'results.json'}")


def _draw(folder: Path, results: Results) -> None:
    # matplotlib: half a second, only at the end.
    from echojax.serving_bench.picture import cost_against_length

    picture = cost_against_length(results)
    if picture is not None:
        write_atomically(folder / "cost-against-length.png", picture)


def _keep_to(cores: int | None) -> None:
    """Use so many cores alone; XLA counts them when it starts.

    Raises:
        UserError: there are not so many, or this system cannot choose.
    """
    if cores is None:
        return
    if not hasattr(os, "sched_setaffinity"):
        raise UserError("--cores cannot be set on this system; leave it out")
    allowed = sorted(os.sched_getaffinity(0))
    if cores > len(allowed):
        raise UserError(f"--cores {cores}, but this process may use {len(allowed)}")
    os.sched_setaffinity(0, allowed[:cores])


def _measure_missing(
    results: Results, settings: Settings, folder: Path, display: Display, interrupts: Interrupts
) -> None:
    """Measure the cases that have no rows yet; write the results after each."""

    def check() -> None:
        if interrupts.signum is not None:
            raise Interrupted("", interrupts.signum)

    cases = settings.cases()
    missing = [case for case in cases if row_of(results, case) is None]
    if len(missing) < len(cases):
        display.say(f"{len(cases) - len(missing)} of {len(cases)} cases are in {folder} already")
    for number, case in enumerate(missing, len(cases) - len(missing) + 1):
        row = measure(case, settings, check)
        results["cases"].append(row)
        write_results(folder, results)
        if row["status"] == "measured":
            said = f"{milliseconds(row['p50_seconds'])} / {milliseconds(row['p99_seconds'])} ms"
        else:
            said = f"{row['status']}: {row['reason']}"
        display.say(f"[{number}/{len(cases)}] {case}  {said}")
    results["finished"] = True
    write_results(folder, results)
