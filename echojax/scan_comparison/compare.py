"""The whole comparison: measured problem by problem, kept after each, drawn at the end."""

import os
from collections.abc import Mapping
from pathlib import Path

import jax
from rich.console import Console

from echojax.files import write_atomically
from echojax.machine import describe
from echojax.measured_folder import default_folder
from echojax.scan_comparison.measure import Builder, measure
from echojax.scan_comparison.programs import scan_program
from echojax.scan_comparison.progress import Display
from echojax.scan_comparison.record import (
    Results,
    new_results,
    problems_of,
    read_unfinished,
    rows_of,
    write_results,
)
from echojax.scan_comparison.roofline import Roofline, measure_roofline
from echojax.scan_comparison.settings import Flags, Settings, command, resolved
from echojax.scan_comparison.table import terminal_table
from echojax.scan_comparison.torch_scans import torch_program, torch_scans
from echojax.signals import Interrupted, Interrupts, deferred_interrupts
from selective_scan import implementations


def compare(flags: Flags, console: Console) -> None:
    """Run the command.

    Raises:
        UserError: a flag is of no use, or the folder holds something else.
        Interrupted: by SIGINT or SIGTERM; everything measured so far is in the folder.
    """
    rivals = torch_scans() if flags.against == "torch" else []
    if rivals:  # PyTorch needs memory of the same GPU
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    jax.config.update("jax_enable_compilation_cache", False)  # compile times are measured
    cpu = jax.default_backend() == "cpu"
    here = implementations()
    settings = resolved(flags, here, rivals, cpu)
    folder, machine = flags.out or default_folder("scans"), describe(rivals)
    results = read_unfinished(folder, settings, machine)
    if results is None:
        not_here = {name: reason for name, reason in here.items() if reason is not None}
        results = new_results(command(flags), settings, machine, not_here)
    builders: dict[str, Builder] = {
        name: torch_program if name in rivals else scan_program for name in settings.implementations
    }
    display = Display(console)
    with deferred_interrupts() as interrupts:
        try:
            _measure_missing(results, settings, builders, folder, display, interrupts, cpu)
        except Interrupted as stop:
            _write_page(folder, results)
            again = f"run the same command with --out {folder} to go on"
            raise Interrupted(f"interrupted; {again}", stop.code - 128) from None
        _write_page(folder, results)
    display.say(f"results: {folder / 'results.json'}")
    display.say(f"page:    {folder / 'page.html'}")


def _measure_missing(
    results: Results,
    settings: Settings,
    builders: Mapping[str, Builder],
    folder: Path,
    display: Display,
    interrupts: Interrupts,
    cpu: bool,
) -> None:
    """Measure the problems that have no rows yet; write the results after each."""

    def now(text: str) -> None:
        if interrupts.signum is not None:
            raise Interrupted("", interrupts.signum)
        display.step(f"{title}: {text}")

    problems = [(shape, dtype) for shape in settings.shapes for dtype in settings.dtypes]
    done = problems_of(results)
    title = "roofline"
    if done:
        display.say(f"{len(done)} of {len(problems)} sizes are in {folder} already")
        for shape, dtype in done:
            display.show(terminal_table(f"{shape}  {dtype}", rows_of(results, shape, dtype)))
    with display.problems(len(problems), len(done)):
        if results["roofline"] is None:
            now("copy bandwidth, exp rate")
            results["roofline"] = measure_roofline(cpu)._asdict()
            write_results(folder, results)
        roofline = Roofline(**results["roofline"])
        display.say(
            f"roofline: copies {roofline.bytes_per_second / 1e9:,.3g} GB/s, "
            f"{roofline.exps_per_second / 1e9:,.3g} billion exponentials/s"
        )
        for shape, dtype in problems:
            if (shape, dtype) in done:
                continue
            title = f"{shape}  {dtype}"
            display.begin(title, len(problems_of(results)), len(problems))
            results["rows"] += measure(shape, dtype, settings, builders, roofline, now)
            write_results(folder, results)
            display.show(terminal_table(title, rows_of(results, shape, dtype)))
    results["finished"] = True
    write_results(folder, results)


def _write_page(folder: Path, results: Results) -> None:
    """Write the pictures and the page about what there is."""
    # matplotlib: half a second, only at the end.
    from echojax.scan_comparison.page import page
    from echojax.scan_comparison.pictures import pictures

    if not results["rows"]:
        return
    drawn = pictures(results)
    for picture in drawn:
        write_atomically(folder / f"{picture.name}.png", picture.png)
    write_atomically(folder / "page.html", page(results, drawn))
