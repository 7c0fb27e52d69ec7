"""A finished or running run's best checkpoint, judged again."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from echojax.errors import UserError
from echojax.mesh import one_device
from echojax.models import build_model
from echojax.training.checkpoints import Checkpoints
from echojax.training.optimizer import make_optimizer
from echojax.training.prepared import make_evaluator, read_data
from echojax.training.run_folder import check_same_data, read_own_config
from echojax.training.state import state_shapes


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
    graphdef, like = state_shapes(
        lambda: build_model(config, dataset.num_items), make_optimizer(config)
    )
    checkpoints = Checkpoints(folder / "checkpoints", say)
    newest = checkpoints.restore(like)
    if newest is None:
        raise UserError(f"{folder} has no checkpoint yet; train until the first one is written")
    best_step = newest[1]["best_step"]
    best = checkpoints.restore(like, first=best_step) or newest
    checkpoints.close()
    say(f"step {int(best[0].step)} of {folder}")
    evaluate = make_evaluator(config, dataset, split, graphdef, one_device())
    return evaluate(best[0].params, part)
