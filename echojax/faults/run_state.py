"""What stands in a run folder, seen from outside."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orbax.checkpoint as ocp

from echojax.files import read_json


class End(NamedTuple):
    """Where a run has ended.

    Attributes:
        state: the arrays of its last checkpoint, by name.
        losses: by kind of record and step.
        scores: metrics of the best parameters on each part.
    """

    state: dict[str, np.ndarray]
    losses: dict[tuple[str, int], float]
    scores: dict[str, Any]


def whole_steps(run: Path) -> list[int]:
    """Return the steps of the checkpoints that were written to their end, in order."""
    return sorted(int(name) for name in _names(run) if name.isdigit())


def newest(run: Path) -> int:
    """Return the newest checkpoint's step; 0 where there is none."""
    return max(whole_steps(run), default=0)


def being_written(run: Path) -> set[str]:
    """Return the temporary names of checkpoints, which orbax renames once they are whole."""
    return {name for name in _names(run) if not name.isdigit()}


def checksums(run: Path) -> dict[int, str]:
    """Return what each readable checkpoint says its arrays' checksum is."""
    found = {}
    for step in whole_steps(run):
        try:
            found[step] = str(read_json(run / f"checkpoints/{step}/meta/metadata")["sha256"])
        except Exception:  # damaged on purpose, or half deleted
            continue
    return found


def read_end(run: Path) -> End:
    """Read where a run has ended."""
    with ocp.StandardCheckpointer() as reader:
        state = reader.restore((run / f"checkpoints/{newest(run)}/state").absolute())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    results = read_json(run / "results.json")
    return End(
        state={name: np.asarray(array) for name, array in state.items()},
        losses={(line["kind"], line["step"]): line["loss"] for line in lines},
        scores={part: results[part] for part in ("valid", "test")},
    )


def _names(run: Path) -> list[str]:
    try:
        return [path.name for path in (run / "checkpoints").iterdir()]
    except FileNotFoundError:
        return []
