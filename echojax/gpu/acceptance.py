"""The acceptance of the GPU path: checked, timed and trained with, one file about all of it."""

import os
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console

from echojax.gpu.model_checks import model_checks
from echojax.gpu.record import Record, Row
from echojax.gpu.rehearsal import kernels
from echojax.gpu.scan_checks import scan_checks
from echojax.gpu.scan_timings import direction_timings, rivals, scan_timings
from echojax.gpu.summary import failures, print_summary
from echojax.gpu.training_runs import dataset_in, training_runs
from echojax.scan_comparison.roofline import Roofline, measure_roofline
from echojax.signals import Interrupted, deferred_interrupts

_CHECKS_AT_ONCE = 8  # most of a check is compilation
# Seconds after the start behind which a section begins nothing more; all of it is to take about
# nine minutes.
_UNTIL = {"checks": 180, "model": 230, "timings": 400, "directions": 425, "training": 480}


@dataclass(frozen=True)
class Flags:
    """Check, time and use the GPU scan on this machine's GPU; leave one JSON file.

    Exit code 1 where a check failed, 2 where nothing could be run.
    """

    out: Path | None = None
    """The file (benchmarks/gpu-DATE.json; runs/gpu-rehearsal-DATE-TIME.json with --rehearse)."""
    data_dir: Path | None = None
    """Folder that holds ml-1m or ml-100k, to train on it too."""
    rehearse: bool = False
    """Run everything on tiny sizes with the kernels interpreted, on any machine."""


def accept(flags: Flags, console: Console) -> bool:
    """Run the command; return whether nothing failed.

    Raises:
        UserError: there is no GPU, or a flag is of no use.
        Interrupted: by SIGINT or SIGTERM; what there is is in the file.
    """
    dataset_in(flags.data_dir)
    if rivals():  # PyTorch needs memory of the same GPU
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    with kernels(rehearse=flags.rehearse), deferred_interrupts() as interrupts:
        record = Record(
            flags.out or _default_path(rehearse=flags.rehearse), _command(flags), rivals(),
            rehearsal=flags.rehearse, console=console, interrupts=interrupts,
        )  # fmt: skip
        if flags.rehearse:
            record.say("rehearsal: tiny sizes, kernels interpreted; no figure means anything")
        try:
            _run_sections(record, flags)
        except Interrupted as stop:
            record.write()
            line = f"interrupted; what there is is in {record.path}"
            raise Interrupted(line, stop.code - 128) from None
    print_summary(record.document, console)
    record.say(f"results: {record.path}")
    return not failures(record.document)


def _run_sections(record: Record, flags: Flags) -> None:
    """Run all sections; each needs the one before it at most for its figures."""
    rehearse = flags.rehearse

    def section(name: str, tasks: Any, at_once: int = 1) -> list[Row]:
        until = None if rehearse else _UNTIL.get(name)
        return record.section(name, tasks, until, at_once=at_once)

    section("checks", scan_checks(rehearse=rehearse), _CHECKS_AT_ONCE)
    section("model", model_checks(rehearse=rehearse))
    seen = section("roofline", iter([("copies, exponentials", lambda: _roofline(cpu=rehearse))]))
    roofline = None
    if seen[0]["status"] == "measured":
        roofline = Roofline(*(seen[0][name] for name in Roofline._fields))
    section("timings", scan_timings(roofline, record.now, rehearse=rehearse))
    section("directions", direction_timings(record.now, rehearse=rehearse))
    section("training", training_runs(flags.data_dir, record.now, rehearse=rehearse))
    record.document["passed"] = not failures(record.document)
    record.finish()


def _roofline(*, cpu: bool) -> Row:
    seen = measure_roofline(cpu)
    note = f"{seen.bytes_per_second:.3g} bytes/s, {seen.exps_per_second:.3g} exponentials/s"
    return {"status": "measured", "note": note, **seen._asdict()}


def _default_path(*, rehearse: bool) -> Path:
    if rehearse:
        return Path("runs") / time.strftime("gpu-rehearsal-%Y%m%d-%H%M%S.json")
    return Path("benchmarks") / f"gpu-{date.today().isoformat()}.json"


def _command(flags: Flags) -> str:
    words = ["python experiments/gpu_acceptance.py"]
    words += ["--rehearse"] if flags.rehearse else []
    words += ["--data-dir DIR"] if flags.data_dir is not None else []
    return " ".join(words)
