"""Fuzz every reader, count what came of each input, write a report."""

import logging
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import jax
from rich.console import Console

from echojax.errors import UserError
from echojax.files import write_json
from echojax.fuzzing.checkpoint_target import damaged, save_one
from echojax.fuzzing.guard import attempt, limits, peak_bytes
from echojax.fuzzing.tally import Tally, report, table, words
from echojax.fuzzing.target import Target
from echojax.fuzzing.targets import all_targets

Input = Callable[[], object]
_CHECKPOINT_SHARE = 0.5  # of another reader's inputs; each takes 50 times as long


@dataclass(frozen=True)
class Flags:
    """Give every reader of files inputs that are nearly right: a parse, or one line."""

    inputs: int = 100_000
    """How many, over all readers."""
    out: Path = Path("runs/fuzz-readers")
    """Folder for fuzz-readers.json, and for the inputs that failed."""
    seed: int = 0
    """Chooses the changes."""
    only: str | None = None
    """Readers whose names hold this."""


def fuzz(flags: Flags, console: Console) -> bool:
    """Fuzz; return whether no reader failed.

    Raises:
        UserError: there is no such reader.
    """
    jax.config.update("jax_platforms", "cpu")
    began, tallies = time.monotonic(), dict[str, Tally]()
    with _scratch() as folder, limits(), _silence():
        for name, inputs in _all_inputs(flags, folder):
            tallies[name] = _try_all(name, inputs, folder, flags.out)
            console.print(
                f"{name}: {words(tallies[name])}", highlight=False, soft_wrap=True, markup=False
            )
    if not tallies:
        raise UserError(f"--only {flags.only}: no reader has that in its name")
    flags.out.mkdir(parents=True, exist_ok=True)
    path = flags.out / "fuzz-readers.json"
    command = f"python experiments/fuzz_readers.py --inputs {flags.inputs} --seed {flags.seed}"
    write_json(path, report(command, tallies, time.monotonic() - began))
    console.print(table(tallies))
    console.print(f"report: {path}", highlight=False, soft_wrap=True)
    return not any(tally.failed for tally in tallies.values())


@contextmanager
def _silence() -> Iterator[None]:
    """Keep orbax from saying of damage what it says, a thousand times."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def _scratch() -> Iterator[Path]:
    """Return a folder, in memory where there is one."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def _all_inputs(flags: Flags, folder: Path) -> Iterator[tuple[str, Iterator[Input]]]:
    """Yield each reader's name with what reads its inputs, one after the other."""
    targets = all_targets(folder)
    whole = sum(target.share for target in targets.values()) + _CHECKPOINT_SHARE
    each = flags.inputs / whole
    wanted = flags.only or ""
    for name, target in targets.items():
        if wanted in name:
            rng = random.Random(f"{flags.seed} {name}")
            yield name, _inputs(target, round(each * target.share), folder / "run", rng)
    if wanted in "checkpoints":
        rng, saved = random.Random(f"{flags.seed} checkpoints"), save_one(folder / "saved")
        count = round(each * _CHECKPOINT_SHARE)
        yield "checkpoints", (damaged(saved, folder / "run", rng) for _ in range(count))


def _inputs(target: Target, count: int, folder: Path, rng: random.Random) -> Iterator[Input]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in target.others:
        (folder / name).write_bytes(content)
    path = folder / target.file
    for number in range(count):
        content = target.valid[0] if number == 0 else target.mutate(rng.choice(target.valid), rng)
        path.write_bytes(content)
        yield lambda: target.read(folder)


def _try_all(name: str, inputs: Iterator[Input], folder: Path, out: Path) -> Tally:
    tally, before = Tally(), peak_bytes()
    for read in inputs:
        verdict = attempt(read)
        tally.inputs += 1
        setattr(tally, verdict.kind, getattr(tally, verdict.kind) + 1)
        tally.slowest_seconds = max(tally.slowest_seconds, verdict.seconds)
        if verdict.kind == "failed":
            kept = out / "failures" / f"{name.replace('/', '_')}-{tally.inputs}"
            shutil.copytree(folder / "run", kept, dirs_exist_ok=True)
            tally.failures.append(f"input {tally.inputs}: {verdict.error}")
    tally.peak_growth_bytes = peak_bytes() - before
    return tally
