"""The model that a run's validation chose, out of its run folder."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from flax import nnx

from echojax.config import Config
from echojax.errors import UserError
from echojax.files import read_json
from echojax.models import build_model
from echojax.shapes import misfit
from echojax.training.checkpoints import Checkpoints
from echojax.training.optimizer import make_optimizer
from echojax.training.run_folder import identity
from echojax.training.state import state_shapes


class Best(NamedTuple):
    """A run's best model.

    Attributes:
        graphdef: its structure.
        params: its parameters.
        step: after how many steps they were.
    """

    graphdef: nnx.GraphDef
    params: nnx.State
    step: int


def read_best(
    folder: Path,
    config: Config,
    num_items: int,
    say: Callable[[str], None],
    *,
    step: int | None = None,
) -> Best:
    """Read the checkpoint of a run's best step, or the newest whole one and say why.

    Args:
        folder: the run folder.
        config: the run's resolved configuration, of one seed.
        num_items: V, padding included.
        say: prints one line.
        step: the best one where the caller knows it: no other will do then.

    Raises:
        UserError: there is no checkpoint (of ``step``), or none that can be read.
    """
    missing = UserError(
        f"{folder} has no checkpoint yet; train until the first one is written"
        if step is None
        else f"{folder} has lost the checkpoint of its best step {step}"
    )
    if not (folder / "checkpoints").is_dir():
        raise missing
    graphdef, like = state_shapes(lambda: build_model(config, num_items), make_optimizer(config))
    checkpoints = Checkpoints(folder / "checkpoints", say, identity(folder))
    try:
        best = step or _best_step(folder, checkpoints.newest_progress())
        found = checkpoints.restore(like, first=best or None)
    finally:
        checkpoints.close()
    if found is None or (step is not None and found.lost):
        raise missing
    served = int(found.state.step)
    if found.lost:
        say(f"step {served} is served: the checkpoint of step {best}, the best, is {found.lost}")
    elif not best:
        say(f"step {served} is served: no validation has said yet which step is the best")
    return Best(graphdef, found.state.params, served)


def _best_step(folder: Path, progress: dict[str, Any]) -> int:
    """Return a run's best step, 0 where there is none yet.

    The newest checkpoint names it, or the results where that is no longer the run's last one.
    """
    with suppress(UserError):  # no results yet; damaged ones are no reason to serve nothing
        train: Any = read_json(folder / "results.json").get("train")
        damaged = misfit(train, {"steps": int, "best_step": int})
        if not damaged and train["steps"] > progress.get("steps", 0):
            return int(train["best_step"])
    return int(progress.get("best_step", 0))
