"""The model that a run's validation chose, out of its run folder."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from flax import nnx

from echojax.config import Config
from echojax.errors import UserError
from echojax.models import build_model
from echojax.training.checkpoints import Checkpoints
from echojax.training.optimizer import make_optimizer
from echojax.training.state import state_shapes


class Best(NamedTuple):
    """A run's best model.

    Attributes:
        graphdef: its structure.
        params: the parameters of the best validation.
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
    """Read the checkpoint of a run's best step, or the newest whole one where that is damaged.

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
    checkpoints = Checkpoints(folder / "checkpoints", say)
    try:
        found = checkpoints.restore(like, first=step)
        if found and step is None and int(found[0].step) != found[1]["best_step"]:
            found = checkpoints.restore(like, first=found[1]["best_step"])
    finally:
        checkpoints.close()
    if found is None or step not in (None, int(found[0].step)):
        raise missing
    return Best(graphdef, found[0].params, int(found[0].step))
