"""Where a run has ended, and how that differs from where another one has."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orbax.checkpoint as ocp

from echojax.arrays import load_arrays
from echojax.faults.run_folder import of_seeds, whole_steps
from echojax.files import read_json

# Of results.json what says when, where and how fast.
_ASIDE = {
    "seconds", "examples_per_second", "input_wait_share", "peak_memory_bytes", "date", "commit",
    "device", "processor", "run_dir", "data_path", "resume", "coordinator",
    "num_processes", "process_id",
}  # fmt: skip


class End(NamedTuple):
    """Where a seed's run has ended.

    Attributes:
        steps: of the checkpoints that are there.
        state: the arrays of the last one, by name.
        losses: of metrics.jsonl, by kind of record and step.
        validations: NDCG@10 by step.
        results: values of results.json by path, without times and places.
        ranks: the arrays of ranks.npz.
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
    return [_read_end(folder) for folder in of_seeds(run)]


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
        results=dict(_values("", read_json(folder / "results.json"))),
        ranks=load_arrays(folder / "ranks.npz"),
    )


def _values(path: str, value: Any) -> list[tuple[str, Any]]:
    """Return the values of a JSON document by path."""
    if not isinstance(value, dict):
        return [(path[1:], value)]
    inner = ((f"{path}/{name}", one) for name, one in value.items() if name not in _ASIDE)
    return [pair for name, one in inner for pair in _values(name, one)]


def misjudged(end: End) -> list[str]:
    """Return what is wrong with an end by itself: the best validation's model is the judged one."""
    problems, best, judged = [], end.best_step, end.results["train/best_step"]
    if judged != best:
        problems.append(f"step {judged} is judged, but the best validation is of step {best}")
    validation, result = end.validations.get(judged), end.results["valid/ndcg@10"]
    if validation != result:
        problems.append(f"validation NDCG@10 of step {judged} was {validation}, is {result}")
    if best not in end.steps:
        problems.append(f"the checkpoint of step {best}, the best, is lost")
    return problems


def differences(end: End, undisturbed: End) -> list[str]:
    """Return in which parts an end is not the undisturbed one's to the last bit."""
    problems = []
    if far := _apart(end.state, undisturbed.state):
        problems.append(f"the last state differs: {', '.join(far[:3])}")
    # A signal saves, and writes a line, at a step where an undisturbed run does not.
    if not undisturbed.losses.items() <= end.losses.items():
        problems.append("losses of metrics.jsonl differ")
    if undisturbed.validations != end.validations:
        problems.append("validations of metrics.jsonl differ")
    if other := [
        f"{name} {end.results.get(name)}, undisturbed {undisturbed.results.get(name)}"
        for name in sorted(end.results.keys() | undisturbed.results.keys())
        if end.results.get(name) != undisturbed.results.get(name)
    ]:
        # The single numbers first: a part's tables say the same at length.
        other.sort(key=len)
        problems.append(f"{len(other)} values of results.json differ: {'; '.join(other[:3])}")
    if far := _apart(end.ranks, undisturbed.ranks):
        problems.append(f"ranks.npz differs: {', '.join(far)}")
    return problems


def far_losses(end: End, undisturbed: End, until: int, tolerance: float) -> list[str]:
    """Return what is wrong where the losses up to a step may differ in their rounding."""
    for (kind, step), loss in undisturbed.losses.items():
        if step <= until:
            found = end.losses.get((kind, step), np.inf)
            if not abs(found - loss) <= tolerance * abs(loss):
                return [f"the loss of step {step} is {found}, undisturbed {loss}"]
    return []


def _apart(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> list[str]:
    """Return the names of arrays that are not the same bits in both."""
    none = np.empty(0, np.void)
    return [
        name
        for name in sorted(ours.keys() | theirs.keys())
        for a, b in [(ours.get(name, none), theirs.get(name, none))]
        if (a.dtype, a.shape) != (b.dtype, b.shape) or a.tobytes() != b.tobytes()
    ]
