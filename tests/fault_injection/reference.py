"""The run that nothing disturbs, and how the end of another run differs from its end."""

import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orbax.checkpoint as ocp

from echojax.arrays import load_arrays
from echojax.errors import UserError
from tests.fault_injection.training import (
    CHECKPOINT_EVERY,
    Training,
    ended,
    folders_of_seeds,
    whole_steps,
)

# What results.json says of when, where and how fast.
_NOT_COMPARED = {
    "seconds", "examples_per_second", "input_wait_share", "peak_memory_bytes", "date", "commit",
    "device", "processor", "run_dir", "data_path", "resume", "coordinator",
    "num_processes", "process_id",
}  # fmt: skip
_LATER = 3  # validations after the best one: most faults strike there
_BEFORE = 0.2  # share of the faults that strike before it


class End(NamedTuple):
    """Where a seed's run has ended: steps of its checkpoints, the last one's arrays, its records.

    ``losses`` of metrics.jsonl by kind and step, ``validations`` (NDCG@10) by step, ``results`` by
    path in results.json, ``state`` and ``ranks`` by the name of the array.
    """

    steps: list[int]
    state: dict[str, np.ndarray]
    losses: dict[tuple[str, int], float]
    validations: dict[int, float]
    results: dict[str, Any]
    ranks: dict[str, np.ndarray]

    @property
    def best_step(self) -> int:
        """The step of the first best validation, by metrics.jsonl."""
        return max(self.validations, key=lambda step: (self.validations[step], -step))


def read_ends(run: Path) -> list[End]:
    """Read where each seed of a run has ended."""
    return [_read_end(folder) for folder in folders_of_seeds(run)]


def _read_end(folder: Path) -> End:
    steps = whole_steps(folder)
    with ocp.StandardCheckpointer() as reader:
        state = reader.restore((folder / f"checkpoints/{steps[-1]}/state").absolute())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return End(
        steps=steps,
        state={name: np.asarray(array) for name, array in state.items()},
        losses={(line["kind"], line["step"]): line["loss"] for line in lines},
        validations={line["step"]: line["ndcg@10"] for line in lines if line["kind"] == "valid"},
        results=dict(_values("", json.loads((folder / "results.json").read_bytes()))),
        ranks=load_arrays(folder / "ranks.npz"),
    )


def _values(path: str, value: Any) -> list[tuple[str, Any]]:
    """Return the values of a JSON document by path."""
    if not isinstance(value, dict):
        return [(path[1:], value)]
    inner = ((f"{path}/{name}", one) for name, one in value.items() if name not in _NOT_COMPARED)
    return [pair for name, one in inner for pair in _values(name, one)]


def contradictions(end: End) -> list[str]:
    """Return what is wrong with an end by itself: the best validation's model is evaluated."""
    problems, best, evaluated = [], end.best_step, end.results["train/best_step"]
    if evaluated != best:
        problems.append(f"step {evaluated} is evaluated, but the best validation is of step {best}")
    validation, result = end.validations.get(evaluated), end.results["valid/ndcg@10"]
    if validation != result:
        problems.append(f"validation NDCG@10 of step {evaluated} was {validation}, is {result}")
    if best not in end.steps:
        problems.append(f"the checkpoint of step {best}, the best, is lost")
    return problems


def differences(end: End, undisturbed: End) -> list[str]:
    """Return in which parts an end is not the undisturbed one's to the last bit."""
    problems = []
    for part in ("state", "losses", "validations", "results", "ranks"):
        ours, theirs = getattr(end, part), getattr(undisturbed, part)
        # A signal saves, and logs a loss, at a step where an undisturbed run does not.
        names = theirs.keys() if part == "losses" else ours.keys() | theirs.keys()
        different = [name for name in names if not _same(ours.get(name), theirs.get(name))]
        if different:
            shown = ", ".join(sorted(map(str, different), key=len)[:3])
            problems.append(f"{len(different)} of {part} differ: {shown}")
    return problems


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    return type(a) is type(b) and a == b


def far_losses(end: End, undisturbed: End, until: int, tolerance: float) -> list[str]:
    """Return what is wrong where the losses up to a step may differ in their rounding."""
    for (kind, step), loss in undisturbed.losses.items():
        found = end.losses.get((kind, step), np.inf)
        if step <= until and not abs(found - loss) <= tolerance * abs(loss):
            return [f"the loss of step {step} is {found}, undisturbed {loss}"]
    return []


@dataclass(frozen=True)
class Reference:
    """A run that nothing disturbed: where each seed has ended, and after how many seconds."""

    training: Training
    run: Path
    ends: list[End]
    seconds: float

    @property
    def best(self) -> int:
        """The step by which every seed has had its best validation."""
        return max(end.best_step for end in self.ends)

    @property
    def last(self) -> int:
        """The step that ends training."""
        return max(self.ends[0].validations)

    @property
    def steps(self) -> list[int]:
        """The steps of all checkpoints that were written, in order."""
        often = range(CHECKPOINT_EVERY, self.last, CHECKPOINT_EVERY)
        return sorted({*often, *self.ends[0].validations})

    def draw(self, rng: random.Random, spare: int = 1) -> int:
        """Return a checkpoint's step, mostly after the best; ``spare`` more follow in training."""
        steps = self.steps[: -1 - spare]
        later = [step for step in steps if step > self.best]
        return rng.choice(steps if rng.random() < _BEFORE else later)


def train_reference(training: Training, run: Path) -> Reference:
    """Train; raise UserError where it fails, or is best too late for faults to strike after it."""
    began = time.monotonic()
    end = ended(training.start(run))
    seconds = time.monotonic() - began
    if end.code:
        raise UserError(f"the undisturbed run fails: {end.error[-300:]}")
    found = Reference(training, run, read_ends(run), seconds)
    later = min(sum(step > one.best_step for step in one.validations) for one in found.ends)
    if later < _LATER:
        raise UserError(
            f"the undisturbed run is best {later} validations before its end, and {_LATER} are "
            "needed for faults after the best step: choose other SIZES in "
            "tests/fault_injection/training.py"
        )
    return found
