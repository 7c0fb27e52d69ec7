"""A finished or running run's best checkpoint, judged again."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from echojax.mesh import one_device
from echojax.training.best import read_best
from echojax.training.prepared import make_evaluator, read_data
from echojax.training.run_folder import check_same_data, read_own_config


def evaluate_run(
    folder: Path,
    part: str,
    *,
    exclude_seen: bool | None = None,
    data_dir: str | None = None,
    data_path: str | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Return the results of one part as ``summarise`` gives them.

    Args:
        folder: the run folder.
        part: "valid" or "test".
        exclude_seen: overrides the run's.
        data_dir: where the data lies now.
        data_path: where the run's own file lies now.
        say: prints one line.

    Raises:
        UserError: no run, no checkpoint that can be read, or other data than the run's.
    """
    config = read_own_config(folder)
    given: dict[str, Any] = {
        "exclude_seen": exclude_seen,
        "data_dir": data_dir,
        "data_path": data_path,
    }
    config = dataclasses.replace(config, **{k: v for k, v in given.items() if v is not None})
    dataset, split = read_data(config, say)
    check_same_data(folder, dataset)
    best = read_best(folder, config, dataset.num_items, say)
    say(f"step {best.step} of {folder}")
    evaluate = make_evaluator(config, dataset, split, best.graphdef, one_device())
    return evaluate(best.params, part)
