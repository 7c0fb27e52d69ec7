"""Give every reader of files inputs that are nearly right: python -m tests.fuzzing.

Each input must end in a parse or in one line; what fails is kept.
"""

import random
import resource
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path

import jax
from rich.console import Console
from rich.table import Table

from echojax.command_line import Terminal, parse
from echojax.errors import UserError, exit_on_user_error
from echojax.files import write_json
from echojax.machine import cores, processor, versions
from echojax.training.results import PACKAGES
from tests.fuzzing.guard import INPUT_BYTES, INPUT_SECONDS, attempt, limits
from tests.fuzzing.targets import all_targets


@dataclass(frozen=True)
class Flags:
    """Give every reader of files inputs that are nearly right: a parse, or one line."""

    inputs: int = 100_000
    """How many, over all readers."""
    out: Path = Path("benchmarks/results")
    """Folder for fuzz-readers.json."""
    failures: Path = Path("runs/fuzzing-failures")
    """Folder for the inputs that failed."""
    seed: int = 0
    """Chooses the changes."""
    only: str = ""
    """Readers whose names hold this."""


@dataclass
class Tally:
    """What came of a reader's inputs."""

    inputs: int = 0
    parsed: int = 0
    refused: int = 0
    failed: int = 0
    slowest_seconds: float = 0.0
    peak_growth_bytes: int = 0  # how much the process's peak rose while this reader ran
    failures: list[str] = field(default_factory=list)


def fuzz(flags: Flags, console: Console) -> bool:
    """Fuzz, and write a report; return whether no reader failed."""
    jax.config.update("jax_platforms", "cpu")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name, limits():
        folder = Path(name)
        targets = all_targets(folder)
        each = flags.inputs / sum(target.share for target in targets.values())
        tallies = {
            name: _try_all(name, target, round(each * target.share), folder / "run", flags)
            for name, target in targets.items()
            if flags.only in name
        }
    if not tallies:
        raise UserError(f"--only {flags.only}: no reader has that in its name")
    counts = ("inputs", "parsed", "refused", "failed")
    table = Table("reader", *counts, "slowest ms", "peak + MiB")
    for name, tally in tallies.items():
        slowest, peak = 1000 * tally.slowest_seconds, tally.peak_growth_bytes / 2**20
        numbers = [str(getattr(tally, count)) for count in counts]
        table.add_row(name, *numbers, f"{slowest:.0f}", f"{peak:.0f}")
    console.print(table)
    for name, tally in tallies.items():
        for failure in tally.failures[:10]:
            console.print(f"{name}: {failure}", soft_wrap=True)
    total = {count: sum(getattr(tally, count) for tally in tallies.values()) for count in counts}
    report = {
        "command": f"python -m tests.fuzzing --inputs {flags.inputs} --seed {flags.seed}",
        "date": date.today().isoformat(),
        "machine": {"processor": processor(), "cores": cores()},
        "versions": versions(PACKAGES),
        "limits": {"seconds_an_input": INPUT_SECONDS, "bytes": INPUT_BYTES},
        "summary": total
        | {
            "slowest_seconds": max(tally.slowest_seconds for tally in tallies.values()),
            "peak_bytes": _peak_bytes(),
            "seconds": round(time.monotonic() - began, 1),
        },
        "readers": {name: asdict(tally) for name, tally in tallies.items()},
    }
    flags.out.mkdir(parents=True, exist_ok=True)
    write_json(flags.out / "fuzz-readers.json", report)
    console.print(f"report: {flags.out / 'fuzz-readers.json'}", soft_wrap=True)
    return not total["failed"]


def _try_all(name, target, count, folder, flags):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    tally, before = Tally(), _peak_bytes()
    for read in target.inputs(count, folder, random.Random(f"{flags.seed} {name}")):
        kind, seconds, error = attempt(read)
        tally.inputs += 1
        setattr(tally, kind, getattr(tally, kind) + 1)
        tally.slowest_seconds = max(tally.slowest_seconds, seconds)
        if kind == "failed":
            kept = flags.failures / f"{name.replace('/', '_')}-{tally.inputs}"
            shutil.copytree(folder, kept, dirs_exist_ok=True)
            tally.failures.append(f"input {tally.inputs}: {error}")
    tally.peak_growth_bytes = _peak_bytes() - before
    return tally


def _peak_bytes():
    """Return the most memory that this process has held."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    with exit_on_user_error():
        if not fuzz(parse(Flags, args=sys.argv[1:]), Terminal(highlight=False)):
            raise SystemExit(1)


if __name__ == "__main__":
    main()
